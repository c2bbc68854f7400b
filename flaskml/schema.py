"""What an estimator takes: its features, in order, and the shape that it was fitted on.

A schema is learnt from a training table (`learn`), stored in the manifest, and compiled into a parser (`parsing`).
`Schema.table` makes both the training table and the tables of requests, so the estimator meets the same columns, types
and missing markers (NaN throughout) in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas as pd

Kind: TypeAlias = Literal["float", "integer", "boolean", "category", "text"]
Layout: TypeAlias = Literal["array", "objects", "frame"]
Value: TypeAlias = float | int | bool | str | None
Table: TypeAlias = "np.ndarray | pd.DataFrame"

CATEGORIES_KEPT = 50
"""A text column with at most this many distinct values is a closed set; with more, it is text."""

LISTED = 10
"""How many categories a sentence names."""


class Feature(BaseModel):
    """One column: its name, what it may hold, and what training saw in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """The name that requests use; any text."""

    kind: Kind
    """What a value is; `category` is a closed set of strings, `text` any string."""

    nullable: bool = False
    """Whether training saw a missing value, and so a request may send null."""

    minimum: float | None = None
    """Smallest value in training, for numbers."""

    maximum: float | None = None
    """Largest value in training, for numbers."""

    categories: tuple[str, ...] | None = None
    """The closed set, sorted, for a category."""

    @model_validator(mode="after")
    def _closed(self) -> Feature:
        if (self.kind == "category") != bool(self.categories):
            raise ValueError("a category has categories, and nothing else has")
        return self

    @property
    def is_number(self) -> bool:
        """Whether a value is a float or an integer."""
        return self.kind in ("float", "integer")

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        wanted = {
            "float": "a finite number",
            "integer": "a whole number",
            "boolean": "true or false",
            "text": "a string",
            "category": f"one of {self._categories_listed()}",
        }[self.kind]
        return f"{wanted} or null" if self.nullable else wanted

    @property
    def example(self) -> Value:
        """A value made up from the range: no row of the training table holds it on purpose."""
        if self.categories is not None:
            return self.categories[0]
        if self.is_number:
            return self._middle()
        return False if self.kind == "boolean" else "text"

    def _middle(self) -> float | int:
        middle = ((self.minimum or 0.0) + (self.maximum or 0.0)) / 2
        if self.kind == "integer":
            return round(middle)
        return float(f"{middle:.3g}") if math.isfinite(middle) else 0.0

    def _categories_listed(self) -> str:
        categories = self.categories or ()
        names = ", ".join(f'"{category[:40]}"' for category in categories[:LISTED])
        return names if len(categories) <= LISTED else f"{names}, … ({len(categories)} in all)"


def _named_apart(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    if len({feature.name for feature in features}) < len(features):
        raise ValueError("two features have the same name")
    return features


class Schema(BaseModel):
    """The features of an estimator in the order it was fitted on, and whether it takes an array or a named frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    features: Annotated[tuple[Feature, ...], Field(min_length=1), AfterValidator(_named_apart)]
    """At least one, with different names."""

    layout: Layout
    """`array`: float64, shape (rows, features). `objects`: the same of Python objects. `frame`: a DataFrame."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def example(self) -> dict[str, Value]:
        """A made-up row that the parser takes."""
        return {feature.name: feature.example for feature in self.features}

    def table(self, rows: Sequence[Sequence[Value]]) -> Table:
        """The table that the estimator takes, from valid rows with their values in schema order; null becomes NaN."""
        if self.layout == "array":
            return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.features))
        if self.layout == "objects":
            values = [[np.nan if value is None else value for value in row] for row in rows]
            return np.array(values, dtype=object).reshape(len(rows), len(self.features))
        return self.frame(list(zip(*rows, strict=True)) if rows else [()] * len(self.features))

    def frame(self, columns: Sequence[Sequence[Any] | np.ndarray]) -> pd.DataFrame:
        """The DataFrame of the given columns, each in the type that its feature has."""
        import pandas as pd

        typed = (_column(feature, values) for feature, values in zip(self.features, columns, strict=True))
        return pd.DataFrame(dict(zip(self.names, typed, strict=True)), copy=False)


def _column(feature: Feature, values: Sequence[Any] | np.ndarray) -> Any:
    """Numbers and booleans without nulls keep their type, with nulls become float64; strings are Python objects."""
    if feature.kind in ("category", "text"):
        import pandas as pd

        # The type is said, because pandas 3 would make its own string type of one batch and not of another.
        return pd.Series([np.nan if value is None else value for value in values], dtype=object)
    if feature.kind == "float" or feature.nullable:
        return np.asarray(values, dtype=np.float64)
    return np.asarray(values, dtype=np.int64 if feature.kind == "integer" else np.bool_)


def learn(frame: pd.DataFrame) -> Schema:
    """The schema of a training table.

    A column of numbers is an integer if all its values are whole and its type says so, else a float; a boolean column a
    boolean; any other a category with at most 50 distinct values, else text. A missing value makes it nullable. A table
    of numbers alone is fitted as an array, which costs a request no frame.
    """
    features = tuple(_feature(str(name), frame[name]) for name in frame.columns)
    numbers_only = all(feature.is_number for feature in features)
    return Schema(features=features, layout="array" if numbers_only else "frame")


def _feature(name: str, column: pd.Series) -> Feature:
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

    known = column.dropna()
    nullable = len(known) < len(column)
    if is_bool_dtype(known) or (len(known) and set(known.map(type)) == {bool}):
        return Feature(name=name, kind="boolean", nullable=nullable)
    if is_numeric_dtype(known):
        whole = is_integer_dtype(known) and (not len(known) or -(2**63) <= known.min() <= known.max() < 2**63)
        kind: Kind = "integer" if whole else "float"
        return Feature(name=name, kind=kind, nullable=nullable, minimum=known.min(), maximum=known.max())
    distinct = sorted(set(known.map(str)))
    if len(distinct) > CATEGORIES_KEPT:
        return Feature(name=name, kind="text", nullable=nullable)
    return Feature(name=name, kind="category", nullable=nullable, categories=tuple(distinct))


def conform(frame: pd.DataFrame, schema: Schema) -> Table:
    """The training table in the form that `Schema.table` gives to requests."""
    columns = [_training_values(frame[feature.name], feature) for feature in schema.features]
    if schema.layout == "frame":
        return schema.frame(columns)
    return np.column_stack(columns).astype(np.float64 if schema.layout == "array" else object)


def _training_values(column: pd.Series, feature: Feature) -> np.ndarray:
    if feature.kind in ("category", "text"):
        return column.astype(object).map(str, na_action="ignore").to_numpy(dtype=object, na_value=np.nan)
    if feature.kind == "float" or feature.nullable:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    return column.to_numpy()
