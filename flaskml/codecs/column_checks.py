"""Whole columns of a table of rows: conversion from texts, and validation.

The checks are those of the rows of requests (`validators`), for all values of a column at once. A column that they do
not take is validated row by row, which finds the problems.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from flaskml.codecs.text_values import parse_text_value
from flaskml.codecs.validators import MAX_TEXT_CHARACTERS, number_bounds
from flaskml.schema.columns import CodedColumn, Column, Columns
from flaskml.schema.features import MAX_EXACT_INTEGER, Feature, Schema
from flaskml.schema.tables import datetime_validator

ColumnCheck: TypeAlias = Callable[[Any], bool]
"""Returns whether all values of a column are valid."""

_NUMBER_CHARACTERS = b"0123456789+-.eE"
"""The characters of numbers in text."""


class ColumnChecks:
    """The checks of the columns of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._features = schema.features
        self._checks = [_column_check(schema, feature) for feature in schema.features]

    def are_valid(self, columns: Columns) -> bool:
        """Return whether all values of the columns are valid."""
        return all(check(column) for check, column in zip(self._checks, columns, strict=True))

    def from_texts(self, columns: Iterable[Sequence[str]]) -> Columns | None:
        """Return columns of texts, as in CSV, as columns of values; None if a text is no value of its feature."""
        converted: list[Column] = []
        for feature, texts in zip(self._features, columns, strict=True):
            column = _numbers_of(texts) if feature.is_numeric else _values_of(feature, texts)
            if column is None:
                return None
            converted.append(without_negative_zeros(column) if feature.is_whole else column)
        return converted


def without_negative_zeros(column: Any) -> Any:
    """Return doubles that stand for integers with zero for -0.0."""
    return column + 0.0


def _numbers_of(texts: Sequence[str]) -> np.ndarray | None:
    """Return numbers in text as doubles, NaN for an empty text; None if a text is no number.

    Of the texts that `float` takes, those of other characters are no numbers here.
    """
    try:
        if "".join(texts).encode("ascii").translate(None, _NUMBER_CHARACTERS):
            return None
        if "" in texts:
            texts = [text or "nan" for text in texts]
        return np.fromiter(map(float, texts), np.float64, len(texts))
    except ValueError:
        return None


def _values_of(feature: Feature, texts: Sequence[str]) -> Column | None:
    """Return the values of texts. Of the many texts of a column, few are different."""
    values = {text: parse_text_value(feature, text) for text in set(texts)}
    if feature.kind != "boolean":
        return texts if all(value is text for text, value in values.items()) else list(map(values.__getitem__, texts))
    if any(isinstance(value, str) for value in values.values()):
        return None
    return np.array([values[text] for text in texts], dtype=np.float64)


def _column_check(schema: Schema, feature: Feature) -> ColumnCheck:
    if feature.is_numeric:
        return _number_check(schema, feature)
    if feature.kind == "boolean":
        return lambda column: feature.nullable or not np.isnan(column).any()
    is_valid = _text_check(schema, feature)

    def check(column: Any) -> bool:
        distinct = column.used() if isinstance(column, CodedColumn) else set(column)
        return all(feature.nullable if text is None else is_valid(text) for text in distinct)

    return check


def _number_check(schema: Schema, feature: Feature) -> ColumnCheck:
    low, high = number_bounds(schema, feature)
    known = None
    if feature.is_whole:
        # From 2**53 on, a double may not be the integer that was meant; the check of single rows decides.
        low, high = max(low, 1 - MAX_EXACT_INTEGER), min(high, MAX_EXACT_INTEGER - 1)
        if feature.kind == "category" and feature.unknown != "accept":
            known = np.array(feature.categories, dtype=np.float64)

    def check(column: np.ndarray) -> bool:
        numbers = column
        if np.isnan(column).any():
            if not feature.nullable:
                return False
            numbers = column[~np.isnan(column)]
        if not ((numbers >= low) & (numbers <= high)).all():
            return False
        if feature.is_whole and not (numbers == np.floor(numbers)).all():
            return False
        return known is None or bool(np.isin(numbers, known).all())

    return check


def _text_check(schema: Schema, feature: Feature) -> Callable[[str], bool]:
    """Return the check of one text."""
    if feature.kind == "category" and feature.unknown != "accept":
        return frozenset(feature.categories or ()).__contains__
    if feature.kind != "datetime":
        return lambda text: len(text) <= MAX_TEXT_CHARACTERS
    validate = datetime_validator(feature, enforce_range=schema.out_of_range == "refuse")

    def check(text: str) -> bool:
        try:
            validate(text)
        except ValueError:
            return False
        return True

    return check
