"""The manifest: the record of one version, with its schema, metrics, provenance and the digest of each file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from flaskml.schema.features import Schema
from flaskml.store.formats import ManifestFormat

MODEL_FILE = "model.joblib"
MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.sig"

RECORDED_PACKAGES = (
    *("flaskml", "scikit-learn", "numpy", "scipy", "joblib", "pandas", "xgboost", "xgboost-cpu", "lightgbm"),
    "onnxruntime",
)
"""Packages whose versions can change the answers of a stored estimator."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")
"""The methods of an estimator that requests can call, with the names of scikit-learn."""

Task: TypeAlias = Literal["classification", "regression", "clustering", "outliers", "transformation"]
RuntimeName: TypeAlias = Literal["sklearn", "onnx"]


class Score(BaseModel):
    """The value of one metric, and the rows that it was measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    value: float
    rows: int
    on: Literal["held-out rows", "the sample"] = "held-out rows"
    """Rows that the estimator was not fitted on, or the sample that came with it, which may hold training rows."""

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}"


class Measurement(BaseModel):
    """The equality check and the latency of one runtime, measured when the version was published."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime: RuntimeName
    note: str
    """A sentence: the result of the comparison with the estimator, or the reason why the runtime is not available."""

    matches: bool
    """True if the labels equal the estimator's and the numbers are within the promised 1e-6."""

    one_row_microseconds: float | None = None
    """Latency of one row in microseconds, on the machine that published the version."""

    batch_microseconds: float | None = None
    """Latency of a batch of 32 rows in microseconds."""


class FileRecord(BaseModel):
    """The SHA-256 digest (hex) and the size (bytes) of one file of the version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int


class VersionFacts(BaseModel):
    """The facts about a version that are known before it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    task: Task
    """The kind of task that the estimator solves."""

    target: str | None = None
    """The name of the target column; None if it is unknown."""

    estimator: str
    """The name of the estimator, for people."""

    data: str
    """The source of the training rows: the name of a built-in data set, or a file name without its folder."""

    rows: int
    """The number of rows that the estimator was fitted on, or of the sample that came with it."""

    seed: int | None = None
    """The random seed of the split and of the estimator; None if the estimator was fitted elsewhere."""

    score: Score | None = None
    """The score; None if it was not measured."""

    schema_: Annotated[Schema, Field(alias="schema")]
    """The features that the estimator takes."""

    methods: tuple[str, ...] = ("predict",)
    """The methods that the estimator offers; the first one is the default."""

    classes: tuple[tuple[str, ...], ...] = ()
    """The class names of each output, in the order of the estimator's columns; empty if there are no classes."""

    runtime: RuntimeName = "sklearn"
    """The runtime that computes answers."""

    graphs: Mapping[str, tuple[str, ...]] = {}
    """The file name of each ONNX graph, with the methods that the graph computes."""

    measurements: tuple[Measurement, ...] = ()
    """One measurement for each runtime that was compared."""

    @property
    def graphs_answer_all(self) -> bool:
        """True if the ONNX graphs compute every method, so that the estimator does not have to be loaded."""
        return set(self.methods) <= {method for methods in self.graphs.values() for method in methods}


class Manifest(VersionFacts):
    """The record of one stored version.

    It is written after the files that it lists, so the presence of a manifest means that they are complete.
    """

    format: ManifestFormat
    """The number of the on-disk format."""

    model: str
    version: str
    created: str
    """The time of storage, ISO 8601 in UTC."""

    environment: Mapping[str, str]
    """Versions of Python and of the packages in `RECORDED_PACKAGES`, and the machine type, at the time of storage."""

    files: Mapping[str, FileRecord]
    """The record of every file of the version except the manifest and its signature, by file name."""

    def to_json(self) -> bytes:
        """Return the manifest as it is stored: indented JSON."""
        return self.model_dump_json(by_alias=True, indent=2).encode()


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version in memory as read from disk."""

    manifest: Manifest
    estimator: Any
    """The estimator; None if the runtime is ONNX and its graphs compute every method."""

    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The content of each ONNX graph, by file name."""


def current_environment() -> dict[str, str]:
    """Return the versions of Python and of the recorded packages in this process, and the machine type."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@cache
def environment_key() -> str:
    """Return the environment of this process as one text. A trial verdict is valid for one such text."""
    return ", ".join(f"{name} {version}" for name, version in current_environment().items())
