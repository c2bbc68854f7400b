"""The model store against a reference model: any sequence of changes leaves both in the same state (stateful tests)."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.sampling import sampled
from tests.support.stores import load_active

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flaskml.errors import (
    FlaskmlError,
    ModelNotFound,
    NoActiveVersion,
    NothingToRollBackTo,
    VersionInUse,
    VersionNotFound,
    VersionRejected,
)
from flaskml.store.manifest import current_environment
from flaskml.store.model_store import ModelStore, environment_key
from tests.support.stores import accept, constant, put

pytestmark = pytest.mark.thorough

NAMES = st.sampled_from(["cats", "dogs"])
ALIASES = st.sampled_from(["stable", "next"])
POSITIONS = st.integers(0, 5)
"""The position of a version, counted back from the newest. Some positions hold no version."""


@dataclass
class Model:
    """The expected state of one model. Versions are integers."""

    answers: dict = field(default_factory=dict)
    """The answer of each stored version."""

    accepted: set = field(default_factory=set)
    fresh: set = field(default_factory=set)
    """Versions published too recently to be cleaned."""

    history: list = field(default_factory=list)
    aliases: dict = field(default_factory=dict)
    highest: int = 0

    @property
    def active(self):
        return self.history[-1] if self.history else None

    @property
    def served(self):
        return {*self.aliases.values(), self.active}

    @property
    def former(self):
        """The version that a rollback would activate, or None."""
        others = (version for version in reversed(self.history) if version != self.active)
        return next((version for version in others if version in self.answers), None)

    @property
    def awaited(self):
        """The versions whose publisher may still activate them."""
        return {version for version in self.fresh if version > (self.active or 0)}

    def pick(self, position):
        """Return the version at the position, or a version that does not exist."""
        versions = [*sorted(self.answers, reverse=True), self.highest + 1]
        return versions[position % len(versions)]

    def missing(self, version):
        """Return the error for a version that is not stored, or None."""
        if version in self.answers:
            return None
        return VersionNotFound if self.highest else ModelNotFound

    def refusal(self, version):
        """Return the error that activating the version must raise, or None."""
        return self.missing(version) or (None if version in self.accepted else VersionRejected)


class Machine(RuleBasedStateMachine):
    store_class = ModelStore

    @initialize()
    def start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.models = {"cats": Model(), "dogs": Model()}
        self.published = 0
        self.generations = dict.fromkeys(self.models, 0)
        self.reopen()
        for active in (True, False, True):
            self.publish("cats", accepted=True, active=active)

    def teardown(self):
        try:
            for name, model in self.models.items():
                for version, answer in model.answers.items():
                    self.store.check(name, str(version))
                    assert self.answer(self.store.load(name, str(version))) == answer
        finally:
            self.folder.cleanup()

    @rule()
    def reopen(self):
        self.store = self.store_class(Path(self.folder.name) / "instance")

    @rule(name=NAMES, accepted=st.booleans(), active=st.booleans())
    def publish(self, name, accepted, active):
        model = self.models[name]
        self.published += 1
        model.highest += 1
        version = put(self.store, constant(self.published), name)
        assert version == str(model.highest)
        model.answers[model.highest] = self.published
        model.fresh.add(model.highest)
        if accepted:
            model.accepted.add(model.highest)
            accept(self.store, name, version, active=active)
            if active:
                model.history.append(model.highest)

    @rule(name=NAMES, position=POSITIONS)
    def activate(self, name, position):
        model = self.models[name]
        version = model.pick(position)
        if self.call_succeeds(model.refusal(version), self.store.activate, name, str(version), "by hand"):
            model.history.append(version)

    @rule(name=NAMES)
    def roll_back(self, name):
        model = self.models[name]
        former = model.former
        refusal = model.refusal(former) if former else NothingToRollBackTo if model.answers else ModelNotFound
        if self.call_succeeds(None if model.highest else ModelNotFound, self.store.state, name) and self.call_succeeds(
            refusal,
            lambda: self.store.activate(
                name, self.store.state(name).previous(name, self.store.versions(name)), "rolled back"
            ),
        ):
            model.history.append(former)

    @rule(name=NAMES, alias=ALIASES, position=POSITIONS)
    def alias(self, name, alias, position):
        model = self.models[name]
        version = model.pick(position)
        if self.call_succeeds(model.missing(version), self.store.alias, name, alias, str(version)):
            model.aliases[alias] = version

    @rule(name=NAMES, alias=ALIASES)
    def remove_alias(self, name, alias):
        model = self.models[name]
        if self.call_succeeds(
            None if model.highest else ModelNotFound,
            lambda: self.store.change(name, lambda state: state.without_alias(alias)),
        ):
            model.aliases.pop(alias, None)

    @rule(name=NAMES)
    def hours_pass(self, name):
        for version in self.models[name].answers:
            os.utime(self.store.folder(name, str(version)), (0, 0))
        self.models[name].fresh.clear()

    @rule(name=NAMES, position=POSITIONS)
    def delete(self, name, position):
        model = self.models[name]
        version = model.pick(position)
        refusal = VersionInUse if version in model.answers and version in model.served else None
        if self.call_succeeds(refusal if model.highest else ModelNotFound, self.store.delete, name, str(version)):
            model.answers.pop(version, None)
            model.accepted.discard(version)

    @precondition(lambda self: any(model.answers for model in self.models.values()))
    @rule(name=NAMES, keep=st.integers(1, 3))
    def clean(self, name, keep):
        model = self.models[name]
        if model.answers:
            self.store.clean(name, keep)
            retained = {*sorted(model.answers)[-keep:], *model.served, model.former, *model.awaited}
            model.answers = {version: answer for version, answer in model.answers.items() if version in retained}
            model.accepted &= retained

    @invariant()
    def agree(self):
        if not hasattr(self, "models"):
            return
        assert self.store.names() == [name for name, model in self.models.items() if model.answers]
        for name, model in self.models.items():
            if model.answers:
                assert self.store.versions(name) == [str(version) for version in sorted(model.answers)]
            if model.history:
                self.agree_on_state(name, model)
                assert self.answer(load_active(self.store, name)) == model.answers[model.active]
            else:
                self.call_succeeds(NoActiveVersion, load_active, self.store, name)

    def agree_on_state(self, name, model):
        state = self.store.state(name)
        assert state.active == str(model.active)
        assert [entry.version for entry in state.history] == [str(version) for version in model.history]
        assert state.aliases == {alias: str(version) for alias, version in model.aliases.items()}
        here = environment_key()
        accepted = {version for version, verdicts in state.verdicts.items() if verdicts[here].accepted}
        assert accepted == {str(version) for version in model.accepted}
        assert state.generation >= self.generations[name]
        self.generations[name] = state.generation

    def answer(self, loaded):
        return loaded.estimator.predict([[0.0]])[0]

    def call_succeeds(self, refusal, call, *arguments):
        """Return whether the call succeeds, and assert that it raises `refusal` if that is an error type."""
        try:
            call(*arguments)
        except FlaskmlError as error:
            assert type(error) is refusal, f"{error!r} instead of {refusal}"
            return False
        assert refusal is None, f"{refusal} was not raised"
        return True


@pytest.fixture(autouse=True)
def cached_environment(monkeypatch):
    """Cache the versions of installed packages: reading them at each call would take most of the test's time."""
    environment = current_environment()
    monkeypatch.setattr("flaskml.store.version_folder.current_environment", lambda: environment)


