"""The state of a model: active version, activation history, aliases and trial verdicts.

A state is immutable: the `with_` and `without_` methods return a new one. `ModelStore` reads and writes it as one JSON
document, which is replaced atomically.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from pydantic import BaseModel, ConfigDict

from flaskml.errors import NothingToRollBackTo, VersionInUse
from flaskml.store.formats import STATE_FORMAT, StateFormat


class Activation(BaseModel):
    """One change of the active version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    at: str
    reason: str


class TrialVerdict(BaseModel):
    """The result of the trial of a version in one environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    accepted: bool
    reason: str
    """A sentence without values of rows: the reason of a rejection, or the check that an accepted version passed."""

    at: str
    mapped: bool = False
    """True if the trial used memory-mapped, read-only arrays; then processes share the memory of the model file."""

    transient: bool = False
    """True if the next trial may end differently, for example after a module is installed. It is not stored then."""

    limits: Mapping[str, float] | None = None
    """The limits of time and memory during the trial, if recorded; under other limits, a rejection is tried again."""

    row: int | None = None
    """The index of the first golden row with a different answer."""

    expected: Any = None
    """The answer in training."""

    answered: Any = None
    """The answer in the trial."""


class ModelState(BaseModel):
    """The state of one model. Versions are numbers written as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: StateFormat
    """The number of the on-disk format."""

    generation: int
    """The number of changes so far, for people."""

    revision: str
    """A random text, unique to this state. `generation` can repeat: it restarts after the removal of a model."""

    highest: int
    """The largest version number at the last deletion. Numbers up to it are not assigned again."""

    active: str | None
    history: tuple[Activation, ...]
    """Every activation, oldest first."""

    aliases: Mapping[str, str]
    """Aliases, such as `stable`, with the version of each."""

    verdicts: Mapping[str, Mapping[str, TrialVerdict]]
    """Trial verdicts by version, then by environment (see `environment_key`)."""

    def with_active(self, version: str, reason: str) -> ModelState:
        """Return the state in which `version` is active, with one more entry in the history."""
        entry = Activation(version=version, at=utc_now(), reason=reason)
        return self._with_changes(active=version, history=(*self.history, entry))

    def previous(self, name: str, stored: Collection[str]) -> str:
        """Return the target of a rollback: the last stored version that was active before the active one.

        Raises `NothingToRollBackTo`.
        """
        if (version := self._previous_or_none(stored)) is None:
            raise NothingToRollBackTo(name)
        return version

    def _previous_or_none(self, stored: Collection[str]) -> str | None:
        versions = (entry.version for entry in reversed(self.history) if entry.version != self.active)
        return next((version for version in versions if version in stored), None)

    def with_alias(self, alias: str, version: str) -> ModelState:
        """Return the state in which `alias` names `version`."""
        return self._with_changes(aliases={**self.aliases, alias: version})

    def without_alias(self, alias: str) -> ModelState:
        """Return the state without `alias`; the same state if there is no such alias."""
        aliases = {key: version for key, version in self.aliases.items() if key != alias}
        return self._with_changes(aliases=aliases) if aliases != self.aliases else self

    def with_verdict(self, version: str, environment: str, verdict: TrialVerdict) -> ModelState:
        """Return the state with the verdict of the trial of `version` in `environment`."""
        verdicts = {**self.verdicts.get(version, {}), environment: verdict}
        return self._with_changes(verdicts={**self.verdicts, version: verdicts})

    def without_version(self, version: str, name: str, highest: int) -> ModelState:
        """Return the state after the deletion of `version`, in which numbers up to `highest` are used up.

        Raises `VersionInUse` if the version is active or has an alias.
        """
        if version == self.active or version in self.aliases.values():
            raise VersionInUse(name, version)
        verdicts = {key: value for key, value in self.verdicts.items() if key != version}
        return self._with_changes(verdicts=verdicts, highest=max(self.highest, highest))

    def verdict(self, version: str, environment: str) -> TrialVerdict | None:
        """Return the verdict of the trial of `version` in `environment`; None if there was no trial."""
        return self.verdicts.get(version, {}).get(environment)

    def may_become_active(self, version: str) -> bool:
        """Return whether the publisher of `version` may still activate it.

        This is so if the version is newer than the active one and no trial has rejected it.
        """
        verdicts = self.verdicts.get(version, {}).values()
        is_newer = self.active is None or int(version) > int(self.active)
        return is_newer and all(verdict.accepted for verdict in verdicts)

    def served(self) -> set[str]:
        """Return the versions that answer requests: the active version and every version with an alias."""
        return {*self.aliases.values(), *([self.active] if self.active else [])}

    def retained(self, stored: Collection[str]) -> set[str]:
        """Return the versions that `ModelStore.clean` retains: those served, and the target of a rollback."""
        previous = self._previous_or_none(stored)
        return self.served() | ({previous} if previous else set())

    def _with_changes(self, **changes: Any) -> ModelState:
        return self.model_copy(update={**changes, "generation": self.generation + 1, "revision": token_hex(8)})


EMPTY_STATE = ModelState(
    format=STATE_FORMAT, generation=0, revision="", highest=0, active=None, history=(), aliases={}, verdicts={}
)
"""The state of a model before its first change."""


def utc_now() -> str:
    """Return the current time, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
