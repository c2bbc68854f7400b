"""What an estimator takes: its features, in order, and the table that it was fitted on.

A schema is learnt from a sample (`learning`), stored in the manifest, and compiled into a parser (`parsing`) and into
what makes the tables of requests (`tables`).
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
Value: TypeAlias = float | int | bool | str | None
Bound: TypeAlias = StrictInt | StrictFloat | StrictStr
Table: TypeAlias = "np.ndarray | pd.DataFrame"

MAX_LISTED_CATEGORIES = 10
"""How many categories a sentence names."""

MAX_FLOAT = sys.float_info.max
"""The largest number that there is."""

MAX_EXACT_INTEGER = 2**53
"""The largest number up to which a float holds every whole number."""


class Feature(BaseModel):
    """One column: its name, what it may hold, what it is made of, and what the sample held."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """The name that requests use; any text."""

    kind: Kind
    """What a value is: `category` one of a set of strings or whole numbers, `text` any string, `datetime` ISO 8601."""

    nullable: bool = False
    """Whether the sample had a missing value, and so a request may send null."""

    dtype: str
    """What the column is made of, as pandas names it; a categorical says of what: `category[object]`."""

    missing: Marker = "NaN"
    """What stands for a missing value in the column; some encoders tell these apart."""

    minimum: Bound | None = None
    """The smallest value of the sample, for numbers and, as ISO 8601, for datetimes."""

    maximum: Bound | None = None
    """The largest."""

    quantiles: tuple[float, ...] | None = None
    """Of numbers, the values below which 5, 25, 50, 75 and 95 of a hundred lie."""

    categories: tuple[StrictStr, ...] | tuple[StrictInt, ...] | None = None
    """The closed set of a category, in the order that the column has it."""

    counts: tuple[int, ...] | None = None
    """How often the sample held each category."""

    ordered: bool = False
    """Whether the order of the categories means something."""

    unknown: Literal["accept", "refuse"] | None = None
    """What becomes of a category beyond the set; None until the estimator was tried with one."""

    @model_validator(mode="before")
    @classmethod
    def _made_of(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A feature that does not say so is made of what numpy has for its kind."""
        kind = values.get("kind")
        gaps = values.get("nullable") and kind in ("integer", "boolean")
        return {"dtype": "float64" if gaps else _MADE_OF.get(str(kind), "object"), **values}

    @model_validator(mode="after")
    def _coherent(self) -> Feature:
        if (self.kind == "category") != bool(self.categories):
            raise ValueError("a category has categories, and nothing else has")
        if len(set(self.categories or ())) < len(self.categories or ()):
            raise ValueError("a category is there twice")
        if self.counts is not None and len(self.counts) != len(self.categories or ()):
            raise ValueError("there is one count for each category")
        if self.kind != "category" and (self.unknown is not None or self.ordered):
            raise ValueError("only a category can be unknown, or in an order")
        self._check_bounds()
        return self

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and not (self.is_number or self.kind == "datetime"):
            raise ValueError("only a number and a datetime have a minimum and a maximum")
        moments = [bound for bound in bounds if isinstance(bound, str)]
        if len(moments) != (len(bounds) if self.kind == "datetime" else 0):
            raise ValueError("a datetime has ISO 8601 texts as minimum and maximum, and a number numbers")
        if any(_moment_or_none(text) is None for text in moments):
            raise ValueError("minimum and maximum of a datetime are ISO 8601")
        if any((parse_datetime(text).tzinfo is not None) != self.is_aware for text in moments):
            raise ValueError("minimum and maximum have an offset from UTC if the values have one")
        if not all(abs(bound) <= MAX_FLOAT for bound in bounds if not isinstance(bound, str)):
            raise ValueError("minimum and maximum are finite")
        low, high = self.span
        if low is not None and high is not None and low > high:
            raise ValueError("the minimum is not above the maximum")

    @property
    def span(self) -> tuple[Any, Any]:
        """The smallest and the largest value of the sample, datetimes as such; None where there is none."""
        low, high = (parse_datetime(b) if isinstance(b, str) else b for b in (self.minimum, self.maximum))
        return low, high

    @property
    def ranged(self) -> str:
        """The range of the sample, as the end of a sentence."""
        if self.minimum is None or self.maximum is None:
            return f"at least {self.minimum}" if self.maximum is None else f"at most {self.maximum}"
        return f"{self.minimum} to {self.maximum}"

    @property
    def is_number(self) -> bool:
        """Whether a value is a float or an integer."""
        return self.kind in ("float", "integer")

    @property
    def is_whole(self) -> bool:
        """Whether a value is a whole number, any or one of a set."""
        return self.kind == "integer" or (self.kind == "category" and isinstance((self.categories or ("",))[0], int))

    @property
    def is_aware(self) -> bool:
        """Whether a datetime has an offset from UTC."""
        return "," in self.dtype

    @property
    def numeric_limits(self) -> tuple[int | float, int | float]:
        """The numbers that a request may send: those that the column holds, whole ones in 64 bits at most."""
        kind = np.dtype(self.dtype.lower()) if self.dtype.lower().startswith(("int", "uint", "float")) else None
        if self.is_whole:
            whole = np.iinfo(kind) if kind is not None and kind.kind in "iu" else np.iinfo(np.int64)
            return int(whole.min), int(whole.max)
        finite = np.finfo(kind) if kind is not None and kind.kind == "f" else np.finfo(np.float64)
        return float(finite.min), float(finite.max)

    @property
    def wanted(self) -> str:
        """What a value must be, as the end of a sentence."""
        offset = "+01:00, with an offset" if self.is_aware else ", without an offset"
        wanted = {
            "float": "a finite number",
            "integer": "a whole number",
            "boolean": "true or false",
            "text": "a string",
            "category": f"one of {self._categories_listed()}",
            "datetime": f"a date and time such as 2024-01-31T12:00:00{offset}",
        }[self.kind]
        return f"{wanted} or null" if self.nullable else wanted

    @property
    def example(self) -> Value:
        """A value made up from the range: no row of the sample holds it on purpose."""
        if self.categories is not None:
            return self.categories[0]
        if self.is_number:
            return self._middle()
        if self.kind == "datetime":
            return self._moment_between()
        return False if self.kind == "boolean" else "text"

    def _middle(self) -> float | int:
        low, high = self.span
        low, high = (high or 0 if low is None else low), (low or 0 if high is None else high)
        if self.kind == "integer":
            return round((low + high) / 2) if abs(low) + abs(high) < MAX_EXACT_INTEGER else (int(low) + int(high)) // 2
        return min(max(float(f"{low / 2 + high / 2:.3g}"), low), high)

    def _moment_between(self) -> str:
        low, high = self.span
        low, high = (high if low is None else low), (low if high is None else high)
        if low is None:
            return f"2024-01-31T00:00:00{'+00:00' if self.is_aware else ''}"
        middle = low + (high - low) / 2
        day = middle.replace(hour=0, minute=0, second=0, microsecond=0)
        return str((day if day >= low else middle).isoformat())

    def _categories_listed(self) -> str:
        categories = self.categories or ()
        names = ", ".join(_quoted(category) for category in categories[:MAX_LISTED_CATEGORIES])
        return names if len(categories) <= MAX_LISTED_CATEGORIES else f"{names}, … ({len(categories)} in all)"


