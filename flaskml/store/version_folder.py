"""One version as a folder: written once, and verified before anything in it is used.

model.joblib      the estimator, as joblib writes it; not there if the version came as a graph
*.onnx            the graphs that the ONNX runtime computes, if it was chosen
golden.json       rows and the answers that they must get
manifest.json     what the version is, with the digest of each file
manifest.sig      our signature of the manifest
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flaskml.errors import DamagedFile, FlaskmlError
from flaskml.store.disk import Disk
from flaskml.store.formats import MANIFEST_FORMAT
from flaskml.store.golden_rows import GOLDEN_FILE, GoldenRows
from flaskml.store.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    SIGNATURE_FILE,
    FileRecord,
    LoadedVersion,
    Manifest,
    VersionFacts,
    current_environment,
)
from flaskml.store.permissions import PermissionChecker
from flaskml.store.signing import Signer
from flaskml.store.state import utc_now

MIN_MAPPED_BYTES = 2**20
"""Bytes from which a model file is mapped; a mapped array costs each call a little, and a small one is soon read."""

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class VersionContents:
    """What a version holds beside its manifest."""

    estimator: Any
    """The fitted estimator; None for one that came as a graph."""

    golden: GoldenRows
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The graphs, by the name of their file."""


class VersionFolders:
    """Writes and reads the folders of versions. Paths in its errors are relative to `instance_path`."""

    def __init__(self, instance_path: Path, disk: Disk, signer: Signer, custody: PermissionChecker) -> None:
        self.instance_path = instance_path
        self.disk = disk
        self.signer = signer
        self.custody = custody

    def write(self, folder: Path, version: str, name: str, facts: VersionFacts, contents: VersionContents) -> Manifest:
        """Writes all files of a version into a new folder, the signature last. Raises OSError."""
        self.disk.stage(folder)
        written = [*contents.graphs, GOLDEN_FILE]
        if contents.estimator is not None:
            self._write_estimator(folder / MODEL_FILE, contents.estimator)
            written.insert(0, MODEL_FILE)
        for file, graph in contents.graphs.items():
            self._write_file(folder / file, graph)
        self._write_file(folder / GOLDEN_FILE, contents.golden.model_dump_json().encode())
        files = {file: self._record(folder / file) for file in written}
        known = {**facts.model_dump(by_alias=True), "environment": current_environment(), "files": files}
        manifest = Manifest(**known, format=MANIFEST_FORMAT, model=name, version=version, created=utc_now())
        content = manifest.to_json()
        self._write_file(folder / MANIFEST_FILE, content)
        self._write_file(folder / SIGNATURE_FILE, self.signer.sign(content, new_key=not self._holds_signatures()))
        self.disk.sync_directory(folder)
        return manifest

    def manifest(self, folder: Path) -> Manifest:
        """What the version says about itself, its signature and its place checked. Raises `DamagedFile`."""
        path, name = folder / MANIFEST_FILE, folder.parent.name
        content = self.content(path, name)
        if not self.signer.verify(content, self.content(folder / SIGNATURE_FILE, name)):
            key = self.signer.path.name
            raise self._damaged(path, f"its signature is not by {key}: it was changed, or comes from elsewhere", name)
        manifest = self.document(path, Manifest, name, content)
        if (manifest.model, manifest.version) != (name, folder.name):
            raise self._damaged(path, f"it belongs to {manifest.model} version {manifest.version}", name)
        return manifest

    def golden(self, folder: Path, manifest: Manifest) -> GoldenRows:
        """The golden rows of the version. Raises `DamagedFile`."""
        return self.document(
            folder / GOLDEN_FILE, GoldenRows, manifest.model, self._verified(folder, GOLDEN_FILE, manifest)
        )

    def check(self, folder: Path) -> Manifest:
        """Checks all that can be checked of a version without loading it. Raises `DamagedFile`."""
        self.custody.check(folder)
        manifest = self.manifest(folder)
        for file in manifest.files:
            try:
                size, digest = self.disk.digest(folder / file)
            except OSError as error:
                raise self.unreadable(folder / file, error, manifest.model) from error
            self._compare(folder / file, manifest, size, digest)
        return manifest

    def load(self, folder: Path, manifest: Manifest, *, mapped: bool) -> LoadedVersion:
        """The version in memory, with no more of it than its runtime needs. Raises `DamagedFile`."""
        graphs = {file: self._verified(folder, file, manifest) for file in manifest.graphs}
        needed = not (manifest.runtime == "onnx" and manifest.in_graphs)
        return LoadedVersion(manifest, self._estimator(folder, manifest, mapped=mapped) if needed else None, graphs)

    def _estimator(self, folder: Path, manifest: Manifest, *, mapped: bool) -> Any:
        """The estimator; if `mapped` and large, with its arrays mapped from its file. Raises `DamagedFile`."""
        import joblib

        path = folder / MODEL_FILE
        try:
            if mapped and is_mappable(manifest):
                self.check(folder)
                return joblib.load(path, mmap_mode="r")
            # What was compared is what is loaded: the same bytes, read once.
            return joblib.load(io.BytesIO(self._verified(folder, MODEL_FILE, manifest)))
        except (FlaskmlError, MemoryError):
            raise
        except Exception as error:  # Unpickling may raise anything, an import that fails here included.
            missing = error.name if isinstance(error, ImportError) else None
            reason = f"it does not load here ({type(error).__name__}{f' {missing}' if missing else ''})"
            remedy = f"Install {missing}, or put it beside wsgi.py." if missing else ""
            raise self._damaged(path, reason, manifest.model, remedy) from error

    def document(self, path: Path, kind: type[Document], name: str, content: bytes | None = None) -> Document:
        """The JSON document of a model at `path`, or in `content`, as a `kind`. Raises `DamagedFile`."""
        try:
            return kind.model_validate_json(self.content(path, name) if content is None else content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in problem["loc"]) or "document"
            again = f"flask models activate {name} VERSION"
            is_state = path.parent.name == name
            remedy = f"Restore it from a backup, or remove it and activate a version: {again}." if is_state else ""
            raise self._damaged(path, f"it is not ours ({where}: {problem['msg']})", name, remedy) from error

    def content(self, path: Path, name: str) -> bytes:
        """The bytes of a file of a model. Raises `DamagedFile`."""
        try:
            return self.disk.read(path)
        except OSError as error:
            raise self.unreadable(path, error, name) from error

    def _write_estimator(self, path: Path, estimator: Any) -> None:
        import joblib

        with self.disk.create(path) as file:
            joblib.dump(estimator, file)

    def _write_file(self, path: Path, content: bytes) -> None:
        with self.disk.create(path) as file:
            file.write(content)

    def _holds_signatures(self) -> bool:
        """Whether anything in the store was signed before; another key would make that worthless."""
        return any(self.instance_path.glob(f"models/*/[1-9]*/{SIGNATURE_FILE}"))

    def _record(self, path: Path) -> FileRecord:
        size, digest = self.disk.digest(path)
        return FileRecord(sha256=digest, size=size)

    def _verified(self, folder: Path, file: str, manifest: Manifest) -> bytes:
        """The content of a file of the version, which is the one that the manifest names."""
        content = self.content(folder / file, manifest.model)
        self._compare(folder / file, manifest, len(content), hashlib.sha256(content).hexdigest())
        return content

    def _compare(self, path: Path, manifest: Manifest, size: int, digest: str) -> None:
        record = manifest.files.get(path.name)
        if record is None or size != record.size:
            expected = record.size if record else 0
            raise self._damaged(path, f"it holds {size:,} bytes instead of {expected:,}", manifest.model)
        if digest != record.sha256:
            raise self._damaged(path, "its SHA-256 is not the one in the manifest", manifest.model)

    def unreadable(self, path: Path, error: OSError, name: str) -> DamagedFile:
        """The error for a file that the system does not let us read."""
        return self._damaged(path, f"it cannot be read ({error.strerror})", name)

    def _damaged(self, path: Path, reason: str, name: str, remedy: str = "") -> DamagedFile:
        return DamagedFile(path.relative_to(self.instance_path).as_posix(), reason, name, remedy)


def is_mappable(manifest: Manifest) -> bool:
    """Whether mapping the model file is worth it."""
    record = manifest.files.get(MODEL_FILE)
    return record is not None and record.size >= MIN_MAPPED_BYTES
