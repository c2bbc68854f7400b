"""The schema of an estimator: its features, in order, with the texts that describe them to people.

`from_sample` learns a schema from a sample, and the manifest of a version stores it. Loading a version compiles it into
a parser of requests (`codecs.parser`) and a builder of tables (`tables`).
"""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

if TYPE_CHECKING:
    import pandas as pd

Kind: TypeAlias = Literal["float", "integer", "boolean", "category", "text", "datetime"]
Layout: TypeAlias = Literal["array", "frame"]
Marker: TypeAlias = Literal["NaN", "None", "NaT", "NA"]
"""The object that marks a missing value in a column: a float, Python's None, or one of pandas' two."""

Value: TypeAlias = float | int | bool | str | None
"""A value as JSON has it; None is a missing value."""

Bound: TypeAlias = StrictInt | StrictFloat | StrictStr
"""A minimum or a maximum; a text is a datetime in ISO 8601."""

Table: TypeAlias = "np.ndarray | pd.DataFrame"
"""The input of an estimator, of shape (rows, features)."""

MAX_LISTED_CATEGORIES = 10
"""The largest number of categories that a message lists."""

MAX_FLOAT = sys.float_info.max
"""The largest finite number in double precision."""

MAX_EXACT_INTEGER = 2**53
"""The largest integer up to which double precision represents every integer exactly."""


