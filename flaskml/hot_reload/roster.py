"""The roster: the live processes that serve one instance folder, and the model states that each of them serves."""

from __future__ import annotations

import contextlib
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

ROSTER_TIMEOUT_SECONDS = 5
"""Seconds that an activation waits for every process to serve it. After that, it reports the lagging processes."""

ROSTER_POLL_SECONDS = 0.02
"""Seconds between two reads of the roster while an activation waits."""

_SUFFIX = ".process"


@dataclass(frozen=True, slots=True)
class Member:
    """A live process, and the revision of the state of each model that it serves."""

    id: str
    pid: int
    revisions: Mapping[str, str]
    is_serving: bool = True
    """False if the process only finishes its training jobs."""


class Roster:
    """One locked file per live process under `run/`. The operating system releases the lock however the process ends.

    `folder` is `run/` in the instance folder.
    """

    def __init__(self, instance_path: Path, disk: Disk | None = None) -> None:
        self.folder = instance_path / "run"
        self.disk = disk or Disk()
        self._entry: tuple[int, str, BinaryIO] | None = None
        self._is_serving = True

    def enter(self) -> str:
        """Enter this process, if it is not in the roster, and return its id. Raises OSError in a read-only folder."""
        if self._entry is None or self._entry[0] != os.getpid():  # After a fork, the child is another process.
            self.disk.make_directory(self.folder)
            with self.disk.lock(self.folder / ".lock"):
                self._remove_dead()
                member = token_hex(8)
                file = open(self._path(member), "xb")  # noqa: SIM115 - open, and so locked, while the process lives
                lock_file(file, wait=True)  # `is_alive` in another process may hold the lock for a moment.
            self._entry, self._is_serving = (os.getpid(), member, file), True
            self.announce({})
        return self._entry[1]

    def announce(self, revisions: Mapping[str, str]) -> None:
        """Write the revisions that this process serves into its file, if it has entered."""
        if self._entry is not None:
            file = self._entry[2]
            file.seek(0)
            entry = {"pid": os.getpid(), "revisions": dict(revisions), "is_serving": self._is_serving}
            file.write(json.dumps(entry).encode())
            file.truncate()
            file.flush()

    def retire(self) -> None:
        """Stay in the roster as a process that answers no requests: no activation waits for it."""
        self._is_serving = False
        with contextlib.suppress(OSError):
            self.announce({})

    def is_alive(self, member: str) -> bool:
        """Return whether the process with that id is still running."""
        if self._entry is not None and self._entry[1] == member:
            return True
        try:
            with open(self._path(member), "rb") as file:
                return not lock_file(file, shared=True)
        except FileNotFoundError:
            return False

    def members(self) -> Iterator[Member]:
        """Yield every live process with the revisions that it announced."""
        for path in self.folder.glob(f"*{_SUFFIX}"):
            member = path.name.removesuffix(_SUFFIX)
            if self.is_alive(member):
                yield self._member(member, path)

    def _member(self, member: str, path: Path) -> Member:
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):  # The process is writing it at this moment; the next poll reads it.
            content = {"pid": 0, "revisions": {}}
        return Member(member, content["pid"], content["revisions"], content.get("is_serving", True))

    def lagging(self, name: str, revision: str, current: Callable[[], str], seconds: float) -> list[Member]:
        """Return the live processes that serve neither `revision` of the model's state nor the current one.

        Waits up to `seconds` for them. `current` returns the revision of the current state, which may be later.
        """
        deadline = time.monotonic() + seconds
        while True:
            accepted = {revision, current()}
            serving = [member for member in self.members() if member.is_serving]
            lagging = [member for member in serving if member.revisions.get(name) not in accepted]
            if not lagging or time.monotonic() >= deadline:
                return lagging
            time.sleep(ROSTER_POLL_SECONDS)

    def path_for(self, name: str) -> Path:
        """Return a path for a file of this process. After the death of the process, the next one to enter deletes it.

        Enters the roster if necessary.
        """
        return self.folder / f"{self.enter()}.{name}"

    def leave(self) -> None:
        """Remove this process from the roster, if it has entered."""
        if self._entry is not None:
            _, member, file = self._entry
            file.close()
            self._path(member).unlink(missing_ok=True)
            self._entry = None

    def _remove_dead(self) -> None:
        for path in self.folder.glob(f"*{_SUFFIX}"):
            member = path.name.removesuffix(_SUFFIX)
            if not self.is_alive(member):
                for leftover in self.folder.glob(f"{member}.*"):
                    leftover.unlink(missing_ok=True)

    def _path(self, member: str) -> Path:
        return self.folder / f"{member}{_SUFFIX}"
