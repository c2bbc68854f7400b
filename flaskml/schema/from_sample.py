"""Learning a schema from a sample."""

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
"""A column of strings is a closed set if at most this many differ, each held twice on average; else it is text."""

QUANTILE_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The shares of the values that the quantiles are the bounds of."""


def schema_from_frame(frame: pd.DataFrame) -> Schema:
    """The schema of a sample, for an estimator that takes it as a frame.

    The type of a column decides; a column of Python objects is what all its objects are. Numbers of a whole type are
    integers, other numbers floats; booleans, datetimes and pandas' categoricals are what they are called; strings are a
    category if at most 50 of them differ and each is held twice on average, else text. A missing value makes a column
    nullable. Raises `InvalidSchema` for a column that no request could fill.
    """
    features = tuple(_feature(str(name), frame.iloc[:, index]) for index, name in enumerate(frame.columns))
    return Schema(features=features, layout="frame")


def with_array_layout(schema: Schema, dtype: str) -> Schema:
    """The same features for an estimator that takes an array of the type `dtype`."""
    features = tuple(feature.model_copy(update={"dtype": dtype}) for feature in schema.features)
    return schema.model_copy(update={"features": features, "layout": "array", "dtype": dtype})


def _feature(name: str, column: pd.Series) -> Feature:
    known = column.dropna()
    made_of: dict[str, Any] = {"name": name, "dtype": str(column.dtype), "nullable": len(known) < len(column)}
    made_of["missing"] = _marker(column)
    if str(column.dtype) == "category":
        return _categorical(made_of, known)
    kind = _kind(column, known)
    if kind is None:
        kinds = sorted({type(value).__name__ for value in known.head(1000)})
        raise InvalidSchema(
            f'Column "{name[:100]}" is of {column.dtype} ({", ".join(kinds)}): no request could fill it.'
        )
    if kind == "datetime":
        return Feature(**made_of, kind=kind, **_span(known))
    if kind in ("float", "integer"):
        return Feature(**made_of, kind=kind, **_range(name, known))
    return Feature(**made_of, kind=kind) if kind == "boolean" else _strings(made_of, known)


def _kind(column: pd.Series, known: pd.Series) -> Kind | None:
    """What the values are; None for what has no JSON. Strings are `text` here."""
    from pandas.api import types

    if types.is_object_dtype(column):
        return _kind_of_objects({type(value) for value in known})
    checks: Mapping[Kind, Any] = {
        "boolean": types.is_bool_dtype,
        "integer": types.is_integer_dtype,
        "float": types.is_float_dtype,
        "datetime": types.is_datetime64_any_dtype,
        "text": types.is_string_dtype,
    }
    foreign = hasattr(column.dtype, "pyarrow_dtype") or hasattr(column.dtype, "fill_value")
    return None if foreign else next((kind for kind, check in checks.items() if check(column)), None)


def _kind_of_objects(types: set[type]) -> Kind | None:
    if types <= {bool, np.bool_} and types:
        return "boolean"
    if all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in types) and types:
        return "integer"
    if all(issubclass(kind, (int, float, np.number)) and kind is not bool for kind in types):
        return "float"
    return "text" if all(issubclass(kind, str) for kind in types) else None


_MARKERS: Mapping[str, Marker] = {"NoneType": "None", "NAType": "NA", "NaTType": "NaT"}


def _marker(column: pd.Series) -> Marker:
    """What stands for a missing value: as the column has it, or as one of its type would."""
    if str(column.dtype) == "object":
        gaps: set[Marker] = {_MARKERS.get(type(gap).__name__, "NaN") for gap in column[column.isna()]}
        if len(gaps) > 1:
            raise InvalidSchema(
                f'Column "{str(column.name)[:100]}" marks missing values in several ways ({", ".join(sorted(gaps))}); '
                "use one of them."
            )
        return gaps.pop() if gaps else "None"
    if str(column.dtype).startswith("datetime64"):
        return "NaT"
    import pandas as pd

    return "NA" if getattr(column.dtype, "na_value", None) is pd.NA else "NaN"


def _categorical(made_of: dict[str, Any], known: pd.Series) -> Feature:
    index = known.cat.categories
    values: list[Any] = [json_value(value) for value in index]
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not (whole or all(isinstance(value, str) for value in values)):
        raise InvalidSchema(
            f'Categories of column "{made_of["name"][:100]}" are of {index.dtype}; use strings or whole numbers.'
        )
    counts = known.value_counts()
    return Feature(
        **{**made_of, "dtype": f"category[{index.dtype}]"},
        kind="category",
        categories=tuple(values),
        counts=tuple(int(counts[value]) for value in index),
        ordered=bool(known.cat.ordered),
        unknown="refuse",  # There is no place in the column for any other.
    )


def _strings(made_of: dict[str, Any], known: pd.Series) -> Feature:
    counts = known.map(str).value_counts()
    if not 0 < len(counts) <= MAX_CATEGORIES or 2 * len(counts) > len(known):
        return Feature(**made_of, kind="text")
    values = sorted(map(str, counts.index))
    return Feature(
        **made_of, kind="category", categories=tuple(values), counts=tuple(int(counts[value]) for value in values)
    )


def _range(name: str, known: pd.Series) -> dict[str, Any]:
    if not len(known):
        return {}
    numbers = known.to_numpy(dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InvalidSchema(f'Column "{name[:100]}" holds infinite values; make them missing or finite.')
    # Of the halves, for the largest number less the smallest may be more than the largest number that there is.
    quantiles = tuple(float(2 * value) for value in np.quantile(numbers / 2, QUANTILE_LEVELS))
    low, high = _written(known.min()), _written(known.max())
    return {"minimum": min(low), "maximum": max(high), "quantiles": quantiles}


def _written(number: Any) -> tuple[Any, ...]:
    """A number in the ways that a client may write it: one of less than 64 bits also as short as tells it apart."""
    is_short = isinstance(number, np.floating) and number.itemsize < np.dtype(np.float64).itemsize
    return (json_value(number), float(str(number))) if is_short else (json_value(number),)


def _span(known: pd.Series) -> dict[str, Any]:
    return {"minimum": json_value(known.min()), "maximum": json_value(known.max())} if len(known) else {}


def parse_date_column(column: pd.Series) -> pd.Series:
    """A column of strings that are all ISO 8601 dates as datetimes; any other as it is."""
    import pandas as pd

    known = column.dropna()
    if not len(known) or not known.map(_is_date).all():
        return column
    try:
        with warnings.catch_warnings(action="ignore"):  # Of several offsets pandas 2 warns, where pandas 3 raises.
            moments = pd.to_datetime(column, format="ISO8601")
    except (ValueError, TypeError):  # With and without an offset, or with several.
        return column
    return moments if moments.dtype.kind == "M" else column


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and len(value) >= len("2024-01-31") and bool(dt.datetime.fromisoformat(value))
    except ValueError:
        return False
