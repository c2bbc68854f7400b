"""One version as a folder: written once, and verified before any file in it is used.

model.joblib      the estimator, written by joblib; absent if the version was imported as an ONNX graph
*.onnx            the graphs for the ONNX runtime, if that runtime was chosen
golden.json       the golden rows and their answers
manifest.json     the manifest, with the SHA-256 digest of each file above
manifest.sig      the HMAC signature of the manifest
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flaskml.errors import DamagedFile, FlaskmlError
from flaskml.store.disk import STAGING_PREFIX, Disk
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
"""Bytes from which a model file is memory-mapped. A mapped array slows each call a little; a small file loads fast."""

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class VersionContents:
    """The content of a version beside its manifest."""

    estimator: Any
    """The fitted estimator; None if the version was imported as an ONNX graph."""

    golden_rows: GoldenRows
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The content of each ONNX graph, by file name."""


class VersionFolders:
    """A writer and reader of version folders. Paths in errors are relative to `instance_path`."""

    def __init__(self, instance_path: Path, disk: Disk, signer: Signer, permissions: PermissionChecker) -> None:
        self.instance_path = instance_path
        self.disk = disk
        self.signer = signer
        self.permissions = permissions

    def create(self, path: Path, facts: VersionFacts, contents: VersionContents) -> Manifest:
        """Write a version to a staging directory beside `path`, and rename it atomically to `path`. Raises OSError."""
        staged = path.with_name(f"{STAGING_PREFIX}{token_hex(8)}")
        try:
            manifest = self._write(staged, path, facts, contents)
            self.disk.rename(staged, path)
        except BaseException:
            self.disk.remove_tree(staged)
            raise
        return manifest

    def remove(self, path: Path) -> None:
        """Remove a version. It is renamed first, so that no reader sees a version with half of its files."""
        removed = path.with_name(f"{STAGING_PREFIX}{token_hex(8)}")
        self.disk.rename(path, removed)
        self.disk.remove_tree(removed)

    def _write(self, folder: Path, path: Path, facts: VersionFacts, contents: VersionContents) -> Manifest:
        """Write all files of the version for `path` into the new directory `folder`, the signature last."""
        self.disk.make_staging_directory(folder)
        file_names = [*contents.graphs, GOLDEN_FILE]
        if contents.estimator is not None:
            self._write_estimator(folder / MODEL_FILE, contents.estimator)
            file_names.insert(0, MODEL_FILE)
        for file, graph in contents.graphs.items():
            self._write_file(folder / file, graph)
        self._write_file(folder / GOLDEN_FILE, contents.golden_rows.model_dump_json().encode())
        files = {file: self._record(folder / file) for file in file_names}
        fields = {**facts.model_dump(by_alias=True), "environment": current_environment(), "files": files}
        manifest = Manifest(
            **fields, format=MANIFEST_FORMAT, model=path.parent.name, version=path.name, created=utc_now()
        )
        content = manifest.to_json()
        self._write_file(folder / MANIFEST_FILE, content)
        self._write_file(folder / SIGNATURE_FILE, self.signer.sign(content, new_key=not self._has_signatures()))
        self.disk.sync_directory(folder)
        return manifest

    def manifest(self, folder: Path) -> Manifest:
        """Return the manifest. Its signature, model name and version are verified. Raises `DamagedFile`."""
        path, name = folder / MANIFEST_FILE, folder.parent.name
        content = self._read(path, name)
        if not self.signer.verify(content, self._read(folder / SIGNATURE_FILE, name)):
            key = self.signer.path.name
            reason = f"its signature does not match {key}: it was changed, or another installation wrote it"
            raise self._damaged(path, reason, name)
        manifest = self.parse_document(path, Manifest, name, content)
        if (manifest.model, manifest.version) != (name, folder.name):
            raise self._damaged(path, f"it belongs to {manifest.model} version {manifest.version}", name)
        return manifest

    def golden_rows(self, folder: Path, manifest: Manifest) -> GoldenRows:
        """Return the golden rows, with their digest verified. Raises `DamagedFile`."""
        content = self._read_verified(folder, GOLDEN_FILE, manifest)
        return self.parse_document(folder / GOLDEN_FILE, GoldenRows, manifest.model, content)

    def check(self, folder: Path) -> Manifest:
        """Verify permissions, signature and digests without loading the version. Raises `DamagedFile`."""
        self.permissions.check(folder)
        manifest = self.manifest(folder)
        for file in manifest.files:
            try:
                size, digest = self.disk.digest(folder / file)
            except OSError as error:
                raise self.unreadable_file(folder / file, error, manifest.model) from error
            self._compare_digest(folder / file, manifest, size, digest)
        return manifest

    def load(self, folder: Path, manifest: Manifest, *, mapped: bool) -> LoadedVersion:
        """Load into memory the parts of a version that its runtime needs. Raises `DamagedFile`."""
        graphs = {file: self._read_verified(folder, file, manifest) for file in manifest.graphs}
        needs_estimator = not (manifest.runtime == "onnx" and manifest.graphs_answer_all)
        estimator = self._load_estimator(folder, manifest, mapped=mapped) if needs_estimator else None
        return LoadedVersion(manifest, estimator, graphs)

    def _load_estimator(self, folder: Path, manifest: Manifest, *, mapped: bool) -> Any:
        """Unpickle the estimator; if `mapped` and large, with memory-mapped arrays. Raises `DamagedFile`."""
        import joblib

        path = folder / MODEL_FILE
        try:
            if mapped and is_mappable(manifest):
                self.check(folder)
                return joblib.load(path, mmap_mode="r")
            # The file is read once, so the verified bytes are the loaded bytes, and no race can change them in between.
            return joblib.load(io.BytesIO(self._read_verified(folder, MODEL_FILE, manifest)))
        except (FlaskmlError, MemoryError):
            raise
        except Exception as error:  # Unpickling may raise any exception, such as that of a failed import.
            missing = error.name if isinstance(error, ImportError) else None
            reason = f"it does not load here ({type(error).__name__}{f' {missing}' if missing else ''})"
            remedy = f"Install {missing}, or put it beside wsgi.py." if missing else ""
            raise self._damaged(path, reason, manifest.model, remedy) from error

    def parse_document(self, path: Path, kind: type[Document], name: str, content: bytes) -> Document:
        """Return `content`, the JSON text of the file `path` of model `name`, as a `kind`. Raises `DamagedFile`."""
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            location = ".".join(str(part) for part in problem["loc"]) or "document"
            command = f"flask models activate {name} VERSION"
            is_state = path.parent.name == name
            remedy = f"Restore it from a backup, or remove it and activate a version: {command}." if is_state else ""
            reason = f"its content is not valid ({location}: {problem['msg']})"
            raise self._damaged(path, reason, name, remedy) from error

    def unreadable_file(self, path: Path, error: OSError, name: str) -> DamagedFile:
        """Return the error for a file that the operating system cannot read, or forbids to read."""
        return self._damaged(path, f"it cannot be read ({error.strerror})", name)

    def _read(self, path: Path, name: str) -> bytes:
        """Return the content of a file of model `name`. Raises `DamagedFile`."""
        try:
            return self.disk.read(path)
        except OSError as error:
            raise self.unreadable_file(path, error, name) from error

    def _read_verified(self, folder: Path, file: str, manifest: Manifest) -> bytes:
        """Return the content of a file whose digest matches the manifest. Raises `DamagedFile`."""
        content = self._read(folder / file, manifest.model)
        self._compare_digest(folder / file, manifest, len(content), hashlib.sha256(content).hexdigest())
        return content

    def _write_estimator(self, path: Path, estimator: Any) -> None:
        import joblib

        with self.disk.create(path) as file:
            joblib.dump(estimator, file)

    def _write_file(self, path: Path, content: bytes) -> None:
        with self.disk.create(path) as file:
            file.write(content)

    def _has_signatures(self) -> bool:
        """Return whether any version in the store is signed. A new key would invalidate its signature."""
        return any(self.instance_path.glob(f"models/*/[1-9]*/{SIGNATURE_FILE}"))

    def _record(self, path: Path) -> FileRecord:
        size, digest = self.disk.digest(path)
        return FileRecord(sha256=digest, size=size)

    def _compare_digest(self, path: Path, manifest: Manifest, size: int, digest: str) -> None:
        record = manifest.files.get(path.name)
        if record is None or size != record.size:
            expected = record.size if record else 0
            raise self._damaged(path, f"it holds {size:,} bytes instead of {expected:,}", manifest.model)
        if digest != record.sha256:
            raise self._damaged(path, "its SHA-256 is not the one in the manifest", manifest.model)

    def _damaged(self, path: Path, reason: str, name: str, remedy: str = "") -> DamagedFile:
        return DamagedFile(path.relative_to(self.instance_path).as_posix(), reason, name, remedy)


def is_mappable(manifest: Manifest) -> bool:
    """Return whether the model file is large enough to be memory-mapped (`MIN_MAPPED_BYTES`)."""
    record = manifest.files.get(MODEL_FILE)
    return record is not None and record.size >= MIN_MAPPED_BYTES
