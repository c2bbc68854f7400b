"""The schema of a DataFrame: kind, range, categories and missing marker of each column."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.errors import InvalidSchema
from flaskml.schema.features import Feature, Kind, Marker, Schema
from flaskml.schema.tables import json_value

if TYPE_CHECKING:
    import pandas as pd

MAX_CATEGORIES = 50
"""The largest number of distinct strings in a category, each held twice on average; other strings are text."""

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The share of the sample below each of the quantiles that a feature records."""


def schema_from_frame(frame: pd.DataFrame) -> Schema:
    """Return the schema of a sample, for an estimator that takes a frame.

    The dtype of a column decides its kind; for a column of Python objects, the type of all its objects does. Numbers of
    an integer type are integers, other numbers floats. Booleans are booleans, datetimes datetimes, and pandas
    categoricals categories. Strings are a category if at most 50 of them differ and each is held twice on average, else
    text. A missing value makes a column nullable. Raises `InvalidSchema` for a column that no request can fill, such as
    one of Python dates, bytes or mixed types.
    """
    features = tuple(_feature(str(name), frame.iloc[:, index]) for index, name in enumerate(frame.columns))
    return Schema(features=features, layout="frame")


def with_array_layout(schema: Schema, dtype: str) -> Schema:
    """Return a schema with the same features, for an estimator that takes an array of the given dtype."""
    features = tuple(feature.model_copy(update={"dtype": dtype}) for feature in schema.features)
    return schema.model_copy(update={"features": features, "layout": "array", "dtype": dtype})


def _feature(name: str, column: pd.Series) -> Feature:
    present = column.dropna()
    fields: dict[str, Any] = {"name": name, "dtype": str(column.dtype), "nullable": len(present) < len(column)}
    fields["missing"] = _missing_marker(column)
    if str(column.dtype) == "category":
        return _categorical_feature(fields, present)
    kind = _kind_of_column(column, present)
    if kind is None:
        types = sorted({type(value).__name__ for value in present.head(1000)})
        raise InvalidSchema(
            f'Column "{name[:100]}" of dtype {column.dtype} ({", ".join(types)}) cannot be a feature; '
            "convert it to numbers, booleans, strings or datetimes."
        )
    if kind == "datetime":
        return Feature(**fields, kind=kind, **_datetime_statistics(present))
    if kind in ("float", "integer"):
        return Feature(**fields, kind=kind, **_number_statistics(name, present))
    return Feature(**fields, kind=kind) if kind == "boolean" else _string_feature(fields, present)


def _kind_of_column(column: pd.Series, present: pd.Series) -> Kind | None:
    """Return the kind of the values, `text` for all strings; None if JSON cannot represent them."""
    from pandas.api import types

    if types.is_object_dtype(column):
        return _kind_of_objects({type(value) for value in present})
    checks: Mapping[Kind, Any] = {
        "boolean": types.is_bool_dtype,
        "integer": types.is_integer_dtype,
        "float": types.is_float_dtype,
        "datetime": types.is_datetime64_any_dtype,
        "text": types.is_string_dtype,
    }
    is_arrow_or_sparse = hasattr(column.dtype, "pyarrow_dtype") or hasattr(column.dtype, "fill_value")
    return None if is_arrow_or_sparse else next((kind for kind, check in checks.items() if check(column)), None)


def _kind_of_objects(types: set[type]) -> Kind | None:
    if types <= {bool, np.bool_} and types:
        return "boolean"
    if all(issubclass(type_, (int, np.integer)) and type_ is not bool for type_ in types) and types:
        return "integer"
    if all(issubclass(type_, (int, float, np.number)) and type_ is not bool for type_ in types):
        return "float"
    return "text" if all(issubclass(type_, str) for type_ in types) else None


_MARKERS: Mapping[str, Marker] = {"NoneType": "None", "NAType": "NA", "NaTType": "NaT"}


def _missing_marker(column: pd.Series) -> Marker:
    """Return the marker of missing values in the column, or the marker of its dtype if no value is missing."""
    if str(column.dtype) == "object":
        markers: set[Marker] = {_MARKERS.get(type(value).__name__, "NaN") for value in column[column.isna()]}
        if len(markers) > 1:
            raise InvalidSchema(
                f'Column "{str(column.name)[:100]}" marks missing values in several ways '
                f"({', '.join(sorted(markers))}); use one of them."
            )
        return markers.pop() if markers else "None"
    if str(column.dtype).startswith("datetime64"):
        return "NaT"
    import pandas as pd

    return "NA" if getattr(column.dtype, "na_value", None) is pd.NA else "NaN"


def _categorical_feature(fields: dict[str, Any], present: pd.Series) -> Feature:
    index = present.cat.categories
    values: list[Any] = [json_value(value) for value in index]
    are_integers = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not (are_integers or all(isinstance(value, str) for value in values)):
        raise InvalidSchema(
            f'Column "{fields["name"][:100]}" has categories of dtype {index.dtype}; use strings or whole numbers.'
        )
    counts = present.value_counts()
    return Feature(
        **{**fields, "dtype": f"category[{index.dtype}]"},
        kind="category",
        categories=tuple(values),
        counts=tuple(int(counts[value]) for value in index),
        ordered=bool(present.cat.ordered),
        unknown="refuse",  # The column cannot hold any other value.
    )


def _string_feature(fields: dict[str, Any], present: pd.Series) -> Feature:
    counts = present.map(str).value_counts()
    if not 0 < len(counts) <= MAX_CATEGORIES or 2 * len(counts) > len(present):
        return Feature(**fields, kind="text")
    values = sorted(map(str, counts.index))
    return Feature(
        **fields, kind="category", categories=tuple(values), counts=tuple(int(counts[value]) for value in values)
    )


def _number_statistics(name: str, present: pd.Series) -> dict[str, Any]:
    if not len(present):
        return {}
    numbers = present.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InvalidSchema(
            f'Column "{name[:100]}" holds infinite values; replace them with finite numbers or missing values.'
        )
    # The interpolation subtracts two values, and a difference may overflow. The difference of their halves cannot.
    quantiles = tuple(float(2 * value) for value in np.quantile(numbers / 2, QUANTILE_LEVELS))
    low, high = _decimal_forms(present.min()), _decimal_forms(present.max())
    return {"minimum": min(low), "maximum": max(high), "quantiles": quantiles}


def _decimal_forms(number: Any) -> tuple[Any, ...]:
    """Return a number in the forms that a client may write it in.

    A float of less than 64 bits has two: its exact value, and the shortest decimal text that identifies it.
    """
    is_short = isinstance(number, np.floating) and number.itemsize < np.dtype(np.float64).itemsize
    return (json_value(number), float(str(number))) if is_short else (json_value(number),)


def _datetime_statistics(present: pd.Series) -> dict[str, Any]:
    return {"minimum": json_value(present.min()), "maximum": json_value(present.max())} if len(present) else {}


def parse_date_column(column: pd.Series) -> pd.Series:
    """Return a column whose strings are all ISO 8601 dates as datetimes; return any other column unchanged."""
    import pandas as pd

    present = column.dropna()
    if not len(present) or not present.map(_is_date).all():
        return column
    try:
        with warnings.catch_warnings(action="ignore"):  # Several different offsets: pandas 2 warns, pandas 3 raises.
            datetimes = pd.to_datetime(column, format="ISO8601")
    except (ValueError, TypeError):  # The offsets differ, or only some of the dates have one.
        return column
    return datetimes if datetimes.dtype.kind == "M" else column


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value) >= len("2024-01-31") and bool(dt.datetime.fromisoformat(value))
    except ValueError:
        return False
