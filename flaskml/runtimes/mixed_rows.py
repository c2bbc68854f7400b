"""Rows of mixed columns, as requests send them, for the comparison of runtimes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaskml.schema.codes import has_text_codes
from flaskml.schema.features import Feature, Schema, Table, Value
from flaskml.schema.tables import json_rows

UNUSUAL_TEXTS = ("", "nan", "NaN", "None", "NA", "a text that no sample has", "ä€😀", "\0")
"""Texts that libraries confuse with missing values, and others that are in no vocabulary."""

BASE_ROWS = 4
"""Rows of the sample in which each unusual value is tried."""


def value_rows(schema: Schema, table: Table) -> np.ndarray:
    """Return the rows of a table as an array of tuples with one value for each feature, None for a missing one."""
    return as_array(json_rows(schema, table))


def as_array(rows: Sequence[tuple[Value, ...]]) -> np.ndarray:
    """Return an array of tuples, shape (rows,)."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


def unusual_rows(rows: np.ndarray, schema: Schema) -> np.ndarray:
    """Return rows of the sample with a missing value in each nullable column, and with unusual texts."""
    made = []
    for base in rows[:BASE_ROWS]:
        for index, feature in enumerate(schema.features):
            made += [(*base[:index], value, *base[index + 1 :]) for value in _unusual_values(feature)]
        made.append(
            tuple(None if feature.nullable else value for feature, value in zip(schema.features, base, strict=True))
        )
    return as_array(made)


def _unusual_values(feature: Feature) -> list[Value]:
    values: list[Value] = [None] if feature.nullable else []
    if has_text_codes(feature) and (feature.kind == "text" or feature.unknown == "accept"):
        values += UNUSUAL_TEXTS
    if feature.is_whole and feature.kind == "category" and feature.unknown == "accept":
        values += [-7, 999_983]
    if feature.kind == "boolean":
        values += [True, False]
    return values


class NumericPart:
    """The numbers of rows of mixed columns, which can be replaced by others."""

    def __init__(self, rows: np.ndarray, schema: Schema) -> None:
        self._rows = rows
        self._positions = [index for index, feature in enumerate(schema.features) if feature.is_number]
        features = tuple(schema.features[index] for index in self._positions)
        self.schema = schema.model_copy(update={"features": features, "layout": "array"}) if features else None
        """The schema of the numbers alone; None if no feature is a number."""

        self._whole_bounds = [schema.bounds(feature) if feature.is_whole else None for feature in features]
        self.numbers = np.array([[row[index] for index in self._positions] for row in rows], dtype=np.float64)
        """The numbers: shape (rows, numeric features), NaN for a missing value."""

    def rows_with(self, numbers: np.ndarray) -> np.ndarray:
        """Return rows with these numbers, and the other values of the rows in turn."""
        made = []
        for count, replaced in enumerate(numbers):
            row = list(self._rows[count % len(self._rows)])
            for index, number, bounds in zip(self._positions, replaced.tolist(), self._whole_bounds, strict=True):
                row[index] = None if number != number else number
                if bounds is not None and number == number:
                    low, high = bounds
                    row[index] = int(min(max(number, low), high))
            made.append(tuple(row))
        return as_array(made)
