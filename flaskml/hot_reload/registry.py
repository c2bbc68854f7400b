"""The slots of a process, and their hot reload when the store changes."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from flaskml.errors import DamagedFile, FlaskmlError, ModelUnavailable, RegistryBusy, VersionNotFound
from flaskml.hot_reload.roster import ROSTER_TIMEOUT_SECONDS, Member, Roster
from flaskml.inference.predictor import Predictor, open_predictor
from flaskml.inference.slot import ModelSlot, NoPredictor
from flaskml.publishing.trial import TrialLimits, ensure_accepted
from flaskml.store.model_store import ModelStore
from flaskml.store.state import EMPTY_STATE, ModelState

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 5
"""Seconds between a failed load and the first retry. Each further wait is twice as long (exponential back-off)."""

MAX_RETRY_SECONDS = 60
"""Seconds of the longest wait between two retries."""

LARGE_VERSION_BYTES = 16 * 2**20
"""Bytes from which a version is large: the supervisor loads it once, and new workers share it by copy-on-write."""


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A state of a model that did not load completely, and the time of the next attempt."""

    revision: str
    attempts: int
    retry_at: float
    """Seconds on the monotonic clock."""


@dataclass
class Registry:
    """The slots of one process, one per model, which hot reload keeps up to date with the store.

    `slots` gains an entry when a model is published under a new name. Only `refresh` changes a filled slot, and one
    refresh runs at a time. Readers take no lock: a slot changes by the atomic swap of a reference.
    """

    store: ModelStore
    limits: TrialLimits
    max_rows: int
    slots: dict[str, ModelSlot] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    """The revision of the state that the slot of each model serves."""

    injected_model: str | None = None
    """The model whose slot was injected by the caller of `create_app`."""

    failures: dict[str, LoadFailure] = field(default_factory=dict)
    """The models whose state did not load completely."""

    loading: Callable[[], AbstractContextManager[None]] = nullcontext
    """Returns a context in which versions are loaded."""

    _skips_large_versions: bool = False
    _last_fingerprint: object = None
    _refresh_lock: threading.Lock = field(default_factory=threading.Lock)
    _change_lock: threading.Lock = field(default_factory=threading.Lock)

    def inject_slot(self, slot: ModelSlot) -> ModelSlot:
        """Register a slot that the caller has filled, and return it. `refresh` does not change it."""
        self.slots[slot.name] = slot
        self.injected_model = slot.name
        return slot

    def slot_for(self, name: str) -> ModelSlot:
        """Return the slot of a model; the first call creates and fills it.

        If the model cannot be loaded, the slot holds a `NoPredictor` that raises the reason.
        """
        if name not in self.slots:
            slot = self.slots[name] = ModelSlot(name, NoPredictor(self.store.no_active_version(name)))
            try:
                self._fill_slot(slot, self.store.state_or_empty(name))
            except Exception as error:  # One model that fails to load must not keep the others from starting.
                reason = (
                    error
                    if isinstance(error, FlaskmlError)
                    else FlaskmlError(f"Loading it raised {type(error).__name__}.")
                )
                slot.swap(NoPredictor(ModelUnavailable(reason, name, self.store.names())))
                self._record_failure(name, error)
        return self.slots[name]

    def warm_up(self) -> None:
        """Warm up every predictor that is in memory. A server does this before it accepts connections."""
        for slot in self.slots.values():
            for predictor in slot.versions.values():
                _warm_up(predictor)

    def skip_large_versions(self) -> None:
        """Load no new large version from now on: the supervisor replaces this worker by one that shares its memory."""
        self._skips_large_versions = True

    @contextmanager
    def exclusive_change(self) -> Iterator[None]:
        """Allow one request at a time to change the registry; a change may take seconds. Raises `RegistryBusy`."""
        if not self._change_lock.acquire(blocking=False):
            raise RegistryBusy
        try:
            yield
        finally:
            self._change_lock.release()

    def fingerprint(self) -> object:
        """Return a value that changes whenever the store has changed or a failed load is due for a retry."""
        now = time.monotonic()
        waiting = [failure.attempts for failure in self.failures.values() if failure.retry_at > now]
        return self.store.fingerprint(), waiting

    def take_over(self, former: Registry) -> None:
        """Serve from the memory of a former registry of the same store what this one could not load."""
        for name in self.failures:
            slot, earlier = self.slots[name], former.slots.get(name)
            if earlier is None or not earlier.versions:
                continue
            try:
                wanted: Collection[str] = self.store.state_or_empty(name).served()
            except FlaskmlError:  # The state is damaged.
                wanted = earlier.versions.keys()
            versions = {version: predictor for version, predictor in earlier.versions.items() if version in wanted}
            is_missing = isinstance(slot.current, NoPredictor)
            slot.swap(earlier.current if is_missing else slot.current, {**versions, **slot.versions})
            logger.warning("Model %s is served from memory, as before, because it cannot be loaded", name)

    def load_large_versions(self) -> bool:
        """Load, without warm-up, if the store has changed and serves a large version that is not in memory.

        Returns whether a model that lacked such a version has changed. A failed load is retried with back-off.
        """
        if (now := self.fingerprint()) == self._last_fingerprint:
            return False
        self._last_fingerprint = now
        before = {name: self._content(name) for name in self.store.names() if self._lacks_large_version(name)}
        if before:
            self.refresh(warm=False)
        return any(self._content(name) != content for name, content in before.items())

    def _lacks_large_version(self, name: str) -> bool:
        try:
            return self._needs_large_version(name, self.store.state_or_empty(name))
        except FlaskmlError:  # `refresh` reports it.
            return False

    def _content(self, name: str) -> object:
        """Return a value that changes with what the slot of a model serves."""
        slot = self.slots.get(name)
        return self.revisions.get(name), None if slot is None else tuple(slot.versions)

    def _needs_large_version(self, name: str, state: ModelState) -> bool:
        in_memory = self.slots[name].versions if name in self.slots else {}
        missing = state.served() - in_memory.keys()
        return any(self.store.size(name, version) >= LARGE_VERSION_BYTES for version in missing)

    def refresh(self, *, warm: bool = True) -> Mapping[str, str]:
        """Bring every slot to the current state of its model, and return the revision that each slot serves.

        A new version is loaded, accepted by its trial and with `warm` warmed up before it replaces the old one. If a
        step fails, the old version keeps serving, and the load is retried with back-off.
        """
        with self._refresh_lock:
            for name in {*self.store.names(), *self.slots}:
                try:
                    self._refresh_slot(name, self.store.state_or_empty(name), warm=warm)
                except Exception as error:  # One model that fails to load must not keep the others from refreshing.
                    self._record_failure(name, error)
            return dict(self.revisions)

    def _refresh_slot(self, name: str, state: ModelState, *, warm: bool) -> None:
        if name == self.injected_model:
            self.revisions[name] = state.revision
            return
        if self._skips_large_versions and self._needs_large_version(name, state):
            return
        failure, slot = self.failures.get(name), self.slots.get(name) or ModelSlot(name)
        if state.active is None and slot.current_manifest is not None:  # The model was removed, perhaps to be restored.
            return
        if failure is None and state.revision == self.revisions.get(name, EMPTY_STATE.revision):
            return
        if failure is None or failure.revision != state.revision or failure.retry_at <= time.monotonic():
            self._fill_slot(slot, state, warm=warm)

    def _record_failure(self, name: str, error: BaseException, revision: str | None = None) -> None:
        """Schedule a retry with exponential back-off, and log the first failure of a revision."""
        revision = self._revision(name) if revision is None else revision
        previous = self.failures.get(name)
        attempts = previous.attempts + 1 if previous and previous.revision == revision else 1
        wait = min(FIRST_RETRY_SECONDS * 2 ** (attempts - 1), MAX_RETRY_SECONDS)
        self.failures[name] = LoadFailure(revision, attempts, time.monotonic() + wait)
        if attempts == 1:
            reason = getattr(error, "detail", type(error).__name__)
            logger.error("Model %s cannot be loaded and will be retried: %s", name, reason)

    def _revision(self, name: str) -> str:
        try:
            return self.store.state_or_empty(name).revision
        except FlaskmlError:
            return ""

    def _fill_slot(self, slot: ModelSlot, state: ModelState, *, warm: bool = False) -> None:
        """Load the versions that the state serves, and swap them in. Versions already in memory are reused."""
        name, in_memory = slot.name, slot.versions
        versions = {}
        if state.active is not None:
            versions[state.active] = self._load_or_reuse(name, state.active, in_memory, warm=warm)
        alias_errors = []
        for version in state.served() - {state.active}:
            try:
                versions[version] = self._load_or_reuse(name, version, in_memory, warm=warm)
            except (FlaskmlError, MemoryError) as error:  # A broken aliased version must not take the active one down.
                alias_errors.append(error)
        current = NoPredictor(self.store.no_active_version(name)) if state.active is None else versions[state.active]
        slot.swap(current, versions)
        self.slots[name] = slot
        if state.revision:
            self.revisions[name] = state.revision
        self.failures.pop(name, None)
        for alias_error in alias_errors:
            self._record_failure(name, alias_error, state.revision)

    def _load_or_reuse(self, name: str, version: str, in_memory: Mapping[str, Predictor], *, warm: bool) -> Predictor:
        """Return the predictor in memory if its manifest equals the stored one; else load the version.

        A manifest can differ under the same number when a model was removed and published again.
        """
        predictor = in_memory.get(version)
        try:
            if predictor is not None and predictor.manifest == self.store.manifest(name, version):
                return predictor
            ensure_accepted(self.store, name, version, self.limits)
        except VersionNotFound as error:
            raise DamagedFile(
                f"models/{name}/state.json", f"it names version {version}, which does not exist", name
            ) from error
        with self.loading():
            predictor = open_predictor(self.store.load(name, version), max_rows=self.max_rows)
            if warm:
                _warm_up(predictor)
        return predictor


def _warm_up(predictor: Predictor) -> None:
    with contextlib.suppress(Exception):  # The estimator may refuse made-up rows; it accepted its golden rows.
        predictor.warm_up()


def lagging_processes(store: ModelStore, roster: Roster, name: str, state: ModelState) -> list[Member]:
    """Return the live processes that serve neither this state of a model nor a later one.

    Waits up to `ROSTER_TIMEOUT_SECONDS` for them.
    """
    return roster.lagging(name, state.revision, lambda: store.state_or_empty(name).revision, ROSTER_TIMEOUT_SECONDS)
