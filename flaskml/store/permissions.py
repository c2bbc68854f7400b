"""Permission checks: owner, mode, symbolic links and hard links of every path from the `models` folder down.

A memory-mapped file is read again after its digest was verified, so the digest alone does not protect it. These checks
do: only the serving user and root may be able to write to the file.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flaskml.errors import DamagedFile

logger = logging.getLogger(__name__)


class PermissionChecker:
    """The checks of the paths from `root` down. A fault raises `DamagedFile` if `strict`, else it is logged."""

    def __init__(self, root: Path, *, strict: bool) -> None:
        self.root = root
        self.strict = strict

    def check(self, folder: Path) -> None:
        """Check `root`, the folders from there to `folder`, and every entry of `folder`. Raises `DamagedFile`."""
        try:
            for path in self._paths(folder):
                self.check_file(path)
        except OSError as error:
            relative_path = folder.relative_to(self.root.parent).as_posix()
            raise DamagedFile(relative_path, f"it cannot be read ({error.strerror})", folder.parent.name) from error

    def check_file(self, path: Path) -> None:
        """Check one file or folder; on Windows, do nothing. Raises `DamagedFile`, or OSError if it is missing."""
        if os.name == "nt":
            return
        if (fault := _fault(path)) is not None:
            relative_path = path.relative_to(self.root.parent).as_posix()
            remedy = "Correct it, or set STORE_CHECKS to warn if only trusted users can write there."
            error = DamagedFile(relative_path, fault, remedy=remedy)
            if self.strict:
                raise error
            logger.warning("%s", error.detail)

    def _paths(self, folder: Path) -> Iterator[Path]:
        yield self.root
        parents = [parent for parent in folder.parents if parent.is_relative_to(self.root) and parent != self.root]
        yield from reversed(parents)
        yield folder
        yield from folder.iterdir()


def _fault(path: Path) -> str | None:
    """Return the reason why another user could change the file or folder; None if no other user can."""
    status = path.lstat()
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return "it is a symbolic link or a special file; replace it with a regular file or folder"
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (uid {status.st_uid}); run chown on it"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it; run chmod go-w on it"
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        return "it has more than one hard link; replace it with a copy"
    return None
