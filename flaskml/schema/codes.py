"""Rows as doubles, for graphs that take texts and dates too.

A text becomes the code of its place in the vocabulary of its column, a datetime the number of microseconds since 1970,
a boolean 0 or 1, and null NaN. No code is reserved: the texts '', 'nan' and 'None' are texts like any other.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flaskml.schema.columns import CodedColumn, Columns
from flaskml.schema.features import Feature, Schema, Value, parse_datetime

UNKNOWN_CODE = -1.0
"""The code of a text that is not in the vocabulary."""

_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)


class _Codes(dict[str | None, float]):
    """The code of each text of a vocabulary, and of null."""

    def __missing__(self, text: str | None) -> float:
        return UNKNOWN_CODE


class CodedRows:
    """Encoder of the rows of a schema; `vocabularies` holds the texts of each text column by its position."""

    def __init__(self, schema: Schema, vocabularies: Mapping[int, Sequence[str]]) -> None:
        self._width = len(schema.features)
        self._encoders: list[tuple[int, Callable[[Any], float]]] = []
        for index, feature in enumerate(schema.features):
            if encode := _encoder(feature, vocabularies.get(index, ())):
                self._encoders.append((index, encode))

    def encode(self, rows: Sequence[Sequence[Value]]) -> np.ndarray:
        """Return the rows, whose values are valid, as an array of shape (rows, features)."""
        if len(rows) == 1:
            values: list[Any] = list(rows[0])
            for index, encode in self._encoders:
                values[index] = encode(values[index])
            return np.array([values], dtype=np.float64)
        return self.encode_columns(list(zip(*rows, strict=True)))

    def encode_columns(self, columns: Columns) -> np.ndarray:
        """Return the same for columns with valid values."""
        encoders: dict[int, Callable[[Any], float]] = dict(self._encoders)
        table = np.empty((len(columns[0]), self._width))
        for index, column in enumerate(columns):
            encode = encoders.get(index)
            if isinstance(column, CodedColumn):
                values = column.distinct if encode is None else list(map(encode, column.distinct))
                table[:, index] = np.array(values, dtype=np.float64)[column.codes]
            else:
                table[:, index] = column if encode is None else list(map(encode, column))
        return table


def has_text_codes(feature: Feature) -> bool:
    """Return whether the values of a feature are texts with a vocabulary."""
    return feature.kind == "text" or (feature.kind == "category" and not feature.is_whole)


def _encoder(feature: Feature, vocabulary: Sequence[str]) -> Callable[[Any], float] | None:
    """Return the function that encodes a value of a feature; None for numbers and booleans."""
    if has_text_codes(feature):
        codes = _Codes({text: float(code) for code, text in enumerate(vocabulary)})
        codes[None] = math.nan
        return codes.__getitem__
    return _microseconds if feature.kind == "datetime" else None


def _microseconds(text: str | None) -> float:
    """Return the microseconds since 1970 in UTC of a datetime in ISO 8601; one without an offset counts as UTC."""
    if text is None:
        return math.nan
    moment = parse_datetime(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return float((moment - _EPOCH) // _MICROSECOND)
