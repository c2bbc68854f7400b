"""What changes about a model, and how: one document, replaced whole.

Every method of `ModelState` returns the state after one change; nothing here reads or writes.
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
    """What the trial of a version said in one environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    accepted: bool
    reason: str
    """Why not, as a sentence without values; what was checked if accepted."""

    at: str
    mapped: bool = False
    """Whether it answered with its arrays mapped from the file, read-only, so that processes can share them."""

    transient: bool = False
    """Whether it may be otherwise at the next try, as where a module was missing; then it is not kept."""

    limits: Mapping[str, float] | None = None
    """What the trial might take, where that was measured: a rejection holds until it is allowed otherwise."""

    row: int | None = None
    """The golden row that was answered otherwise."""

    expected: Any = None
    """What the estimator answered where it was trained."""

    answered: Any = None
    """What it answered in the trial."""


class ModelState(BaseModel):
    """The state of one model. All versions are numbers written as strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: StateFormat
    """The number of the format it was written in."""

    generation: int
    """Counts the changes, for people."""

    revision: str
    """Differs for every state there ever was: numbers come again where a model is removed and trained anew."""

    highest: int
    """The largest version number ever given out: a deleted one is not used again."""

    active: str | None
    history: tuple[Activation, ...]
    """Every activation, oldest first."""

    aliases: Mapping[str, str]
    """Names for versions, such as `stable`."""

    verdicts: Mapping[str, Mapping[str, TrialVerdict]]
    """What trials said, by version and by environment."""

    def activate(self, version: str, reason: str) -> ModelState:
        """`version` is the active one."""
        entry = Activation(version=version, at=utc_now(), reason=reason)
        return self._after(active=version, history=(*self.history, entry))

    def previous(self, name: str, stored: Collection[str]) -> str:
        """The version that was active before the present one, of those still stored. Raises `NothingToRollBackTo`."""
        if (version := self._former(stored)) is None:
            raise NothingToRollBackTo(name)
        return version

    def _former(self, stored: Collection[str]) -> str | None:
        others = (entry.version for entry in reversed(self.history) if entry.version != self.active)
        return next((version for version in others if version in stored), None)

    def alias(self, alias: str, version: str) -> ModelState:
        """`alias` means `version`."""
        return self._after(aliases={**self.aliases, alias: version})

    def remove_alias(self, alias: str) -> ModelState:
        """`alias` means nothing."""
        left = {key: version for key, version in self.aliases.items() if key != alias}
        return self._after(aliases=left) if left != self.aliases else self

    def judge(self, version: str, environment: str, verdict: TrialVerdict) -> ModelState:
        """The trial of `version` in `environment` said `verdict`."""
        judged = {**self.verdicts.get(version, {}), environment: verdict}
        return self._after(verdicts={**self.verdicts, version: judged})

    def forget(self, version: str, name: str, highest: int) -> ModelState:
        """`version` is gone, and no number up to `highest` is free. Raises `VersionInUse`."""
        if version == self.active or version in self.aliases.values():
            raise VersionInUse(name, version)
        verdicts = {key: value for key, value in self.verdicts.items() if key != version}
        return self._after(verdicts=verdicts, highest=max(self.highest, highest))

    def verdict(self, version: str, environment: str) -> TrialVerdict | None:
        """What the trial of `version` said in `environment`; None if there was none."""
        return self.verdicts.get(version, {}).get(environment)

    def may_become_active(self, version: str) -> bool:
        """Whether who published the version may be about to activate it: it is the newer, and no trial rejected it."""
        verdicts = self.verdicts.get(version, {}).values()
        newer = self.active is None or int(version) > int(self.active)
        return newer and all(verdict.accepted for verdict in verdicts)

    def served(self) -> set[str]:
        """The versions that answer requests: the active one and every one with an alias."""
        return {*self.aliases.values(), *([self.active] if self.active else [])}

    def kept(self, stored: Collection[str]) -> set[str]:
        """The stored versions that housekeeping leaves alone: those served and the one that a rollback returns to."""
        former = self._former(stored)
        return self.served() | ({former} if former else set())

    def _after(self, **changes: Any) -> ModelState:
        return self.model_copy(update={**changes, "generation": self.generation + 1, "revision": token_hex(8)})


EMPTY_STATE = ModelState(
    format=STATE_FORMAT, generation=0, revision="", highest=0, active=None, history=(), aliases={}, verdicts={}
)
"""The state of a model of which nothing has been published yet."""


def utc_now() -> str:
    """This moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
