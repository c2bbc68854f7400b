"""The slots of a process, and how they follow the store."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from flaskml.errors import DamagedFile, FlaskmlError, ModelNotFound, NoActiveVersion, Unavailable, VersionNotFound
from flaskml.model import Absent, ModelSlot, Predictor, open_predictor
from flaskml.state import UNUSED, State
from flaskml.store import Store
from flaskml.trial import Limits, ensure_accepted

logger = logging.getLogger(__name__)


@dataclass
class Registry:
    """Loads what is active and brings it into slots, one per model.

    `slots` gains a name when a model of that name is published. Only `refresh` changes a slot, and one refresh runs
    at a time; readers take no lock.
    """

    store: Store
    limits: Limits
    max_rows: int
    slots: dict[str, ModelSlot] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    """Which state of each model its slot shows."""

    adopted: str | None = None
    """The model whose slot was filled by somebody else."""

    failed: dict[str, int] = field(default_factory=dict)
    """Which state of a model could not be shown, so that it is not tried again and again."""

    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def adopt(self, slot: ModelSlot) -> ModelSlot:
        """Takes a slot that somebody else has filled, and shows no other version in it."""
        self.slots[slot.name] = slot
        self.adopted = slot.name
        return slot

    def expect(self, name: str) -> ModelSlot:
        """The slot of a model, which says what to do as long as there is none."""
        if name not in self.slots:
            slot = self.slots[name] = ModelSlot(name, Absent(self.store.nothing_active(name)))
            try:
                self._show(slot, self._state(name))
            except FlaskmlError as error:
                reason = error if isinstance(error, NoActiveVersion) else Unavailable(error, name, self.store.names())
                slot.swap(Absent(reason))
        return self.slots[name]

    def refresh(self) -> Mapping[str, int]:
        """Brings every slot to the state that its model has now, and returns the generation that each shows.

        A version is loaded, tried and warmed before it takes the place of the old one; if that fails, the old stays.
        """
        with self._mutex:
            for name in {*self.store.names(), *self.slots}:
                try:
                    self._follow(name, self._state(name))
                except Exception as error:  # One model's trouble, of whatever kind, must not keep the others back.
                    logger.error("Model %s: %s", name, getattr(error, "detail", type(error).__name__))
            return dict(self.generations)

    def _state(self, name: str) -> State:
        try:
            return self.store.state(name)
        except ModelNotFound:
            return UNUSED

    def _follow(self, name: str, state: State) -> None:
        known = max(self.generations.get(name, -1), self.failed.get(name, -1))
        if name == self.adopted:
            self.generations[name] = state.generation
        if state.generation <= known or state.active is None or name == self.adopted:
            return
        try:
            self._show(self.slots.get(name) or ModelSlot(name), state, warm=True)
        except Exception:
            self.failed[name] = state.generation
            raise

    def _show(self, slot: ModelSlot, state: State, *, warm: bool = False) -> None:
        """Fills the slot with what the state names, keeping what it holds already."""
        if state.active is None:
            raise self.store.nothing_active(slot.name)
        held = slot.versions
        current = held.get(state.active) or self._open(slot.name, state.active, warm=warm)
        versions = {state.active: current}
        for version in state.served() - {state.active}:
            try:
                versions[version] = held.get(version) or self._open(slot.name, version, warm=warm)
            except (FlaskmlError, MemoryError) as error:  # What has only an alias must not take the active one down.
                logger.error("Model %s: %s", slot.name, getattr(error, "detail", type(error).__name__))
        slot.swap(current, versions)
        self.slots[slot.name] = slot
        self.generations[slot.name] = state.generation

    def _open(self, name: str, version: str, *, warm: bool) -> Predictor:
        try:
            ensure_accepted(self.store, name, version, self.limits)
        except VersionNotFound as error:
            raise DamagedFile(
                f"models/{name}/state.json", f"it names version {version}, which is gone", name
            ) from error
        predictor = open_predictor(self.store.load(name, version), max_rows=self.max_rows)
        if warm:
            with contextlib.suppress(Exception):  # A made-up row may be none that it answers; its golden rows it did.
                predictor.warm()
        return predictor
