"""All versions of all models, as folders under the instance folder.

    models/<name>/<version>/     one version; `archive` has what is in it
    models/<name>/state.json     which version is active; the one file that is ever replaced

A version is written beside its place, synced, and renamed into it, and never changed after. Writers hold the model's
lock; readers take none.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from flaskml.errors import (
    FlaskmlError,
    InvalidAlias,
    InvalidName,
    ModelNotFound,
    NoActiveVersion,
    StorageFailed,
    VersionNotFound,
    VersionRejected,
)
from flaskml.settings import MODEL_NAME_PATTERN, VERSION_PATTERN
from flaskml.store.disk import STAGING_PREFIX, Disk
from flaskml.store.golden_rows import GoldenRows
from flaskml.store.manifest import LoadedVersion, Manifest, VersionFacts, environment_key
from flaskml.store.permissions import PermissionChecker
from flaskml.store.signing import KEY_FILE, Signer
from flaskml.store.state import EMPTY_STATE, ModelState
from flaskml.store.version_folder import VersionContents, VersionFolders

STATE_FILE = "state.json"
LOCK_FILE = ".lock"
UNACTIVATED_GRACE_SECONDS = 3600
"""Seconds that a version newer than the active one is left to its publisher: longer than a trial takes."""

_NAME = re.compile(MODEL_NAME_PATTERN, re.ASCII)
_VERSION = re.compile(VERSION_PATTERN, re.ASCII)


class ModelStore:
    """The models under `instance_path`. What is not a name or a number is not found, and never a path."""

    def __init__(
        self, instance_path: Path, disk: Disk | None = None, *, key_file: Path | None = None, strict: bool = True
    ) -> None:
        self.instance_path = instance_path
        self.root = instance_path / "models"
        self.disk = disk or Disk()
        signer = Signer(key_file or instance_path / KEY_FILE, self.disk)
        self.archive = VersionFolders(instance_path, self.disk, signer, PermissionChecker(self.root, strict=strict))

    def names(self) -> list[str]:
        """The models that have a version, in order."""
        return [name for name in self.folders() if self._has_version(name)]

    def folders(self) -> list[str]:
        """The models that have a folder, in order, whatever is in it."""
        with contextlib.suppress(OSError):
            return sorted(folder.name for folder in self.root.iterdir() if _NAME.fullmatch(folder.name))
        return []

    def versions(self, name: str) -> list[str]:
        """The versions of a model, oldest first. Raises `ModelNotFound`."""
        folder = self._folder(name)
        try:
            numbers = self._numbers(folder)
        except OSError as error:
            raise self.archive.unreadable(folder, error, name) from error
        if not numbers:
            raise ModelNotFound(name, self.names())
        return [str(number) for number in numbers]

    def look(self) -> object:
        """Something that differs whenever the state of any model does; it reads no file."""
        stamps = []
        for name in self.folders():
            with contextlib.suppress(OSError):
                found = self._state_file(name).stat()
                stamps.append((name, found.st_ino, found.st_mtime_ns, found.st_size))
        return stamps

    def state(self, name: str) -> ModelState:
        """What is active. Raises `ModelNotFound`, or `DamagedFile` if the state cannot be read."""
        path = self._state_file(name)
        try:
            self.archive.custody.check_file(path)
            return self.archive.document(path, ModelState, name, self.disk.read(path))
        except FileNotFoundError:
            self.versions(name)
            return EMPTY_STATE
        except OSError as error:
            raise self.archive.unreadable(path, error, name) from error

    def state_or_unused(self, name: str) -> ModelState:
        """The state of a model; `EMPTY_STATE` if nothing of it is stored. Raises `DamagedFile`."""
        try:
            return self.state(name)
        except ModelNotFound:
            return EMPTY_STATE

    def summary(self, name: str) -> dict[str, Any]:
        """A model in a few words, for people and for JSON. Raises `ModelNotFound` or `DamagedFile`."""
        versions, state = self.versions(name), self.state(name)
        return {"name": name, "active": state.active, "versions": versions, "aliases": dict(state.aliases)}

    def summaries(self) -> list[dict[str, Any]]:
        """Every model in a few words; one that is damaged does not hide the others."""
        return [self._summary_or_fault(name) for name in self.names()]

    def manifest(self, name: str, version: str) -> Manifest:
        """What the version says about itself. Raises `VersionNotFound`, or `DamagedFile`."""
        return self.archive.manifest(self.folder(name, version))

    def size(self, name: str, version: str) -> int:
        """Bytes of the files of a version, as far as they can be read."""
        with contextlib.suppress(OSError):
            return sum(file.stat().st_size for file in (self._folder(name) / version).iterdir())
        return 0

    def golden(self, manifest: Manifest) -> GoldenRows:
        """The golden rows of the version. Raises `DamagedFile`."""
        return self.archive.golden(self.folder(manifest.model, manifest.version), manifest)

    def check(self, name: str, version: str) -> Manifest:
        """Checks all that can be checked of a version without loading it. Raises `DamagedFile`."""
        return self.archive.check(self.folder(name, version))

    def check_state(self, name: str) -> ModelState:
        """Checks the state of a model, and who could have changed it. Raises `DamagedFile` or `VersionNotFound`."""
        state = self.state_or_unused(name)
        for version in state.served():
            self.folder(name, version)
        return state

    def load(self, name: str, version: str, *, mapped: bool | None = None) -> LoadedVersion:
        """The version in memory; if `mapped`, with large arrays mapped read-only from its file.

        What `mapped` leaves open is taken from the trial of the version in this environment. Nothing is unpickled
        before owner, permissions, signature and digest have been found right. Raises `VersionNotFound`, or
        `DamagedFile` naming the file that is at fault.
        """
        folder = self.folder(name, version)
        self.archive.custody.check(folder)
        manifest = self.archive.manifest(folder)
        if mapped is None:
            verdict = self.state(name).verdict(version, environment_key())
            mapped = verdict is not None and verdict.mapped
        return self.archive.load(folder, manifest, mapped=mapped)

    def nothing_active(self, name: str) -> NoActiveVersion:
        """The error that says what to do about a model without an active version."""
        return NoActiveVersion(name, self.names(), [str(number) for number in self._numbers(self._folder(name))])

    def publish(self, name: str, facts: VersionFacts, contents: VersionContents) -> Manifest:
        """Stores the contents as the next version of the model. It is not active yet.

        Raises `StorageFailed` or `InvalidName`.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(name)
        with self.writing(name, make=True) as folder:
            highest = max([self.state_or_unused(name).highest, *self._numbers(folder)])
            staged = folder / f"{STAGING_PREFIX}{token_hex(8)}"
            try:
                manifest = self.archive.write(staged, str(highest + 1), name, facts, contents)
                self.disk.rename(staged, folder / manifest.version)
            except BaseException:
                self.disk.remove_tree(staged)
                raise
        return manifest

    def activate(self, name: str, version: str, reason: str, *, unless_newer: bool = False) -> ModelState:
        """Makes a version active that was accepted in this environment. Raises `VersionRejected` for any other.

        Its files are checked once more, for what was accepted may have been damaged since. With `unless_newer`, an
        active version that is newer stays: of two who publish at once the later one wins.
        """

        def change(state: ModelState) -> ModelState:
            if unless_newer and state.active is not None and int(state.active) > int(version):
                return state
            self.check(name, version)
            verdict = state.verdict(version, environment_key())
            if verdict is None or not verdict.accepted:
                raise VersionRejected(name, version, verdict.reason if verdict else "it has had no trial here.")
            return state.activate(version, reason)

        return self.change(name, change)

    def alias(self, name: str, alias: str, version: str) -> ModelState:
        """Lets a name stand for a stored version. Raises `VersionNotFound`, `DamagedFile` or `InvalidAlias`."""
        if not _NAME.fullmatch(alias) or alias.isdigit():
            raise InvalidAlias(alias)

        def change(state: ModelState) -> ModelState:
            self.check(name, version)
            return state.alias(alias, version)

        return self.change(name, change)

    def change(self, name: str, change: Callable[[ModelState], ModelState]) -> ModelState:
        """Replaces the state of the model by what `change` makes of it, under the lock. Raises `StorageFailed`."""
        with self.writing(name):
            return self._change(name, change)

    def delete(self, name: str, version: str) -> None:
        """Removes a version that answers no request; one that is not there is no error. Raises `VersionInUse`."""
        path = self.folder(name, version, must_exist=False)
        with self.writing(name):
            self._delete(name, path)

    def clean(self, name: str, keep: int) -> None:
        """Removes all but the newest `keep` versions and those that are still needed."""
        with self.writing(name) as folder:
            versions = self.versions(name)
            state = self.state(name)
            kept = state.kept(versions) | set(versions[-keep:])
            for version in versions:
                fresh = time.time() - (folder / version).stat().st_mtime < UNACTIVATED_GRACE_SECONDS
                if version not in kept and not (fresh and state.may_become_active(version)):
                    self._delete(name, folder / version)

    @contextmanager
    def writing(self, name: str, *, make: bool = False) -> Iterator[Path]:
        """The model's folder, while nobody else writes in it; without `make`, `ModelNotFound` if there is none."""
        folder = self._folder(name)
        try:
            if make:
                self.disk.make_directory(folder)
            elif not folder.is_dir():
                raise ModelNotFound(name, self.names())
            with self.disk.lock(folder / LOCK_FILE):
                self.disk.sweep(folder)
                yield folder
        except OSError as error:
            raise StorageFailed(error.strerror or type(error).__name__) from error

    def folder(self, name: str, version: str, *, must_exist: bool = True) -> Path:
        """The folder of the version. Raises `VersionNotFound` for one that cannot be or is not there."""
        path = self._folder(name) / version
        if must_exist and not path.parent.is_dir():
            raise ModelNotFound(name, self.names())
        if not _VERSION.fullmatch(version) or (must_exist and not path.is_dir()):
            raise VersionNotFound(name, version[:20])
        return path

    def _summary_or_fault(self, name: str) -> dict[str, Any]:
        try:
            return self.summary(name)
        except FlaskmlError as error:
            return {"name": name, "fault": error.detail}

    def _delete(self, name: str, path: Path) -> None:
        if path.is_dir():
            highest = max(self._numbers(path.parent))
            self._change(name, lambda state: state.forget(path.name, name, highest))
            gone = path.with_name(f"{STAGING_PREFIX}{token_hex(8)}")
            self.disk.rename(path, gone)
            self.disk.remove_tree(gone)

    def _change(self, name: str, change: Callable[[ModelState], ModelState]) -> ModelState:
        before = self.state(name)
        state = change(before)
        if state != before:
            self.disk.replace(self._state_file(name), state.model_dump_json(indent=2).encode())
        return state

    def _state_file(self, name: str) -> Path:
        return self._folder(name) / STATE_FILE

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ModelNotFound(name[:100], self.names())
        return self.root / name

    def _numbers(self, folder: Path) -> list[int]:
        """The versions in a model's folder, as numbers, in order."""
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(entry.name) for entry in entries if _VERSION.fullmatch(entry.name) and entry.is_dir())

    def _has_version(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(self._numbers(self.root / name))
        return False
