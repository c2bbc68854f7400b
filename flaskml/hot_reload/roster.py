"""The processes that serve one instance folder: who they are, and how each follows what changes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from flaskml.store.disk import Disk, lock_file

logger = logging.getLogger(__name__)


_SUFFIX = ".process"


ROSTER_TIMEOUT_SECONDS = 5
"""Seconds that an activation waits for every process; then it says which lag."""


ROSTER_POLL_SECONDS = 0.02
"""Seconds between two looks at what other processes have told."""


@dataclass(frozen=True, slots=True)
class Member:
    """A live process, and the revision of the state of each model that it serves."""

    id: str
    pid: int
    revisions: Mapping[str, str]


class Roster:
    """One locked file for each live process under `run/`. The system unlocks it however the process ends."""

    def __init__(self, instance_path: Path, disk: Disk | None = None) -> None:
        self.folder = instance_path / "run"
        self.disk = disk or Disk()
        self._entry: tuple[int, str, BinaryIO] | None = None

    def enter(self) -> str:
        """Enters this process, once, and returns the id it is known by. Raises OSError in a read-only folder."""
        if self._entry is None or self._entry[0] != os.getpid():  # A child after a fork is another process.
            self.disk.make_directory(self.folder)
            with self.disk.lock(self.folder / ".lock"):
                self._remove_dead()
                member = token_hex(8)
                file = open(self._path(member), "xb")  # noqa: SIM115 - open, and so locked, while the process lives
                lock_file(file, wait=True)  # Somebody may just be asking whether it is locked.
            self._entry = (os.getpid(), member, file)
            self.tell({})
        return self._entry[1]

    def tell(self, revisions: Mapping[str, str]) -> None:
        """Tells all who ask what this process serves, if it has entered."""
        if self._entry is not None:
            file = self._entry[2]
            file.seek(0)
            file.write(json.dumps({"pid": os.getpid(), "revisions": dict(revisions)}).encode())
            file.truncate()
            file.flush()

    def is_alive(self, member: str) -> bool:
        """Whether the process with that id still runs."""
        if self._entry is not None and self._entry[1] == member:
            return True
        try:
            with open(self._path(member), "rb") as file:
                return not lock_file(file, shared=True)
        except FileNotFoundError:
            return False

    def members(self) -> Iterator[Member]:
        """Every live process and what it tells."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            member = path.name.removesuffix(_SUFFIX)
            if self.is_alive(member):
                yield self._member(member, path)

    def _member(self, member: str, path: Path) -> Member:
        try:
            told = json.loads(path.read_bytes())
        except (OSError, ValueError):  # It is just being written; the next look sees it whole.
            told = {"pid": 0, "revisions": {}}
        return Member(member, told["pid"], told["revisions"])

    def lagging(self, name: str, revision: str, current: Callable[[], str], seconds: float) -> list[Member]:
        """The live processes that do not serve the state of the model with that revision yet, after at most `seconds`.

        Nor a later one: `current` tells the revision of the present state.
        """
        deadline = time.monotonic() + seconds
        while True:
            reached = {revision, current()}
            late = [member for member in self.members() if member.revisions.get(name) not in reached]
            if not late or time.monotonic() >= deadline:
                return late
            time.sleep(ROSTER_POLL_SECONDS)

    def path_for(self, name: str) -> Path:
        """Where this process may keep a file of its own; it is removed when the process is found dead."""
        return self.folder / f"{self.enter()}.{name}"

    def leave(self) -> None:
        """Ends the membership of this process, if it has one."""
        if self._entry is not None:
            _, member, file = self._entry
            file.close()
            self._path(member).unlink(missing_ok=True)
            self._entry = None

    def _remove_dead(self) -> None:
        for path in self.folder.glob(f"*{_SUFFIX}"):
            member = path.name.removesuffix(_SUFFIX)
            if not self.is_alive(member):
                for left in self.folder.glob(f"{member}.*"):
                    left.unlink(missing_ok=True)

    def _path(self, member: str) -> Path:
        return self.folder / f"{member}{_SUFFIX}"
