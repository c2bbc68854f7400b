"""A version in memory, and the place that the current one is read from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from pydantic_core import to_json

from flaskml.bundle import Bundle, Manifest
from flaskml.errors import FlaskmlError, NoActiveVersion, NotAnswerable, VersionNotServed
from flaskml.parsing import Parser, Rows
from flaskml.runtimes import open_runtime
from flaskml.runtimes.base import Runtime
from flaskml.schema import Schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """One version, ready to answer, never changed. Whoever answers a request holds one from its start to its end."""

    manifest: Manifest
    parser: Parser
    runtime: Runtime
    signature: bytes
    """The end of every JSON answer: which model and version gave it."""

    @property
    def schema(self) -> Schema:
        """The features that a row has."""
        return self.manifest.schema_

    def parse(self, body: bytes) -> Rows:
        """The rows in a JSON body. Raises `NotParseable`, `InvalidInput` or `TooManyRows`."""
        return self.parser.parse_json(body)

    def predict(self, rows: Rows) -> np.ndarray:
        """One prediction per row: shape (rows,), or (rows, outputs)."""
        if not len(rows.table):
            return np.empty(0)
        try:
            return self.runtime.predict(rows.table)
        except (ValueError, OverflowError) as error:  # Numbers that are finite and overflow inside the estimator.
            logger.warning("%s version %s refused rows: %s", self.manifest.model, self.manifest.version, error)
            raise NotAnswerable from error

    def warm(self) -> None:
        """Answers a made-up row, so that the first client does not pay for what a first call does."""
        self.predict(self.parser.parse_table(self.schema.example))

    def answer(self, rows: Rows, predictions: np.ndarray) -> bytes:
        """The predictions as JSON of the native contract; what is not finite becomes null."""
        values = predictions.tolist()
        start, value = (b'{"prediction":', values[0]) if rows.single else (b'{"predictions":', values)
        return b"".join((start, to_json(value, inf_nan_mode="null"), self.signature))


@dataclass(frozen=True, slots=True)
class Absent:
    """Stands where a predictor would, and answers every question with the reason why there is none."""

    reason: FlaskmlError

    def __getattr__(self, _: str) -> Any:
        # One error is raised again and again: its traceback must not gather the frames of all who met it.
        raise self.reason.with_traceback(None)


Current: TypeAlias = Predictor | Absent
"""What a slot holds. Both answer to the same names; one of them always with an error."""


class ModelSlot:
    """Holds one model's current predictor. Reading `current` once is all that a request needs; a swap replaces it."""

    __slots__ = ("current", "name", "versions")

    def __init__(self, name: str, current: Current | None = None) -> None:
        self.name = name
        self.current: Current = current or Absent(NoActiveVersion(name, ()))
        self.versions: Mapping[str, Predictor] = {}
        """The predictors that answer when a version is named: the current one and those with an alias."""

    def __repr__(self) -> str:
        return f"<ModelSlot {describe(self.current)}>"

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

    def predict(self, rows: Any) -> np.ndarray:
        """One prediction per row, as an array: shape (rows,), or (rows, outputs).

        `rows` is a mapping (one row), a list of mappings or of lists, a 2-D array or a DataFrame.
        Raises `InvalidInput` naming row and feature.
        """
        predictor = self.current
        return predictor.predict(predictor.parser.parse_table(rows))


def open_predictor(bundle: Bundle, *, max_rows: int) -> Predictor:
    """The predictor of a bundle: all that can be computed before the first request is computed here."""
    manifest = bundle.manifest
    signature = to_json({"model": manifest.model, "version": manifest.version})
    return Predictor(
        manifest=manifest,
        parser=Parser(manifest.schema_, max_rows=max_rows),
        runtime=open_runtime(bundle),
        signature=b"," + signature[1:],
    )


def describe(current: Current) -> str:
    """The current predictor in a few words, for the start line and for people."""
    if isinstance(current, Absent):
        return f"no model ({current.reason.detail})"
    manifest = current.manifest
    score = f" ({manifest.score})" if manifest.score else ""
    return f"{manifest.model} version {manifest.version}{score}"
