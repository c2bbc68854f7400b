"""File operations of the store: locks, atomic replacement and rename, fsync.

A write is on the disk (fsync), not only in a cache, when its operation returns; the docstring names each exception.
The store uses files through one `Disk` only. A test replaces it by a `Disk` that fails, or kills its process, at any
operation.
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
"""The prefix of unfinished files and directories. The holder of the folder's lock may remove them."""

STAGING_PATTERN = STAGING_PREFIX + "[0-9a-f]" * 16
"""The glob pattern of the names of unfinished files and directories."""


class Disk:
    """The file operations of one store. Errors are those of the operating system (`OSError`)."""

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Hold an exclusive lock on the file `path`; wait until it is free. The system frees it if the process dies."""
        with open(path, "ab") as file:
            lock_file(file, wait=True)
            yield

    def make_directory(self, path: Path) -> None:
        """Make the directory and its missing parents, for the owner only (mode 700). Leave existing ones unchanged."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(folder.parent)

    def make_staging_directory(self, path: Path) -> None:
        """Make a directory for unfinished files. Its name is not fsynced: `rename` replaces it later."""
        path.mkdir(mode=0o700)

    @contextmanager
    def create(self, path: Path) -> Iterator[BinaryIO]:
        """Open a new file for writing, and fsync its content when the block ends. `sync_directory` fsyncs its name.

        Raises FileExistsError if the file exists.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(path, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Rename a finished directory atomically. Raises OSError if `target` is a directory that is not empty."""
        os.rename(source, target)
        self.sync_directory(target.parent)

    def replace(self, path: Path, content: bytes) -> None:
        """Replace the file atomically: a reader, or the disk after a crash, has the old content or the new one."""
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
        """Remove the directory and its content. Errors are ignored and nothing is fsynced."""
        shutil.rmtree(path, ignore_errors=True)

    def remove_leftovers(self, folder: Path) -> None:
        """Remove the staging files and directories of dead writers. The caller holds the lock of the folder."""
        for entry in folder.glob(STAGING_PATTERN):
            if entry.is_dir():
                self.remove_tree(entry)
            else:
                entry.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Fsync the names in the directory. Windows has no such call and needs none."""
        if os.name == "nt":
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: Path) -> bytes:
        """Return the content of a regular file. Raises OSError for a symbolic link."""
        with self._open(path) as file:
            return file.read()

    def digest(self, path: Path) -> tuple[int, str]:
        """Return the size in bytes and the SHA-256 digest in hex of a file. Raises OSError for a symbolic link."""
        with self._open(path) as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()

    def _open(self, path: Path) -> BufferedReader:
        return open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb")


def lock_file(file: BinaryIO, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file until it is closed. Return False if another process holds the lock and `wait` is False.

    Shared locks do not exclude each other, so several processes can test at once whether a file is locked.
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

    file.seek(2**30)  # Other processes cannot read a locked byte, so the lock is on a byte beyond the end of the file.
    mode = "LK_LOCK" if wait else "LK_NBLCK"
    while True:
        try:
            msvcrt.locking(file.fileno(), getattr(msvcrt, mode), 1)  # type: ignore[attr-defined]
            return True
        except OSError:
            if not wait:  # LK_LOCK gives up after ten seconds, and the loop tries again.
                return False
