"""The slot of a model: one attribute that every request reads the current predictor from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from flaskml.codecs.answers import Answer
from flaskml.errors import FlaskmlError, NoActiveVersion, VersionNotServed
from flaskml.inference.predictor import Predictor
from flaskml.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class NoPredictor:
    """A stand-in for a missing predictor: reading any attribute of a predictor raises `reason`."""

    reason: FlaskmlError

    def __getattr__(self, _: str) -> Any:
        # One error object is raised many times. Reset its traceback, or it collects the frames of every call.
        raise self.reason.with_traceback(None)


Current: TypeAlias = Predictor | NoPredictor
"""The content of a slot. Both classes have the same attributes, and those of `NoPredictor` always raise."""


class ModelSlot:
    """One model's current predictor. A request reads `current` once and uses only that value; a hot reload replaces it.

    So no response mixes two versions.
    """

    __slots__ = ("current", "name", "versions")

    def __init__(self, name: str, current: Current | None = None) -> None:
        self.name = name
        self.current: Current = current or NoPredictor(NoActiveVersion(name, ()))
        self.versions: Mapping[str, Predictor] = {}
        """The predictors of the versions that a request may name: the current one and those with an alias."""

    def __repr__(self) -> str:
        return f"<ModelSlot {describe_current(self.current)}>"

    @property
    def current_manifest(self) -> Manifest | None:
        """The manifest of the current version; None if there is no model."""
        return self.current.manifest if isinstance(self.current, Predictor) else None

    def swap(self, current: Current, versions: Mapping[str, Predictor] | None = None) -> None:
        """Replace the current predictor by the atomic swap of a reference.

        Requests that have read the old predictor finish with it.
        """
        self.versions = versions or {}
        self.current = current

    def version(self, version: str) -> Predictor:
        """Return the predictor of a version that is active or has an alias. Raises `VersionNotServed` for any other."""
        predictor = self.versions.get(version)
        if predictor is None:
            raise VersionNotServed(self.name, version)
        return predictor

    def predict(self, rows: Any, method: str | None = None) -> Answer:
        """Return one prediction per row as an array of shape (rows,) or (rows, outputs), or another method's answer.

        `rows` is a mapping (one row), a list of mappings or of lists, a 2-D array or a DataFrame.
        Raises `InvalidInput`, which names row and feature, `MethodNotOffered` or `RowsRefused`.
        """
        predictor = self.current
        return predictor.predict(predictor.parser.parse_table(rows), predictor.resolve_method(method))


def describe_current(current: Current) -> str:
    """Return a short description of the current predictor, for the startup log and for `repr`."""
    if isinstance(current, NoPredictor):
        return f"no model ({current.reason.detail})"
    manifest = current.manifest
    score = f" ({manifest.score})" if manifest.score else ""
    return f"{manifest.model} version {manifest.version}{score}"
