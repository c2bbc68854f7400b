"""What one version consists of: the estimator, and the manifest that describes and seals it."""

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
"""Packages whose versions decide whether a stored estimator still gives the same answers."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")
"""What an estimator may be asked, by the names that scikit-learn gives it."""

Task: TypeAlias = Literal["classification", "regression", "clustering", "outliers", "transformation"]
RuntimeName: TypeAlias = Literal["sklearn", "onnx"]


class Score(BaseModel):
    """How well the estimator did, and on which rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: str
    value: float
    rows: int
    on: Literal["held-out rows", "the sample"] = "held-out rows"
    """Rows that it was not fitted on, or the sample that came with it, which it may have been."""

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4f}"


class Measurement(BaseModel):
    """What was found of one runtime when the version was published."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    runtime: RuntimeName
    note: str
    """Whether it answers as the estimator itself, or why it could not be had."""

    matches: bool
    """Whether its labels are the estimator's, and its numbers the same but for a millionth."""

    one_row_microseconds: float | None = None
    """Microseconds for one row, on the machine that published."""

    batch_microseconds: float | None = None
    """Microseconds for 32 rows."""


class FileRecord(BaseModel):
    """A file of the version as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: int


class VersionFacts(BaseModel):
    """What is known of a version before it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    task: Task
    """What kind of question the estimator answers."""

    target: str | None = None
    """The name of the column that it predicts, if it was said."""

    estimator: str
    """The estimator, for people."""

    data: str
    """Where the training rows came from: a built-in name or a file's name without its folder."""

    rows: int
    """How many rows it was fitted on, or that the sample has which came with it."""

    seed: int | None = None
    """The seed of the split and of the estimator, if we fitted it."""

    score: Score | None = None
    """The score; None where none was measured."""

    schema_: Annotated[Schema, Field(alias="schema")]
    """The features."""

    methods: tuple[str, ...] = ("predict",)
    """What the estimator can be asked; the first answers when nothing is named."""

    classes: tuple[tuple[str, ...], ...] = ()
    """The names of the classes it tells apart, output by output, in the order of its columns."""

    runtime: RuntimeName = "sklearn"
    """What computes."""

    graphs: Mapping[str, tuple[str, ...]] = {}
    """The files of the graphs that the ONNX runtime computes, and the methods that each answers."""

    measurements: tuple[Measurement, ...] = ()
    """What each runtime took to answer, and whether it answered right."""

    @property
    def in_graphs(self) -> bool:
        """Whether the graphs answer every method, so that nobody needs the estimator itself."""
        return set(self.methods) <= {method for methods in self.graphs.values() for method in methods}


class Manifest(VersionFacts):
    """What a version records about itself. It is written last, so its presence says that the version is whole."""

    format: ManifestFormat
    """The number of the format it was written in."""

    model: str
    version: str
    created: str
    """When it was stored, ISO 8601 in UTC."""

    environment: Mapping[str, str]
    """The versions of Python and of the packages in `RECORDED_PACKAGES`, and the kind of machine."""

    files: Mapping[str, FileRecord]
    """Every other file of the version, by name."""

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return self.model_dump_json(by_alias=True, indent=2).encode()


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """One version in memory, as read."""

    manifest: Manifest
    estimator: Any
    """The estimator; None where graphs answer every method."""

    graphs: Mapping[str, bytes] = field(default_factory=dict)
    """The content of each file of a graph."""


def current_environment() -> dict[str, str]:
    """The versions of what is running now."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def environment_key() -> str:
    """What runs now, as one text: a verdict holds for as long as it stays the same."""
    return ", ".join(f"{name} {version}" for name, version in current_environment().items())
