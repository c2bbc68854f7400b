"""The slots of a process, and how they follow the store."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from flaskml.errors import Busy, DamagedFile, FlaskmlError, ModelUnavailable, VersionNotFound
from flaskml.hot_reload.roster import ROSTER_TIMEOUT_SECONDS, Member, Roster
from flaskml.inference.predictor import Predictor, open_predictor
from flaskml.inference.slot import ModelSlot, NoPredictor
from flaskml.publishing.trial import TrialLimits, ensure_accepted
from flaskml.store.model_store import ModelStore
from flaskml.store.state import EMPTY_STATE, ModelState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A state of a model that could not be shown, and when to try again."""

    revision: str
    tries: int
    again: float
    """On the monotonic clock."""


LARGE_VERSION_BYTES = 16 * 2**20
"""Bytes of a version from which workers share one copy: they are forked anew rather than that each loads its own."""


@dataclass
class Registry:
    """Loads what is active and brings it into slots, one per model.

    `slots` gains a name when a model of that name is published. Only `refresh` changes a slot, and one refresh runs
    at a time; readers take no lock.
    """

    store: ModelStore
    limits: TrialLimits
    max_rows: int
    slots: dict[str, ModelSlot] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    """The revision of the state of each model that its slot shows."""

    adopted: str | None = None
    """The model whose slot was filled by somebody else."""

    failures: dict[str, LoadFailure] = field(default_factory=dict)
    """The models whose state could not be shown, or not all of it."""

    _leaves_large: bool = False

    _looked: object = None
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _change: threading.Lock = field(default_factory=threading.Lock)

    def adopt(self, slot: ModelSlot) -> ModelSlot:
        """Takes a slot that somebody else has filled, and shows no other version in it."""
        self.slots[slot.name] = slot
        self.adopted = slot.name
        return slot

    def expect(self, name: str) -> ModelSlot:
        """The slot of a model, which says what to do as long as there is none."""
        if name not in self.slots:
            slot = self.slots[name] = ModelSlot(name, NoPredictor(self.store.nothing_active(name)))
            try:
                self._show(slot, self.store.state_or_unused(name))
            except Exception as error:  # Whatever is wrong with one model, the others must start.
                reason = (
                    error if isinstance(error, FlaskmlError) else FlaskmlError(f"{type(error).__name__} at its load.")
                )
                slot.swap(NoPredictor(ModelUnavailable(reason, name, self.store.names())))
                self._note(name, error)
        return self.slots[name]

    def warm(self) -> None:
        """Finds what every predictor costs that was loaded without: by a server, before it answers."""
        for slot in self.slots.values():
            for predictor in slot.versions.values():
                _warm(predictor)

    def leave_large_versions(self) -> None:
        """Load no large version from now on: the supervisor replaces this worker by one that shares its memory."""
        self._leaves_large = True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Lets one request change the registry at a time, for each may wait for seconds. Raises `Busy`."""
        if not self._change.acquire(blocking=False):
            raise Busy
        try:
            yield
        finally:
            self._change.release()

    def look(self) -> object:
        """Something that differs whenever a refresh may find news: a change, or a failure that is to be tried again."""
        now = time.monotonic()
        return self.store.look(), [failure.tries for failure in self.failures.values() if failure.again > now]

    def large_news(self) -> bool:
        """Whether since the last look a large version has come into service that is not in memory here."""
        if (now := self.store.look()) == self._looked:
            return False
        self._looked = now
        return any(self._has_large_news(name, self.store.state_or_unused(name)) for name in self.store.names())

    def _has_large_news(self, name: str, state: ModelState) -> bool:
        held = self.slots[name].versions if name in self.slots else {}
        return any(self.store.size(name, version) >= LARGE_VERSION_BYTES for version in state.served() - held.keys())

    def refresh(self) -> Mapping[str, str]:
        """Brings every slot to the state that its model has now, and returns the revision of what each shows.

        A version is loaded, tried and warmed before it takes the place of the old one; if that fails, the old stays,
        and it is tried again later.
        """
        with self._mutex:
            for name in {*self.store.names(), *self.slots}:
                try:
                    self._follow(name, self.store.state_or_unused(name))
                except Exception as error:  # One model's trouble, of whatever kind, must not keep the others back.
                    self._note(name, error)
            return dict(self.revisions)

    def _follow(self, name: str, state: ModelState) -> None:
        if name == self.adopted:
            self.revisions[name] = state.revision
            return
        if self._leaves_large and self._has_large_news(name, state):
            return
        failure, slot = self.failures.get(name), self.slots.get(name) or ModelSlot(name)
        if state.active is None and slot.serving is not None:  # Somebody has removed it, perhaps to restore it.
            return
        if failure is None and state.revision == self.revisions.get(name, EMPTY_STATE.revision):
            return
        if failure is None or failure.revision != state.revision or failure.again <= time.monotonic():
            self._show(slot, state, warm=True)

    def _note(self, name: str, error: BaseException, revision: str | None = None) -> None:
        """Remembers that something could not be shown, so that it is tried again, less and less often."""
        revision = self._revision(name) if revision is None else revision
        before = self.failures.get(name)
        tries = before.tries + 1 if before and before.revision == revision else 1
        self.failures[name] = LoadFailure(revision, tries, time.monotonic() + min(5 * 2 ** (tries - 1), 60))
        if tries == 1:
            logger.error("Model %s: %s", name, getattr(error, "detail", type(error).__name__))

    def _revision(self, name: str) -> str:
        try:
            return self.store.state_or_unused(name).revision
        except FlaskmlError:
            return ""

    def _show(self, slot: ModelSlot, state: ModelState, *, warm: bool = False) -> None:
        """Fills the slot with what the state names, keeping what it holds already."""
        name, held = slot.name, slot.versions
        versions = {}
        if state.active is not None:
            versions[state.active] = self._open(name, state.active, held, warm=warm)
        troubles = []
        for version in state.served() - {state.active}:
            try:
                versions[version] = self._open(name, version, held, warm=warm)
            except (FlaskmlError, MemoryError) as error:  # What has only an alias must not take the active one down.
                troubles.append(error)
        current = NoPredictor(self.store.nothing_active(name)) if state.active is None else versions[state.active]
        slot.swap(current, versions)
        self.slots[name] = slot
        if state.revision:
            self.revisions[name] = state.revision
        self.failures.pop(name, None)
        for trouble in troubles:
            self._note(name, trouble, state.revision)

    def _open(self, name: str, version: str, held: Mapping[str, Predictor], *, warm: bool) -> Predictor:
        """The predictor of a version: the one that is held, if it is of the very same version, or a new one."""
        predictor = held.get(version)
        try:
            if predictor is not None and predictor.manifest == self.store.manifest(name, version):
                return predictor
            ensure_accepted(self.store, name, version, self.limits)
        except VersionNotFound as error:
            raise DamagedFile(
                f"models/{name}/state.json", f"it names version {version}, which is gone", name
            ) from error
        predictor = open_predictor(self.store.load(name, version), max_rows=self.max_rows)
        if warm:
            _warm(predictor)
        return predictor


def _warm(predictor: Predictor) -> None:
    with contextlib.suppress(Exception):  # A made-up row may be none that it answers; its golden rows it did.
        predictor.warm()


def lagging_processes(store: ModelStore, roster: Roster, name: str, state: ModelState) -> list[Member]:
    """The live processes that do not serve the state of a model, or a later one, within a few seconds."""
    return roster.lagging(name, state.revision, lambda: store.state_or_unused(name).revision, ROSTER_TIMEOUT_SECONDS)
