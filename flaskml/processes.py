"""The processes that serve one instance folder, each known by a file that it holds locked."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from flaskml.files import Disk, lock_file

_SUFFIX = ".process"


class Roster:
    """One locked file for each live process under `run/`. The system unlocks it however the process ends."""

    def __init__(self, instance_path: Path, disk: Disk | None = None) -> None:
        self.folder = instance_path / "run"
        self.disk = disk or Disk()
        self._entry: tuple[str, BinaryIO] | None = None

    def enter(self) -> str:
        """Enters this process, once, and returns the id it is known by. Raises OSError in a read-only folder."""
        if self._entry is None:
            self.disk.make_directory(self.folder)
            with self.disk.lock(self.folder / ".lock"):
                self._remove_dead()
                member = token_hex(8)
                file = open(self._path(member), "xb")  # noqa: SIM115 - open, and so locked, while the process lives
                lock_file(file)
            self._entry = (member, file)
        return self._entry[0]

    def is_alive(self, member: str) -> bool:
        """Whether the process with that id still runs."""
        if self._entry is not None and self._entry[0] == member:
            return True
        try:
            with open(self._path(member), "rb") as file:
                return not lock_file(file, shared=True)
        except FileNotFoundError:
            return False

    def path_for(self, name: str) -> Path:
        """Where this process may keep a file of its own; it is removed when the process is found dead."""
        return self.folder / f"{self.enter()}.{name}"

    def leave(self) -> None:
        """Ends the membership of this process, if it has one."""
        if self._entry is not None:
            member, file = self._entry
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