class Feature(BaseModel):
    """One column of the table: its name, the values that it accepts, its dtype, and statistics of the sample."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """The name that requests use; any text."""

    kind: Kind
    """The kind of its values: `category` is a set of strings or integers, `text` any string, `datetime` ISO 8601."""

    nullable: bool = False
    """True if a request may send null. A sample with a missing value sets it."""

    dtype: str
    """The dtype of the column, as pandas names it; a categorical adds that of its categories: `category[object]`."""

    missing: Marker = "NaN"
    """The marker of a missing value in the column; some encoders distinguish the markers."""

    minimum: Bound | None = None
    """The smallest value of the sample: a number, or a datetime in ISO 8601."""

    maximum: Bound | None = None
    """The largest value of the sample, in the same form."""

    quantiles: tuple[float, ...] | None = None
    """The 5th, 25th, 50th, 75th and 95th percentiles of the sample, for numbers."""

    categories: tuple[StrictStr, ...] | tuple[StrictInt, ...] | None = None
    """The values of a category, in the order of the column's categories."""

    counts: tuple[int, ...] | None = None
    """The number of rows in the sample with each category, in the order of `categories`."""

    ordered: bool = False
    """True if the order of the categories has a meaning, as in low < medium < high."""

    unknown: Literal["accept", "refuse"] | None = None
    """The treatment of a value that is not in `categories`; None until the estimator has been tried with one."""

    @model_validator(mode="before")
    @classmethod
    def _with_default_dtype(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add numpy's dtype for the kind if no dtype is given; float64 for integers and booleans that may be null."""
        kind = values.get("kind")
        needs_nan = values.get("nullable") and kind in ("integer", "boolean")
        return {"dtype": "float64" if needs_nan else _DEFAULT_DTYPES.get(str(kind), "object"), **values}

    @model_validator(mode="after")
    def _check_consistency(self) -> Feature:
        if (self.kind == "category") != bool(self.categories):
            raise ValueError("a feature of kind category needs categories, and no other kind has them")
        if len(set(self.categories or ())) < len(self.categories or ()):
            raise ValueError("categories must not list a value twice")
        if self.counts is not None and len(self.counts) != len(self.categories or ()):
            raise ValueError("counts must have one number for each category")
        if self.kind != "category" and (self.unknown is not None or self.ordered):
            raise ValueError("only a category has the fields unknown and ordered")
        self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and not (self.is_number or self.kind == "datetime"):
            raise ValueError("only numbers and datetimes have a minimum and a maximum")
        texts = [bound for bound in bounds if isinstance(bound, str)]
        if len(texts) != (len(bounds) if self.kind == "datetime" else 0):
            raise ValueError("minimum and maximum of a datetime must be ISO 8601 texts, those of a number numbers")
        if any(_datetime_or_none(text) is None for text in texts):
            raise ValueError("minimum and maximum of a datetime must be ISO 8601 texts")
        if any((parse_datetime(text).tzinfo is not None) != self.is_aware for text in texts):
            raise ValueError("minimum and maximum must have a UTC offset if the values have one, else none")
        if not all(abs(bound) <= MAX_FLOAT for bound in bounds if not isinstance(bound, str)):
            raise ValueError("minimum and maximum must be finite")
        low, high = self.observed_range
        if low is not None and high is not None and low > high:
            raise ValueError("the minimum must not be above the maximum")

    @property
    def observed_range(self) -> tuple[Any, Any]:
        """The minimum and the maximum of the sample as numbers or datetimes; None for one that is not recorded."""
        low, high = (parse_datetime(b) if isinstance(b, str) else b for b in (self.minimum, self.maximum))
        return low, high

    @property
    def range_text(self) -> str:
        """The range of the sample in words, as the end of a sentence."""
        if self.minimum is None or self.maximum is None:
            return f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"
        return f"{self.minimum} to {self.maximum}"

    @property
    def is_number(self) -> bool:
        """True for floats and integers."""
        return self.kind in ("float", "integer")

    @property
    def is_whole(self) -> bool:
        """True for whole numbers: integers, and categories that are integers."""
        return self.kind == "integer" or (self.kind == "category" and isinstance((self.categories or ("",))[0], int))

    @property
    def is_numeric(self) -> bool:
        """True for numbers of every kind: floats, integers, and categories that are integers."""
        return self.is_number or self.is_whole

    @property
    def is_aware(self) -> bool:
        """True for aware datetimes, which have a UTC offset."""
        return "," in self.dtype

    @property
    def numeric_limits(self) -> tuple[int | float, int | float]:
        """The smallest and the largest number that the dtype holds; for objects, those of int64 or float64."""
        dtype = np.dtype(self.dtype.lower()) if self.dtype.lower().startswith(("int", "uint", "float")) else None
        if self.is_whole:
            integers = np.iinfo(dtype) if dtype is not None and dtype.kind in "iu" else np.iinfo(np.int64)
            return int(integers.min), int(integers.max)
        floats = np.finfo(dtype) if dtype is not None and dtype.kind == "f" else np.finfo(np.float64)
        return float(floats.min), float(floats.max)

    @property
    def expectation(self) -> str:
        """A description of a valid value, as the end of a sentence."""
        offset = "+01:00, with an offset" if self.is_aware else ", without an offset"
        expectation = {
            "float": "a finite number",
            "integer": "a whole number",
            "boolean": "true or false",
            "text": "a string",
            "category": f"one of {self._category_list()}",
            "datetime": f"a date and time such as 2024-01-31T12:00:00{offset}",
        }[self.kind]
        return f"{expectation} or null" if self.nullable else expectation

    @property
    def example(self) -> Value:
        """A made-up value within the range; it is not taken from a row of the sample."""
        if self.categories is not None:
            return self.categories[0]
        if self.is_number:
            return self._middle_number()
        if self.kind == "datetime":
            return self._middle_datetime()
        return False if self.kind == "boolean" else "text"

    def _middle_number(self) -> float | int:
        low, high = self.observed_range
        low, high = (high or 0 if low is None else low), (low or 0 if high is None else high)
        if self.kind == "integer":
            return round((low + high) / 2) if abs(low) + abs(high) < MAX_EXACT_INTEGER else (int(low) + int(high)) // 2
        return min(max(float(f"{low / 2 + high / 2:.3g}"), low), high)

    def _middle_datetime(self) -> str:
        low, high = self.observed_range
        low, high = (high if low is None else low), (low if high is None else high)
        if low is None:
            return f"2024-01-31T00:00:00{'+00:00' if self.is_aware else ''}"
        middle = low + (high - low) / 2
        day = middle.replace(hour=0, minute=0, second=0, microsecond=0)
        return str((day if day >= low else middle).isoformat())

    def _category_list(self) -> str:
        categories = self.categories or ()
        names = ", ".join(_quote(category) for category in categories[:MAX_LISTED_CATEGORIES])
        return names if len(categories) <= MAX_LISTED_CATEGORIES else f"{names}, … ({len(categories)} in all)"


_DEFAULT_DTYPES = {"float": "float64", "integer": "int64", "boolean": "bool", "datetime": "datetime64[us]"}


def parse_datetime(text: str) -> dt.datetime:
    """Return the datetime of an ISO 8601 text. Raises ValueError."""
    return dt.datetime.fromisoformat(text)


def _datetime_or_none(text: str) -> dt.datetime | None:
    try:
        return parse_datetime(text)
    except ValueError:
        return None


def _quote(category: str | int) -> str:
    return str(category) if isinstance(category, int) else f'"{category[:40]}"'


def _check_unique_names(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    if len({feature.name for feature in features}) < len(features):
        raise ValueError("two features have the same name")
    return features


class Schema(BaseModel):
    """The features of an estimator, the table that it takes, and the rules for values outside of the sample."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    features: Annotated[tuple[Feature, ...], Field(min_length=1), AfterValidator(_check_unique_names)]
    """At least one feature, in the order that the estimator was fitted on, with different names."""

    layout: Layout
    """`array`: shape (rows, features), of one dtype. `frame`: a DataFrame with the features' names."""

    dtype: str = "float64"
    """The dtype of an array, as numpy names it."""

    extra: Literal["refuse", "ignore"] = "refuse"
    """The treatment of a value that belongs to no feature."""

    out_of_range: Literal["warn", "accept", "refuse"] = "warn"
    """The treatment of a number or datetime outside the range of the sample; `warn` adds a warning to the answer."""

    magnitude: float = MAX_FLOAT
    """The largest magnitude of a float that the estimator accepts: trees, for one, compute in single precision."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def bounds(self, feature: Feature) -> tuple[int | float, int | float]:
        """Return the smallest and the largest number that a request may send for a feature."""
        low, high = feature.numeric_limits
        if feature.kind == "float":
            low, high = max(low, -self.magnitude), min(high, self.magnitude)
        if self.out_of_range == "refuse":
            minimum, maximum = feature.observed_range
            low, high = low if minimum is None else max(low, minimum), high if maximum is None else min(high, maximum)
        return low, high

    @property
    def example(self) -> dict[str, Value]:
        """A made-up row that the parser accepts."""
        return {feature.name: feature.example for feature in self.features}
