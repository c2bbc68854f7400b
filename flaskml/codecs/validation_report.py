"""What is wrong with an input, said in full.

Here speed does not matter and size does: at most 20 problems are told, each in a short sentence.
"""

from __future__ import annotations

import contextlib
import json
import math
from itertools import islice
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from flaskml.errors import MAX_PROBLEMS, InvalidInput, NotParseable, Problem, did_you_mean
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import datetime_validator

MAX_INTEGER_DIGITS = 400
"""Digits beyond which a JSON integer is larger than any float; Python would also take a quadratic time to read it."""

MAX_SHOWN_CHARACTERS = 40
"""Characters of a client's own value that are repeated to it."""


def decode_json(body: bytes) -> Any:
    """The JSON document in `body`, with its non-standard and oversized numbers kept as infinities and NaN.

    Raises `NotParseable` for what is not one JSON document in UTF-8.
    """
    if not body.strip():
        raise NotParseable("it is empty; send a JSON object with a value for each feature")
    try:
        return json.loads(body.decode("utf-8"), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise NotParseable(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise NotParseable("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise NotParseable(f"{error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}") from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else math.inf


def with_names(schema: Schema, row: object) -> object:
    """A row given as a list of values in schema order as the same row with names; any other row as it is."""
    if isinstance(row, (list, tuple)) and len(row) == len(schema.features):
        return dict(zip(schema.names, row, strict=True))
    return row


def without_excess_names(schema: Schema, row: object) -> object:
    """A row with far too many names as one with just too many: an error is made, and told, for each."""
    most = len(schema.features) + MAX_PROBLEMS + 1
    if not isinstance(row, dict) or len(row) <= most:
        return row
    known = {name: row[name] for name in schema.names if name in row}
    unknown = (name for name in row if name not in known)
    return {**known, **{name: row[name] for name in islice(unknown, MAX_PROBLEMS + 1)}}


class ValidationReport:
    """The problems of one input, gathered row by row."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._features = {feature.name: feature for feature in schema.features}
        self._problems: list[Problem] = []

    @property
    def full(self) -> bool:
        """Whether more problems were found than will be told, so that looking further is idle."""
        return len(self._problems) > MAX_PROBLEMS

    def tell(self, problem: Problem) -> None:
        """Takes in a problem that was found before there was a row to validate."""
        self._problems.append(problem)

    def add(self, index: int, row: object, error: ValidationError) -> None:
        """Takes in what a row validator said of the row at `index`."""
        if not isinstance(row, dict):
            self._problems.append(Problem(index, None, self._wrong_row(row)))
            return
        seen = set()
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            if self.full:  # Each sentence costs a search for the nearest name.
                return
            if not detail["loc"]:
                self._problems.append(Problem(index, None, "a name in it is not Unicode text"))
                continue
            name = str(detail["loc"][0])
            if name not in seen:  # A union reports once for each of its members.
                seen.add(name)
                self._problems.append(Problem(index, name[:100], self._sentence(name, row, detail)))

    def raise_if_any(self) -> None:
        """Raises `InvalidInput` unless nothing was added."""
        if self._problems:
            raise InvalidInput(self._problems[:MAX_PROBLEMS], more=self.full)

    def _beyond(self, feature: Feature, value: Any) -> str | None:
        """What to say of a value that is of the right kind and too small or too large."""
        if feature.is_number and type(value) in (int, float) and -math.inf < value < math.inf:
            low, high = self._schema.bounds(feature)
            whole = feature.kind == "integer"
            beyond = (not whole or value == int(value)) and not low <= value <= high
            noun = "a whole number" if whole else "a number"
            return f"must be {noun} from {low} to {high}, not {_shown(value)}" if beyond else None
        if feature.kind == "datetime" and isinstance(value, str) and self._schema.out_of_range == "refuse":
            with contextlib.suppress(ValueError):
                datetime_validator(feature, closed=False)(value)
                return f"must be a date and time, {feature.ranged}"
        return None

    def _wrong_row(self, row: object) -> str:
        if isinstance(row, list):
            count = len(self._features)
            if len(row) != count:
                return f'under "instances" a row may be a list of all {count} values, and this one has {len(row)}'
            return f'a row is an object of features; a list of all {count} values is one under "instances" only'
        return f"a row is an object with a value for each feature, not {_shown(row)}"

    def _sentence(self, name: str, row: dict[str, Any], detail: ErrorDetails) -> str:
        if name not in self._features:
            return f'there is no feature "{name[:100]}"{did_you_mean(name, self._features)}'
        feature = self._features[name]
        if detail["type"] == "missing":
            return f'"{name[:100]}" is missing; it must be {feature.wanted}'
        value = row[name]
        if beyond := self._beyond(feature, value):
            return f'"{name[:100]}" {beyond}'
        return f'"{name[:100]}" must be {feature.wanted}, not {_shown(value)}{_remedy(feature, value)}'


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "a number beyond the range of floats"
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, str):
        ellipsis = "…" if len(value) > MAX_SHOWN_CHARACTERS else ""
        return f"the string {json.dumps(value[:MAX_SHOWN_CHARACTERS], ensure_ascii=False)}{ellipsis}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)[:MAX_SHOWN_CHARACTERS]


def _remedy(feature: Feature, value: object) -> str:
    if value is None:
        return "; no row in training had null here"
    if isinstance(value, str) and feature.is_number and value.strip("+-").replace(".", "", 1).isdigit():
        return "; send it without quotes"
    if isinstance(value, str) and feature.categories:
        return did_you_mean(value, map(str, feature.categories))
    return ""
