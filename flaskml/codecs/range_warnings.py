"""Warnings about valid values outside the training data: numbers and datetimes out of range, unknown categories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from flaskml.codecs.rows import Rows
from flaskml.errors import MAX_PROBLEMS, Problem
from flaskml.schema.features import Feature, Schema, Value, parse_datetime

MAX_LOOP_VALUES = 100
"""Values up to which a Python loop is faster than NumPy."""

OutsideCheck: TypeAlias = Callable[[Any], bool]
"""Returns whether a value is outside the training data of its feature."""


class RangeWarnings:
    """The checks of one schema for values outside the training data.

    Numbers and datetimes are checked if the schema's `out_of_range` is `warn`, categories if the feature's `unknown` is
    `accept`.
    """

    def __init__(self, schema: Schema) -> None:
        self._checks = [
            (index, feature, check)
            for index, feature in enumerate(schema.features)
            if (check := _outside_check(schema, feature)) is not None
        ]
        self._is_numeric = bool(self._checks) and schema.layout == "array" and np.dtype(schema.dtype).kind in "iuf"
        self._ranges: list[tuple[int, float, float]] = []
        """Column index, minimum and maximum of each checked feature, for schemas of numbers only."""

        if self._is_numeric:
            checked = {index: feature for index, feature, _ in self._checks}
            columns = range(len(schema.features))
            ranges = [checked[i].observed_range if i in checked else (None, None) for i in columns]
            self._low = np.array([-np.inf if low is None else low for low, _ in ranges], dtype=np.float64)
            self._high = np.array([np.inf if high is None else high for _, high in ranges], dtype=np.float64)
            self._ranges = [
                (index, -math.inf if low is None else low, math.inf if high is None else high)
                for index, (low, high) in enumerate(ranges)
                if index in checked
            ]

    def find(self, rows: Rows) -> Sequence[Problem]:
        """Return the first `MAX_PROBLEMS` warnings about the rows."""
        if not self._checks or (self._is_numeric and not self._is_any_outside(rows)):
            return ()
        return list(islice(self._warnings(rows.values), MAX_PROBLEMS))

    def _is_any_outside(self, rows: Rows) -> bool:
        """Return whether any number is outside its range."""
        if len(rows.values) * len(self._ranges) > MAX_LOOP_VALUES:
            return bool(((rows.table < self._low) | (rows.table > self._high)).any())
        for row in rows.values:
            for index, low, high in self._ranges:
                value: Any = row[index]
                if value is not None and not low <= value <= high:
                    return True
        return False

    def _warnings(self, rows: Sequence[Sequence[Value]]) -> Iterator[Problem]:
        for number, row in enumerate(rows):
            for index, feature, is_outside in self._checks:
                value = row[index]
                if value is not None and is_outside(value):
                    yield Problem(number, feature.name[:100], f'"{feature.name[:100]}" {_description(feature)}')


def _outside_check(schema: Schema, feature: Feature) -> OutsideCheck | None:
    if feature.kind == "category":
        known = frozenset(feature.categories or ())
        return (lambda value: value not in known) if feature.unknown == "accept" else None
    low, high = feature.observed_range
    if schema.out_of_range != "warn" or (low is None and high is None):
        return None
    convert: Callable[[Any], Any] = parse_datetime if feature.kind == "datetime" else _unchanged
    if low is None:
        return lambda value: bool(convert(value) > high)
    if high is None:
        return lambda value: bool(convert(value) < low)
    return lambda value: not low <= convert(value) <= high


def _unchanged(value: Any) -> Any:
    return value


def _description(feature: Feature) -> str:
    if feature.kind == "category":
        return "is not a category of the training data"
    return f"is outside the range of the training data, {feature.range_text}"
