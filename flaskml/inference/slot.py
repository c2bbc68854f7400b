"""The slot of a model: the place that every request reads its current predictor from."""

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
    """Stands where a predictor would, and answers every question with the reason why there is none."""

    reason: FlaskmlError

    def __getattr__(self, _: str) -> Any:
        # One error is raised again and again: its traceback must not gather the frames of all who met it.
        raise self.reason.with_traceback(None)


Current: TypeAlias = Predictor | NoPredictor
"""What a slot holds. Both answer to the same names; one of them always with an error."""


class ModelSlot:
    """Holds one model's current predictor. Reading `current` once is all that a request needs; a swap replaces it."""

    __slots__ = ("current", "name", "versions")

    def __init__(self, name: str, current: Current | None = None) -> None:
        self.name = name
        self.current: Current = current or NoPredictor(NoActiveVersion(name, ()))
        self.versions: Mapping[str, Predictor] = {}
        """The predictors that answer when a version is named: the current one and those with an alias."""

    def __repr__(self) -> str:
        return f"<ModelSlot {describe_current(self.current)}>"

    @property
    def serving(self) -> Manifest | None:
        """What the current version records about itself; None if there is no model."""
        return self.current.manifest if isinstance(self.current, Predictor) else None

    def swap(self, current: Current, versions: Mapping[str, Predictor] | None = None) -> None:
        """Puts `current` in place for all who read from now on; who has read the old one finishes with it."""
        self.versions = versions or {}
        self.current = current

    def version(self, version: str) -> Predictor:
        """The predictor of a version that is active or has an alias. Raises `VersionNotServed` for any other."""
        predictor = self.versions.get(version)
        if predictor is None:
            raise VersionNotServed(self.name, version)
        return predictor

    def predict(self, rows: Any, method: str | None = None) -> Answer:
        """One prediction per row, as an array: shape (rows,), or (rows, outputs); or what another method answers.

        `rows` is a mapping (one row), a list of mappings or of lists, a 2-D array or a DataFrame.
        Raises `InvalidInput` naming row and feature.
        """
        predictor = self.current
        return predictor.predict(predictor.parser.parse_table(rows), predictor.method(method))


def describe_current(current: Current) -> str:
    """The current predictor in a few words, for the start line and for people."""
    if isinstance(current, NoPredictor):
        return f"no model ({current.reason.detail})"
    manifest = current.manifest
    score = f" ({manifest.score})" if manifest.score else ""
    return f"{manifest.model} version {manifest.version}{score}"
