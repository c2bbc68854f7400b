"""What an input holds that training did not: answered, and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from flaskml.codecs.parser import Rows
from flaskml.errors import MAX_PROBLEMS, Problem
from flaskml.schema.features import Feature, Schema, Value, parse_datetime

FEW_ROWS = 4
"""Rows up to which looking at one value after the other is faster than numpy is with all."""

RangeCheck: TypeAlias = Callable[[Any], bool]


class RangeWarnings:
    """Finds the values of valid rows that lie beyond what the sample held, where the schema lets these pass."""

    def __init__(self, schema: Schema) -> None:
        self._checks = [
            (index, feature, check)
            for index, feature in enumerate(schema.features)
            if (check := _check(schema, feature)) is not None
        ]
        self._numbers = bool(self._checks) and schema.layout == "array" and np.dtype(schema.dtype).kind in "iuf"
        self._spans: list[tuple[int, float, float]] = []
        """Low and high of each column that has a range, where all that is looked at are numbers."""

        if self._numbers:
            ranged = {index: feature for index, feature, _ in self._checks}
            columns = range(len(schema.features))
            spans = [ranged[i].span if i in ranged else (None, None) for i in columns]
            self._low = np.array([-np.inf if low is None else low for low, _ in spans], dtype=np.float64)
            self._high = np.array([np.inf if high is None else high for _, high in spans], dtype=np.float64)
            self._spans = [
                (index, -math.inf if low is None else low, math.inf if high is None else high)
                for index, (low, high) in enumerate(spans)
                if index in ranged
            ]

    def find(self, rows: Rows) -> Sequence[Problem]:
        """The first doubts about the rows."""
        if not self._checks or (self._numbers and not self._any(rows)):
            return ()
        found = self._found(rows.values)
        return [problem for problem, _ in zip(found, range(MAX_PROBLEMS), strict=False)]

    def _any(self, rows: Rows) -> bool:
        """Whether a number lies outside its range."""
        if len(rows.values) > FEW_ROWS:
            return bool(((rows.table < self._low) | (rows.table > self._high)).any())
        for row in rows.values:
            for index, low, high in self._spans:
                value: Any = row[index]
                if value is not None and not low <= value <= high:
                    return True
        return False

    def _found(self, rows: Sequence[Sequence[Value]]) -> Iterator[Problem]:
        for number, row in enumerate(rows):
            for index, feature, doubtful in self._checks:
                value = row[index]
                if value is not None and doubtful(value):
                    yield Problem(number, feature.name[:100], f'"{feature.name[:100]}" {_beyond(feature)}')


def _check(schema: Schema, feature: Feature) -> RangeCheck | None:
    if feature.kind == "category":
        known = frozenset(feature.categories or ())
        return (lambda value: value not in known) if feature.unknown == "accept" else None
    low, high = feature.span
    if schema.out_of_range != "warn" or (low is None and high is None):
        return None
    read: Callable[[Any], Any] = parse_datetime if feature.kind == "datetime" else _unchanged
    if low is None:
        return lambda value: bool(read(value) > high)
    if high is None:
        return lambda value: bool(read(value) < low)
    return lambda value: not low <= read(value) <= high


def _unchanged(value: Any) -> Any:
    return value


def _beyond(feature: Feature) -> str:
    if feature.kind == "category":
        return "is none of the categories of training"
    return f"lies outside the range of training, {feature.ranged}"
