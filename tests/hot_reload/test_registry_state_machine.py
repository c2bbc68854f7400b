"""The registry against a small reference: any sequence of changes leaves what a plain description says."""

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

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
PLACES = st.integers(0, 5)
"""Picks a version of those there are, counted back from the newest, and now and then one that is not there."""


@dataclass
class Model:
    """What is promised of one model."""

    answers: dict = field(default_factory=dict)
    """What each stored version answers."""

    accepted: set = field(default_factory=set)
    fresh: set = field(default_factory=set)
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
        """What a rollback returns to, or None."""
        others = (version for version in reversed(self.history) if version != self.active)
        return next((version for version in others if version in self.answers), None)

    @property
    def awaited(self):
        """The versions that their publisher may be about to activate."""
        return {version for version in self.fresh if version > (self.active or 0)}

    def pick(self, place):
        """The version at the place."""
        versions = [*sorted(self.answers, reverse=True), self.highest + 1]
        return versions[place % len(versions)]

    def missing(self, version):
        """Why there is no such version, or None."""
        if version in self.answers:
            return None
        return VersionNotFound if self.highest else ModelNotFound

    def refusal(self, version):
        """Why the version cannot become active, or None."""
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

    @rule(name=NAMES, place=PLACES)
    def activate(self, name, place):
        model = self.models[name]
        version = model.pick(place)
        if self.expect(model.refusal(version), self.store.activate, name, str(version), "by hand"):
            model.history.append(version)

    @rule(name=NAMES)
    def roll_back(self, name):
        model = self.models[name]
        former = model.former
        refusal = model.refusal(former) if former else NothingToRollBackTo if model.answers else ModelNotFound
        if self.expect(None if model.highest else ModelNotFound, self.store.state, name) and self.expect(
            refusal,
            lambda: self.store.activate(
                name, self.store.state(name).previous(name, self.store.versions(name)), "rolled back"
            ),
        ):
            model.history.append(former)

    @rule(name=NAMES, alias=ALIASES, place=PLACES)
    def alias(self, name, alias, place):
        model = self.models[name]
        version = model.pick(place)
        if self.expect(model.missing(version), self.store.alias, name, alias, str(version)):
            model.aliases[alias] = version

    @rule(name=NAMES, alias=ALIASES)
    def remove_alias(self, name, alias):
        model = self.models[name]
        if self.expect(
            None if model.highest else ModelNotFound,
            lambda: self.store.change(name, lambda state: state.remove_alias(alias)),
        ):
            model.aliases.pop(alias, None)

    @rule(name=NAMES)
    def hours_pass(self, name):
        for version in self.models[name].answers:
            os.utime(self.store.folder(name, str(version)), (0, 0))
        self.models[name].fresh.clear()

    @rule(name=NAMES, place=PLACES)
    def delete(self, name, place):
        model = self.models[name]
        version = model.pick(place)
        refusal = VersionInUse if version in model.answers and version in model.served else None
        if self.expect(refusal if model.highest else ModelNotFound, self.store.delete, name, str(version)):
            model.answers.pop(version, None)
            model.accepted.discard(version)

    @precondition(lambda self: any(model.answers for model in self.models.values()))
    @rule(name=NAMES, keep=st.integers(1, 3))
    def clean(self, name, keep):
        model = self.models[name]
        if model.answers:
            self.store.clean(name, keep)
            kept = {*sorted(model.answers)[-keep:], *model.served, model.former, *model.awaited}
            model.answers = {version: answer for version, answer in model.answers.items() if version in kept}
            model.accepted &= kept

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
                self.expect(NoActiveVersion, load_active, self.store, name)

    def agree_on_state(self, name, model):
        state = self.store.state(name)
        assert state.active == str(model.active)
        assert [entry.version for entry in state.history] == [str(version) for version in model.history]
        assert state.aliases == {alias: str(version) for alias, version in model.aliases.items()}
        here = environment_key()
        judged = {version for version, verdicts in state.verdicts.items() if verdicts[here].accepted}
        assert judged == {str(version) for version in model.accepted}
        assert state.generation >= self.generations[name]
        self.generations[name] = state.generation

    def answer(self, bundle):
        return bundle.estimator.predict([[0.0]])[0]

    def expect(self, refusal, call, *arguments):
        """Makes the call and tells whether it was done; it must be refused with `refusal`, and only then."""
        try:
            call(*arguments)
        except FlaskmlError as error:
            assert type(error) is refusal, f"{error!r} instead of {refusal}"
            return False
        assert refusal is None, f"not refused with {refusal}"
        return True


@pytest.fixture(autouse=True)
def asked_once(monkeypatch):
    """What is installed is read from files each time it is asked for, which would take most of the time here."""
    found = current_environment()
    monkeypatch.setattr("flaskml.store.version_folder.current_environment", lambda: found)


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


def test_any_sequence_of_changes():
    run(Machine, 25, 40)


@pytest.mark.gauntlet
def test_ten_times_as_many_and_longer_sequences():
    run(Machine, 250, 40)


class Reusing(ModelStore):
    """Gives out the number of a deleted version again."""

    def delete(self, name, version):
        super().delete(name, version)
        if self._state_file(name).exists():
            self.change(name, lambda state: state.model_copy(update={"highest": 0}))


class Careless(ModelStore):
    """Activates what was never accepted."""

    def activate(self, name, version, reason, **_):
        self.manifest(name, version)
        return self.change(name, lambda state: state.activate(version, reason))


class Forgetful(ModelStore):
    """Keeps changes in memory alone."""

    def alias(self, name, alias, version):
        self.manifest(name, version)
        return self.state(name).alias(alias, version)


class Tidy(ModelStore):
    """Cleans away what a rollback returns to."""

    def clean(self, name, keep):
        needed = self.state(name).served() | set(self.versions(name)[-keep:])
        for version in set(self.versions(name)) - needed:
            self.delete(name, version)


@pytest.mark.parametrize("faulty", [Reusing, Careless, Forgetful, Tidy])
def test_a_store_with_a_fault_is_found_out(faulty):
    machine = type("Machine", (Machine,), {"store_class": faulty})
    with pytest.raises((AssertionError, FlaskmlError)):
        run(machine, 1000, 40, phases=[Phase.generate], print_blob=False)
