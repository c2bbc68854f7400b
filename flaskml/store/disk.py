"""The few file operations that the store is made of.

Each leaves what it did on the disk, not in a cache, before it returns. The store reaches the disk through one `Disk`
only, so that a test can put one that fails, or dies, at any operation in its place.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

STAGING_PREFIX = ".staging-"
"""Prefix of what is being written. Whoever holds the lock may remove what bears it."""

STAGING_PATTERN = STAGING_PREFIX + "[0-9a-f]" * 16
"""The pattern of the names that we give to what is being written."""


class Disk:
    """Reads and writes for one store. Errors are those of the operating system (`OSError`)."""

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Holds the lock file `path`, waiting for it. The system frees it when the holder dies."""
        with open(path, "ab") as file:
            lock_file(file, wait=True)
            yield

    def make_directory(self, path: Path) -> None:
        """Makes the directory, for its owner only, and its parents; one that exists is left as it is."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(folder.parent)

    def stage(self, path: Path) -> None:
        """Makes a directory whose name need not last, because `rename` gives it one that does."""
        path.mkdir(mode=0o700)

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        """A new file to write; synced when the block ends. Raises FileExistsError rather than overwrite."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Gives a finished directory its name. Raises OSError if a directory with content has that name."""
        os.rename(source, target)
        self.sync_directory(target.parent)

    def replace(self, path: Path, content: bytes) -> None:
        """Replaces the file whole: a reader, and the disk after a crash, has the old content or the new."""
        staged = path.with_name(f"{STAGING_PREFIX}{token_hex(8)}")
        try:
            with self.create(staged) as file:
                file.write(content)
            os.replace(staged, path)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        self.sync_directory(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Removes the directory and all in it, as far as that is possible."""
        shutil.rmtree(path, ignore_errors=True)

    def sweep(self, folder: Path) -> None:
        """Removes what writers that died have left in the folder; nobody alive writes there while its lock is held."""
        for entry in folder.glob(STAGING_PATTERN):
            if entry.is_dir():
                self.remove_tree(entry)
            else:
                entry.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Makes the names in the directory last. Windows has no such call and needs none."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: Path) -> bytes:
        """The whole content of a regular file; a symbolic link is refused."""
        with self._open(path) as file:
            return file.read()

    def digest(self, path: Path) -> tuple[int, str]:
        """The size of the regular file, and its SHA-256 in hex; a symbolic link is refused."""
        with self._open(path) as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()

    def _open(self, path: Path) -> BufferedReader:
        return open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb")


def lock_file(file: BinaryIO, *, wait: bool = False, shared: bool = False) -> bool:
    """Locks an open file until it is closed; False if another holds it and `wait` is not asked for.

    A `shared` lock is refused only by one that is not: who merely asks whether a lock is held disturbs nobody who asks.
    """
    if os.name == "nt":
        return _lock_on_windows(file, wait=wait)
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(file: BinaryIO, *, wait: bool) -> bool:
    import msvcrt

    file.seek(2**30)  # A locked byte cannot be read by others: one that no file has.
    mode = "LK_LOCK" if wait else "LK_NBLCK"
    while True:
        try:
            msvcrt.locking(file.fileno(), getattr(msvcrt, mode), 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            if not wait:  # LK_LOCK gives up after ten seconds; who waits starts over.
                return False
