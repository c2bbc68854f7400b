"""The columns of a training table: tidied, typed, and turned into a schema and the table to fit on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.schema.corrections import apply_corrections, cast_columns
from flaskml.schema.features import Schema, Table
from flaskml.schema.from_sample import parse_date_column, schema_from_frame, with_array_layout

if TYPE_CHECKING:
    import pandas as pd


def as_fitted(features: pd.DataFrame, corrections: Mapping[str, Any]) -> tuple[Schema, Table]:
    """The schema of the features, and the table that an estimator is fitted on.

    Strings are Python objects and NaN, or datetimes where all of them are; booleans with gaps and whole numbers beyond
    64 bits are floats. A table of numbers alone is an array, which costs a request no frame. Raises `InvalidSchema`.
    """
    frame = cast_columns(features, corrections).apply(_tidy)
    gaps = [str(name) for name in frame if _is_boolean_with_gaps(frame[name])]
    frame = frame.astype(dict.fromkeys(gaps, np.float64))
    booleans = {"features": [{"name": name, "kind": "boolean"} for name in gaps]}
    schema = apply_corrections(apply_corrections(schema_from_frame(frame), booleans), corrections)
    if all(feature.is_number for feature in schema.features):
        return with_array_layout(schema, "float64"), frame.to_numpy(dtype=np.float64)
    return schema, frame


def _tidy(column: pd.Series) -> pd.Series:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype, is_string_dtype

    if is_numeric_dtype(column) and not is_bool_dtype(column):
        return column if column.dtype in (np.int64, np.float64) else _wide(column)
    if _is_boolean_with_gaps(column) or not (is_object_dtype(column) or is_string_dtype(column)):
        return column
    if set(map(type, column)) == {bool}:
        return column.astype(bool)
    return parse_date_column(
        column.astype(object).where(column.notna(), np.nan).map(str, na_action="ignore").astype(object)
    )


def _wide(column: pd.Series) -> pd.Series:
    """Whole numbers in 64 bits where they fit, and any other number as a float."""
    whole = column.dtype.kind in "iu" and not column.isna().any() and column.max() < 2**63
    return column.astype(np.int64 if whole else np.float64)


def _is_boolean_with_gaps(column: pd.Series) -> bool:
    known = column.dropna()
    return column.dtype == object and len(known) < len(column) and set(map(type, known)) == {bool}