def run(machine, examples, steps, **options):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_any_sequence_of_changes_agrees_with_the_reference():
    run(Machine, 25, 40)


@pytest.mark.gauntlet
def test_many_sequences_of_changes_agree_with_the_reference():
    run(Machine, 250, 40)


class NumberReusingStore(ModelStore):
    """A store with a fault: it reuses the number of a deleted version."""

    def delete(self, name, version):
        super().delete(name, version)
        if self._state_file(name).exists():
            self.change(name, lambda state: state.model_copy(update={"highest": 0}))


class UncheckedStore(ModelStore):
    """A store with a fault: it activates versions that were never accepted."""

    def activate(self, name, version, reason, **_):
        self.manifest(name, version)
        return self.change(name, lambda state: state.with_active(version, reason))


class VolatileStore(ModelStore):
    """A store with a fault: it does not write aliases to disk."""

    def alias(self, name, alias, version):
        self.manifest(name, version)
        return self.state(name).with_alias(alias, version)


class OvercleaningStore(ModelStore):
    """A store with a fault: it deletes the version that a rollback would activate."""

    def clean(self, name, keep):
        needed = self.state(name).served() | set(self.versions(name)[-keep:])
        for version in set(self.versions(name)) - needed:
            self.delete(name, version)


@pytest.mark.parametrize("faulty", sampled([NumberReusingStore, UncheckedStore, VolatileStore, OvercleaningStore], 2))
def test_a_faulty_store_is_detected(faulty):
    machine = type("Machine", (Machine,), {"store_class": faulty})
    with pytest.raises((AssertionError, FlaskmlError)):
        run(machine, 1000, 40, phases=[Phase.generate], print_blob=False)
