"""From values in schema order to the table that the estimator takes, and back.

The table of a request is what the sample was: the same columns in the same order, of the same types, with the same
markers for what is missing. What can be decided from the schema alone is decided once, when a `SchemaTableBuilder`
is made.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from flaskml.schema.features import Feature, Schema, Table, Value
from flaskml.schema.iso8601 import DATETIME_PATTERN, UTC_OFFSET_PATTERN

if TYPE_CHECKING:
    import pandas as pd

ColumnBuilder: TypeAlias = Callable[[Sequence[Any]], Any]
"""Makes a column of values, of which None is missing."""

_OFFSET = re.compile(UTC_OFFSET_PATTERN + r"\Z")


class SchemaTableBuilder:
    """Makes tables as the schema says, from rows whose values are valid."""

    def __init__(self, schema: Schema) -> None:
        self.names = schema.names
        self.layout = schema.layout
        self._dtype = np.dtype(schema.dtype) if schema.layout == "array" else np.dtype(object)
        self._columns: list[ColumnBuilder] = []
        if schema.layout == "frame":
            self._columns = [_column(feature) for feature in schema.features]
        markers = [_marker(feature) for feature in schema.features]
        self._markers = markers if self._dtype.hasobject and any(marker is not None for marker in markers) else None

    def build(self, rows: Sequence[Sequence[Value]]) -> Table:
        """The table of rows that have their values in schema order, null as None."""
        return self._frame(rows) if self._columns else self._array(rows)

    def _array(self, rows: Sequence[Sequence[Value]]) -> np.ndarray:
        shape = (len(rows), len(self.names))
        if self._dtype.kind in "biuf":
            if self._dtype.kind == "f" and len(rows) == 1:  # numpy reads None as NaN here, and one by one it does not.
                return np.array(rows, dtype=self._dtype)
            return _flat(rows, self._dtype, shape)
        if self._markers is not None:
            rows = [[m if v is None else v for v, m in zip(row, self._markers, strict=True)] for row in rows]
        return np.array(rows, dtype=self._dtype).reshape(shape)

    def _frame(self, rows: Sequence[Sequence[Value]]) -> pd.DataFrame:
        import pandas as pd

        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self.names)
        made = [make(values) for make, values in zip(self._columns, columns, strict=True)]
        return pd.DataFrame(dict(zip(self.names, made, strict=True)), copy=False)


def _flat(rows: Sequence[Sequence[Value]], dtype: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    """An array of numbers; from a flat run of values it takes half the time, unless one of them is missing."""
    try:
        return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=shape[0] * shape[1]).reshape(shape)
    except TypeError:
        return np.array(rows, dtype=dtype).reshape(shape)


def _marker(feature: Feature) -> Any:
    if feature.missing == "None":
        return None
    if feature.missing == "NaN":
        return math.nan
    import pandas as pd

    return pd.NaT if feature.missing == "NaT" else pd.NA


def _column(feature: Feature) -> ColumnBuilder:
    """What makes the column of a frame, by what it is made of."""
    import pandas as pd

    if feature.dtype.startswith("category["):
        return _categorical(feature)
    if feature.dtype.startswith("datetime64["):
        return _aware(feature) if feature.is_aware else _naive(feature)
    if feature.dtype == "object":
        marker = _marker(feature)
        # The type is said, because pandas 3 would make its own string type of one batch and not of another.
        return lambda values: pd.Series([marker if value is None else value for value in values], dtype=object)
    dtype: Any = pd.api.types.pandas_dtype(feature.dtype)
    if isinstance(dtype, np.dtype):
        return lambda values: np.array(values, dtype=dtype)
    return lambda values: pd.array(values, dtype=dtype)


def _categorical(feature: Feature) -> ColumnBuilder:
    import pandas as pd

    index = pd.Index(list(feature.categories or ()), dtype=feature.dtype.removeprefix("category[").removesuffix("]"))
    dtype = pd.CategoricalDtype(index, ordered=feature.ordered)
    codes = {value: code for code, value in enumerate(feature.categories or ())} | {None: -1}
    return lambda values: pd.Categorical.from_codes([codes[value] for value in values], dtype=dtype)


def _naive(feature: Feature) -> ColumnBuilder:
    return lambda values: np.array([value or "NaT" for value in values], dtype=feature.dtype)


def _aware(feature: Feature) -> ColumnBuilder:
    import pandas as pd

    unit, zone = feature.dtype.removeprefix("datetime64[").removesuffix("]").split(", ")

    def column(values: Sequence[str | None]) -> Any:
        moments = np.array(
            [_OFFSET.sub("", value) if value else "NaT" for value in values], dtype=f"datetime64[{unit}]"
        )
        offsets = np.array([_minutes(value) if value else 0 for value in values], dtype="timedelta64[m]")
        return pd.Series((moments - offsets).astype(moments.dtype)).dt.tz_localize("UTC").dt.tz_convert(zone)

    return column


def _minutes(moment: str) -> int:
    """The offset at the end of an aware moment, in minutes."""
    if moment.endswith("Z"):
        return 0
    sign = -1 if moment[-6] == "-" else 1
    return sign * (60 * int(moment[-5:-3]) + int(moment[-2:]))


def datetime_validator(feature: Feature, *, closed: bool) -> Callable[[str], str]:
    """What returns a text that is such a datetime as the column holds, and raises ValueError for any other.

    If `closed`, it has to lie between those of the sample.
    """
    pattern = re.compile(DATETIME_PATTERN + (UTC_OFFSET_PATTERN if feature.is_aware else ""), re.ASCII)
    nanoseconds = feature.dtype.startswith("datetime64[ns")
    low, high = feature.span if closed else (None, None)

    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError
        moment = dt.datetime.fromisoformat(text)
        if nanoseconds and not 1678 <= moment.year <= 2261:  # The years that 64 bits of nanoseconds reach.
            raise ValueError
        if (low is not None and moment < low) or (high is not None and moment > high):
            raise ValueError
        return text

    return check


def json_rows(schema: Schema, table: Table) -> list[tuple[Value, ...]]:
    """The rows of a table as requests would send them; what is missing is None."""
    columns = []
    for index, feature in enumerate(schema.features):
        column = table[:, index] if isinstance(table, np.ndarray) else table.iloc[:, index]
        as_sent = {"integer": int, "boolean": bool}.get(feature.kind, _unchanged)
        values = map(json_value, column)
        columns.append([None if value is None else as_sent(value) for value in values])
    return list(zip(*columns, strict=True))


def _unchanged(value: Any) -> Any:
    return value


def _in_minutes(moment: dt.datetime) -> dt.datetime:
    """The same moment with an offset that ISO 8601 can write: before there were time zones, some had seconds."""
    return moment.astimezone(dt.UTC) if (moment.utcoffset() or dt.timedelta()) % dt.timedelta(minutes=1) else moment


def json_value(value: Any) -> Value:
    """A value as JSON has it: numpy's scalars by their value, datetimes in ISO 8601, what is missing as None."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if not isinstance(value, np.ndarray) and value != value:  # An array is no value, and is refused as it stands.
        return None
    if isinstance(value, dt.datetime):
        return _in_minutes(value).isoformat()
    if isinstance(value, dt.date):
        return value.isoformat()
    plain: Value = value
    return plain
