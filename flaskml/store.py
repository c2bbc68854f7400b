"""All versions of all models, as folders under the instance folder.

    models/<name>/<version>/model.joblib, manifest.json   never changed once named
    models/<name>/state.json                              which version is active; replaced whole

A version is written beside its place, synced, and renamed into it. Its bytes are compared with its manifest before any
of them is unpickled. Readers take no lock.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from flaskml.bundle import MANIFEST_FILE, MODEL_FILE, Bundle, Facts, FileRecord, Manifest, environment
from flaskml.errors import DamagedFile, ModelNotFound, NoActiveVersion, StorageFailed, VersionNotFound
from flaskml.files import STAGING, Disk
from flaskml.settings import MODEL_NAME

STATE_FILE = "state.json"
LOCK_FILE = ".lock"

_NAME = re.compile(MODEL_NAME, re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)

Document = TypeVar("Document", bound=BaseModel)


class Activation(BaseModel):
    """One change of the active version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    at: str
    reason: str


class State(BaseModel):
    """What changes about a model: the active version and how it came to be active."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: Literal[1]
    generation: int
    """Counts the changes; whoever sees a larger one has old news."""

    active: str | None
    history: tuple[Activation, ...]
    """Every activation, oldest first."""

    def activate(self, version: str, reason: str) -> State:
        """The state after `version` has become the active one."""
        entry = Activation(version=version, at=now(), reason=reason)
        return State(format=1, generation=self.generation + 1, active=version, history=(*self.history, entry))


UNUSED = State(format=1, generation=0, active=None, history=())
"""The state of a model of which no version has been active yet."""


class Store:
    """The models under `instance_path`. Names and versions that are not well-formed are not found, and never a path."""

    def __init__(self, instance_path: Path, disk: Disk | None = None) -> None:
        self.instance_path = instance_path
        self.root = instance_path / "models"
        self.disk = disk or Disk()

    def names(self) -> list[str]:
        """The models that have a version, in order."""
        folders = self.root.iterdir() if self.root.is_dir() else ()
        return sorted(folder.name for folder in folders if _NAME.fullmatch(folder.name) and self._numbers(folder))

    def versions(self, name: str) -> list[str]:
        """The versions of a model, oldest first. Raises `ModelNotFound`."""
        numbers = self._numbers(self._folder(name))
        if not numbers:
            raise ModelNotFound(name, self.names())
        return [str(number) for number in numbers]

    def state(self, name: str) -> State:
        """What is active. Raises `ModelNotFound`, or `DamagedFile` if the state cannot be read."""
        path = self._folder(name) / STATE_FILE
        if not path.exists():
            self.versions(name)
            return UNUSED
        remedy = "Restore the file, or train again after moving it away."
        return self._read_document(path, State, remedy)

    def manifest(self, name: str, version: str) -> Manifest:
        """What the version says about itself. Raises `VersionNotFound`, or `DamagedFile`."""
        path = self._folder(name) / _checked(version, name) / MANIFEST_FILE
        if not path.parent.is_dir():
            raise VersionNotFound(name, version)
        manifest = self._read_document(path, Manifest, self._remedy(name))
        if (manifest.model, manifest.version) != (name, version):
            raise self._damaged(path, f"it belongs to {manifest.model} version {manifest.version}", name)
        return manifest

    def load(self, name: str, version: str) -> Bundle:
        """The version in memory.

        Its model file is read once and compared with the manifest before a byte of it is unpickled. Raises
        `VersionNotFound`, or `DamagedFile` naming the file that is at fault.
        """
        manifest = self.manifest(name, version)
        path = self._folder(name) / version / MODEL_FILE
        return Bundle(manifest, self._unpickle(path, self._verified(path, manifest), name))

    def load_active(self, name: str) -> Bundle:
        """The active version in memory. Raises `NoActiveVersion` if there is none, else as `load`."""
        try:
            active = self.state(name).active
        except ModelNotFound:
            active = None
        if active is None:
            raise NoActiveVersion(name, self.names())
        return self.load(name, active)

    def publish(self, name: str, estimator: Any, facts: Facts) -> Manifest:
        """Stores the estimator as the next version of the model. It is not active yet. Raises `StorageFailed`."""
        with self._writing(name) as folder:
            self._sweep(folder)
            version = str(max(self._numbers(folder), default=0) + 1)
            staged = folder / f"{STAGING}{token_hex(8)}"
            try:
                manifest = self._write(staged, estimator, facts, name, version)
                self.disk.rename(staged, folder / version)
            except BaseException:
                self.disk.remove_tree(staged)
                raise
        return manifest

    def activate(self, name: str, version: str, reason: str) -> State:
        """Makes a stored version the active one; the new state. Raises `VersionNotFound` or `StorageFailed`."""
        self.manifest(name, version)
        with self._writing(name) as folder:
            state = self.state(name).activate(version, reason)
            self.disk.replace(folder / STATE_FILE, state.model_dump_json(indent=2).encode())
        return state

    def _write(self, staged: Path, estimator: Any, facts: Facts, name: str, version: str) -> Manifest:
        import joblib

        self.disk.make_directory(staged)
        with self.disk.create(staged / MODEL_FILE) as file:
            joblib.dump(estimator, file)
        model = staged / MODEL_FILE
        record = FileRecord(sha256=self.disk.digest(model), size=model.stat().st_size)
        manifest = Manifest(
            **facts.model_dump(by_alias=True),
            format=1,
            model=name,
            version=version,
            created=now(),
            environment=environment(),
            files={MODEL_FILE: record},
        )
        with self.disk.create(staged / MANIFEST_FILE) as file:
            file.write(manifest.to_json())
        self.disk.sync_directory(staged)
        return manifest

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The model's folder, made if need be, while nobody else writes in it."""
        folder = self._folder(name)
        try:
            self.disk.make_directory(folder)
            with self.disk.lock(folder / LOCK_FILE):
                yield folder
        except OSError as error:
            raise StorageFailed(error.strerror or type(error).__name__) from error

    def _sweep(self, folder: Path) -> None:
        """Removes what publishers that died have left; nobody alive is writing while the lock is held."""
        for entry in folder.glob(f"{STAGING}*"):
            if entry.is_dir():
                self.disk.remove_tree(entry)
            else:
                entry.unlink(missing_ok=True)

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ModelNotFound(name[:100], self.names())
        return self.root / name

    def _numbers(self, folder: Path) -> list[int]:
        """The versions in a model's folder, as numbers, in order."""
        entries = folder.iterdir() if folder.is_dir() else ()
        return sorted(int(entry.name) for entry in entries if _VERSION.fullmatch(entry.name) and entry.is_dir())

    def _verified(self, path: Path, manifest: Manifest) -> bytes:
        name = manifest.model
        try:
            content = self.disk.read(path)
        except OSError as error:
            raise self._damaged(path, f"it cannot be read ({error.strerror})", name) from error
        record = manifest.files.get(MODEL_FILE)
        if record is None or len(content) != record.size:
            expected = record.size if record else 0
            raise self._damaged(path, f"it holds {len(content):,} bytes instead of {expected:,}", name)
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise self._damaged(path, "its SHA-256 is not the one in the manifest", name)
        return content

    def _unpickle(self, path: Path, content: bytes, name: str) -> Any:
        import joblib

        try:
            return joblib.load(io.BytesIO(content))
        except Exception as error:  # Unpickling may raise anything, an import that fails here included.
            cause = str(error) if isinstance(error, ImportError) else type(error).__name__
            raise self._damaged(path, f"it does not load here ({cause})", name) from error

    def _read_document(self, path: Path, document: type[Document], remedy: str) -> Document:
        try:
            return document.model_validate_json(self.disk.read(path))
        except OSError as error:
            raise DamagedFile(self._shown(path), f"it cannot be read ({error.strerror})", remedy) from error
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"]) or "document"
            raise DamagedFile(self._shown(path), f"it is not ours ({where}: {problem['msg']})", remedy) from error

    def _damaged(self, path: Path, reason: str, name: str) -> DamagedFile:
        return DamagedFile(self._shown(path), reason, self._remedy(name))

    def _remedy(self, name: str) -> str:
        option = "" if name == "default" else f" --name {name}"
        return f"Restore the file from a backup, or train a new version: flask train{option}."

    def _shown(self, path: Path) -> str:
        return path.relative_to(self.instance_path).as_posix()


def _checked(version: str, name: str) -> str:
    if not _VERSION.fullmatch(version):
        raise VersionNotFound(name, version[:20])
    return version


def now() -> str:
    """This moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
