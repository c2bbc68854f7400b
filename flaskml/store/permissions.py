"""Who could have changed a file: owners, permissions and links from the folder of models down.

A mapped file is read again after its digest was taken, so the digest alone does not cover what is used; that nobody but
us can write to it does.
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
    """Checks the folders from `root` down; what is wrong is an error if `strict`, else a warning in the log."""

    def __init__(self, root: Path, *, strict: bool) -> None:
        self.root = root
        self.strict = strict

    def check(self, folder: Path) -> None:
        """Checks `root`, the folders between, `folder`, and every file in it. Raises `DamagedFile`."""
        try:
            for path in self._paths(folder):
                self.check_file(path)
        except OSError as error:
            shown = folder.relative_to(self.root.parent).as_posix()
            raise DamagedFile(shown, f"it cannot be read ({error.strerror})", folder.parent.name) from error

    def check_file(self, path: Path) -> None:
        """Checks one file or folder. Raises `DamagedFile`."""
        if os.name == "nt":
            return
        if (fault := _fault(path)) is not None:
            shown = path.relative_to(self.root.parent).as_posix()
            remedy = "Mend it, or set STORE_CHECKS to warn where only you write anyway."
            error = DamagedFile(shown, fault, remedy=remedy)
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
    """Why others could have changed what is at `path`, or None."""
    found = path.lstat()
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        return "it is neither a file nor a folder"
    if found.st_uid not in (os.geteuid(), 0):
        return f"it belongs to another user (uid {found.st_uid}); change its owner"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write to it; chmod go-w"
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "it has a second name, a hard link; copy it"
    return None
