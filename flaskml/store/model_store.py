"""All versions of all models, in folders under the instance folder.

    models/<name>/<version>/     one version; see `version_folder` for its files
    models/<name>/state.json     the active version, aliases and verdicts; the only file that is ever replaced

A version is written to a staging directory, fsynced, and renamed atomically to its number. It never changes after that.
Writers hold the lock of the model. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
from flaskml.store.disk import Disk
from flaskml.store.golden_rows import GoldenRows
from flaskml.store.manifest import LoadedVersion, Manifest, VersionFacts, environment_key
from flaskml.store.permissions import PermissionChecker
from flaskml.store.signing import KEY_FILE, Signer
from flaskml.store.state import EMPTY_STATE, ModelState
from flaskml.store.version_folder import VersionContents, VersionFolders

STATE_FILE = "state.json"
LOCK_FILE = ".lock"
UNACTIVATED_GRACE_SECONDS = 3600
"""Seconds that `clean` spares a version newer than the active one: longer than a trial, after which it is activated."""

_NAME = re.compile(MODEL_NAME_PATTERN, re.ASCII)
_VERSION = re.compile(VERSION_PATTERN, re.ASCII)


class ModelStore:
    """The models under `instance_path`.

    A model name or version that does not match its pattern is reported as not found. It never becomes part of a path.
    `key_file` is the signing key, `instance/signing.key` by default. With `strict`, wrong permissions are an
    error; without, they are logged (setting STORE_CHECKS).
    """

    def __init__(
        self, instance_path: Path, disk: Disk | None = None, *, key_file: Path | None = None, strict: bool = True
    ) -> None:
        self.instance_path = instance_path
        self.root = instance_path / "models"
        self.disk = disk or Disk()
        signer = Signer(key_file or instance_path / KEY_FILE, self.disk)
        permissions = PermissionChecker(self.root, strict=strict)
        self.version_folders = VersionFolders(instance_path, self.disk, signer, permissions)

    def names(self) -> list[str]:
        """Return the names of the models that have a version, sorted."""
        return [name for name in self.folder_names() if self._has_version(name)]

    def folder_names(self) -> list[str]:
        """Return the names of the models that have a folder, sorted. The folder may be empty."""
        with contextlib.suppress(OSError):
            return sorted(folder.name for folder in self.root.iterdir() if _NAME.fullmatch(folder.name))
        return []

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, oldest first. Raises `ModelNotFound`, or `DamagedFile` if unreadable."""
        folder = self._folder(name)
        try:
            numbers = self._numbers(folder)
        except OSError as error:
            raise self.version_folders.unreadable_file(folder, error, name) from error
        if not numbers:
            raise ModelNotFound(name, self.names())
        return [str(number) for number in numbers]

    def fingerprint(self) -> object:
        """Return a value that differs whenever the state of any model differs. It reads no file, only its metadata."""
        stamps = []
        for name in self.folder_names():
            with contextlib.suppress(OSError):
                status = self._state_file(name).stat()
                stamps.append((name, status.st_ino, status.st_mtime_ns, status.st_size))
        return stamps

    def state(self, name: str) -> ModelState:
        """Return the state of a model; `EMPTY_STATE` if it has versions and no state file yet.

        Raises `ModelNotFound`, or `DamagedFile` if the state cannot be read.
        """
        path = self._state_file(name)
        try:
            self.version_folders.permissions.check_file(path)
            return self.version_folders.parse_document(path, ModelState, name, self.disk.read(path))
        except FileNotFoundError:
            self.versions(name)
            return EMPTY_STATE
        except OSError as error:
            raise self.version_folders.unreadable_file(path, error, name) from error

    def state_or_empty(self, name: str) -> ModelState:
        """Return the state of a model; `EMPTY_STATE` if no such model is stored. Raises `DamagedFile`."""
        try:
            return self.state(name)
        except ModelNotFound:
            return EMPTY_STATE

    def summary(self, name: str) -> dict[str, Any]:
        """Return name, active version, versions and aliases of a model. Raises `ModelNotFound` or `DamagedFile`."""
        versions, state = self.versions(name), self.state(name)
        return {"name": name, "active": state.active, "versions": versions, "aliases": dict(state.aliases)}

    def summaries(self) -> list[dict[str, Any]]:
        """Return the summary of every model; that of a damaged model has its `name` and the `fault`."""
        summaries = []
        for name in self.names():
            try:
                summaries.append(self.summary(name))
            except FlaskmlError as error:
                summaries.append({"name": name, "fault": error.detail})
        return summaries

    def manifest(self, name: str, version: str) -> Manifest:
        """Return the manifest of a version, with its signature verified. Raises `VersionNotFound` or `DamagedFile`."""
        return self.version_folders.manifest(self.folder(name, version))

    def size(self, name: str, version: str) -> int:
        """Return the total size of the files of a version in bytes; 0 if the folder cannot be read."""
        with contextlib.suppress(OSError):
            return sum(file.stat().st_size for file in (self._folder(name) / version).iterdir())
        return 0

    def golden_rows(self, manifest: Manifest) -> GoldenRows:
        """Return the golden rows of the version, with their digest verified. Raises `DamagedFile`."""
        return self.version_folders.golden_rows(self.folder(manifest.model, manifest.version), manifest)

    def check(self, name: str, version: str) -> Manifest:
        """Verify permissions, signature and digests of a version without loading it. Raises `DamagedFile`."""
        return self.version_folders.check(self.folder(name, version))

    def check_state(self, name: str) -> ModelState:
        """Verify the state file of a model and that its versions exist. Raises `DamagedFile` or `VersionNotFound`."""
        state = self.state_or_empty(name)
        for version in state.served():
            self.folder(name, version)
        return state

    def load(self, name: str, version: str, *, mapped: bool | None = None) -> LoadedVersion:
        """Load a version into memory; if `mapped`, with the arrays of a large file memory-mapped, read-only.

        If `mapped` is None, the trial verdict of the version in this environment decides. Owner, permissions,
        signature and digest are verified before anything is unpickled. Raises `VersionNotFound`, or `DamagedFile` with
        the name of the damaged file.
        """
        folder = self.folder(name, version)
        self.version_folders.permissions.check(folder)
        manifest = self.version_folders.manifest(folder)
        if mapped is None:
            verdict = self.state(name).verdict(version, environment_key())
            mapped = verdict is not None and verdict.mapped
        return self.version_folders.load(folder, manifest, mapped=mapped)

    def no_active_version(self, name: str) -> NoActiveVersion:
        """Return the error for a model without an active version. It names the command that activates or trains one."""
        return NoActiveVersion(name, self.names(), [str(number) for number in self._numbers(self._folder(name))])

    def publish(self, name: str, facts: VersionFacts, contents: VersionContents) -> Manifest:
        """Store the contents as the next version, not active yet. Raises `StorageFailed` or `InvalidName`."""
        if not _NAME.fullmatch(name):
            raise InvalidName(name)
        with self.locked(name, create=True) as folder:
            highest = max([self.state_or_empty(name).highest, *self._numbers(folder)])
            return self.version_folders.create(folder / str(highest + 1), facts, contents)

    def activate(self, name: str, version: str, reason: str, *, unless_newer: bool = False) -> ModelState:
        """Activate a version that a trial accepted in this environment. Raises `VersionRejected` for any other.

        The files are verified again (`DamagedFile`), because they may have been damaged since the trial. With
        `unless_newer`, a newer active version stays active, so that of two concurrent publications the newer one wins.
        """

        def change(state: ModelState) -> ModelState:
            if unless_newer and state.active is not None and int(state.active) > int(version):
                return state
            self.check(name, version)
            verdict = state.verdict(version, environment_key())
            if verdict is None or not verdict.accepted:
                rejection = verdict.reason if verdict else "it has had no trial here."
                raise VersionRejected(name, version, rejection, is_active=state.active == version)
            return state.with_active(version, reason)

        return self.change(name, change)

    def alias(self, name: str, alias: str, version: str) -> ModelState:
        """Set an alias of a stored version. Raises `VersionNotFound`, `DamagedFile` or `InvalidAlias`."""
        if not _NAME.fullmatch(alias) or alias.isdigit():
            raise InvalidAlias(alias)

        def change(state: ModelState) -> ModelState:
            self.check(name, version)
            return state.with_alias(alias, version)

        return self.change(name, change)

    def change(self, name: str, change: Callable[[ModelState], ModelState]) -> ModelState:
        """Replace the state of the model with the result of `change`, under the lock. Raises `StorageFailed`."""
        with self.locked(name):
            return self._change(name, change)

    def delete(self, name: str, version: str) -> None:
        """Delete a version. The call is idempotent: a missing version is no error.

        Raises `VersionInUse` if the version is active or has an alias, and `StorageFailed`.
        """
        path = self.folder(name, version, must_exist=False)
        with self.locked(name):
            self._delete(name, path)

    def clean(self, name: str, keep: int) -> None:
        """Delete old versions, except the newest `keep` and those that `ModelState.retained` names.

        A recent version that its publisher may still activate is spared as well.
        """
        with self.locked(name) as folder:
            versions = self.versions(name)
            state = self.state(name)
            retained = state.retained(versions) | set(versions[-keep:])
            for version in versions:
                is_recent = time.time() - (folder / version).stat().st_mtime < UNACTIVATED_GRACE_SECONDS
                if version not in retained and not (is_recent and state.may_become_active(version)):
                    self._delete(name, folder / version)

    @contextmanager
    def locked(self, name: str, *, create: bool = False) -> Iterator[Path]:
        """Hold the lock of the model and yield its folder, without the leftovers of dead writers.

        `create` makes a missing folder; without it, a missing folder raises `ModelNotFound`. An OSError in the block
        becomes `StorageFailed`.
        """
        folder = self._folder(name)
        try:
            if create:
                self.disk.make_directory(folder)
            elif not folder.is_dir():
                raise ModelNotFound(name, self.names())
            with self.disk.lock(folder / LOCK_FILE):
                self.disk.remove_leftovers(folder)
                yield folder
        except OSError as error:
            raise StorageFailed(error.strerror or type(error).__name__) from error

    def folder(self, name: str, version: str, *, must_exist: bool = True) -> Path:
        """Return the folder of a version. Raises `ModelNotFound`, or `VersionNotFound` (invalid or missing)."""
        path = self._folder(name) / version
        if must_exist and not path.parent.is_dir():
            raise ModelNotFound(name, self.names())
        if not _VERSION.fullmatch(version) or (must_exist and not path.is_dir()):
            raise VersionNotFound(name, version[:20])
        return path

    def _delete(self, name: str, path: Path) -> None:
        if path.is_dir():
            highest = max(self._numbers(path.parent))
            self._change(name, lambda state: state.without_version(path.name, name, highest))
            self.version_folders.remove(path)

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
        """Return the numbers of the versions in a model's folder, sorted."""
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(entry.name) for entry in entries if _VERSION.fullmatch(entry.name) and entry.is_dir())

    def _has_version(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            return bool(self._numbers(self.root / name))
        return False