_MADE_OF = {"float": "float64", "integer": "int64", "boolean": "bool", "datetime": "datetime64[us]"}


def parse_datetime(text: str) -> dt.datetime:
    """The datetime that a text in ISO 8601 stands for. Raises ValueError."""
    return dt.datetime.fromisoformat(text)


def _moment_or_none(text: str) -> dt.datetime | None:
    try:
        return parse_datetime(text)
    except ValueError:
        return None


def _quoted(category: str | int) -> str:
    return str(category) if isinstance(category, int) else f'"{category[:40]}"'


def _named_apart(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    if len({feature.name for feature in features}) < len(features):
        raise ValueError("two features have the same name")
    return features


class Schema(BaseModel):
    """The features of an estimator in the order it was fitted on, the table that it takes, and what is let pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    features: Annotated[tuple[Feature, ...], Field(min_length=1), AfterValidator(_named_apart)]
    """At least one, with different names."""

    layout: Layout
    """`array`: shape (rows, features), of one type. `frame`: a DataFrame with the features' names."""

    dtype: str = "float64"
    """The type of an array, as numpy names it."""

    extra: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a value for which there is no feature."""

    out_of_range: Literal["warn", "accept", "refuse"] = "warn"
    """What becomes of a number or a datetime beyond those of the sample; `warn` answers, and says so."""

    magnitude: float = MAX_FLOAT
    """The largest magnitude of a number that the estimator takes: trees, for one, compute in single precision."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def bounds(self, feature: Feature) -> tuple[int | float, int | float]:
        """The smallest and the largest number that a request may send for a feature."""
        low, high = feature.numeric_limits
        if feature.kind == "float":
            low, high = max(low, -self.magnitude), min(high, self.magnitude)
        if self.out_of_range == "refuse":
            least, most = feature.span
            low, high = low if least is None else max(low, least), high if most is None else min(high, most)
        return low, high

    @property
    def example(self) -> dict[str, Value]:
        """A made-up row that the parser takes."""
        return {feature.name: feature.example for feature in self.features}
