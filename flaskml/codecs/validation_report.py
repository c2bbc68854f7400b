"""Error messages for invalid input: every problem of a body, up to 20, each with its row and feature.

This code runs only for invalid input, so the size of an answer matters here and the latency does not.
"""

from __future__ import annotations

import contextlib
import json
import math
from itertools import islice
from typing import Any

from pydantic_core import ErrorDetails, ValidationError

from flaskml.codecs.json_slices import MIN_SLICED_BYTES, slice_array, slice_instances, slice_object
from flaskml.errors import MAX_PROBLEMS, InvalidInput, NotParseable, Problem, did_you_mean
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import datetime_validator

MAX_INTEGER_DIGITS = 400
"""Digits of the longest JSON integer that is converted: a longer one exceeds every float, and takes quadratic time."""

MAX_SHOWN_CHARACTERS = 40
"""Characters of a client's own value that an error message repeats."""


def decode_json(body: bytes) -> Any:
    """Return the JSON document in `body`. Non-standard and oversized numbers become infinities and NaN.

    Raises `NotParseable` unless the body is one JSON document in UTF-8.
    """
    if not body.strip():
        raise NotParseable("it is empty; send a JSON object with a value for each feature")
    try:
        text = body.decode("utf-8")
        document = _decode_slices(body) if len(body) >= MIN_SLICED_BYTES else None
        if document is not None:
            return document
        return json.loads(text, parse_int=_parse_integer, parse_float=_parse_float)
    except UnicodeDecodeError as error:
        raise NotParseable(f"byte {error.start} is not UTF-8; send the body in UTF-8") from None
    except RecursionError:
        raise NotParseable("it is nested too deeply; send each feature as a single value") from None
    except json.JSONDecodeError as error:
        raise NotParseable(f"{error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}") from None


def _decode_slices(body: bytes) -> Any:
    """Return the JSON document in a long body, decoded in slices; None if it must be decoded as a whole.

    Between two slices, the GIL is free.
    """
    document: Any
    try:
        if slices := slice_object(body):
            document = {}
            for part in slices:
                document.update(json.loads(part, parse_int=_parse_integer))
            return document
        is_array = (slices := slice_array(body)) is not None
        elements: list[Any] = []
        for part in slices or slice_instances(body) or ():
            elements += json.loads(part, parse_int=_parse_integer)
    except (ValueError, RecursionError):  # A cut inside of a value, or a fault, which the whole body shows better.
        return None
    document = elements if is_array else {"instances": elements}
    return document if elements else None


def _parse_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INTEGER_DIGITS else math.inf


def _parse_float(digits: str) -> float:
    """Return the number. The GIL is free between calls of a function in Python; between calls of `float` it is not."""
    return float(digits)


def with_names(schema: Schema, row: object) -> object:
    """Return a list of values in schema order as a dict by feature name, and any other row unchanged."""
    if isinstance(row, (list, tuple)) and len(row) == len(schema.features):
        return dict(zip(schema.names, row, strict=True))
    return row


def without_excess_names(schema: Schema, row: object) -> object:
    """Return a row without its unknown names beyond the first `MAX_PROBLEMS` + 1: pydantic creates an error for each.

    A row of few names is returned unchanged, and so is a row that is not a dict.
    """
    max_names = len(schema.features) + MAX_PROBLEMS + 1
    if not isinstance(row, dict) or len(row) <= max_names:
        return row
    known = {name: row[name] for name in schema.names if name in row}
    unknown = (name for name in row if name not in known)
    return {**known, **{name: row[name] for name in islice(unknown, MAX_PROBLEMS + 1)}}


class ValidationReport:
    """The problems of one input, collected row by row."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._features = {feature.name: feature for feature in schema.features}
        self._problems: list[Problem] = []

    @property
    def is_full(self) -> bool:
        """True if there are more problems than the error will list, so that further validation is pointless."""
        return len(self._problems) > MAX_PROBLEMS

    def add_problem(self, problem: Problem) -> None:
        """Add a problem that was found before the row could be validated."""
        self._problems.append(problem)

    def add_row_error(self, index: int, row: object, error: ValidationError) -> None:
        """Add the errors that pydantic raised for the row at `index`."""
        if not isinstance(row, dict):
            self._problems.append(Problem(index, None, self._row_type_message(row)))
            return
        seen = set()
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            if self.is_full:  # Each message for an unknown name costs a search for the nearest name.
                return
            if not detail["loc"]:
                message = "a feature name is not valid Unicode; remove lone surrogates from it"
                self._problems.append(Problem(index, None, message))
                continue
            name = str(detail["loc"][0])
            if name not in seen:  # For a union, pydantic reports one error per member.
                seen.add(name)
                self._problems.append(Problem(index, name[:100], self._feature_message(name, row, detail)))

    def raise_if_any(self) -> None:
        """Raise `InvalidInput` if there are problems."""
        if self._problems:
            raise InvalidInput(self._problems[:MAX_PROBLEMS], more=self.is_full)

    def _out_of_range_message(self, feature: Feature, value: Any) -> str | None:
        """Return the message for a value of the right type that is too small or too large, else None."""
        if feature.is_number and type(value) in (int, float) and -math.inf < value < math.inf:
            low, high = self._schema.bounds(feature)
            is_integer = feature.kind == "integer"
            is_outside = (not is_integer or value == int(value)) and not low <= value <= high
            noun = "a whole number" if is_integer else "a number"
            return f"must be {noun} from {low} to {high}, not {_shown(value)}" if is_outside else None
        if feature.kind == "datetime" and isinstance(value, str) and self._schema.out_of_range == "refuse":
            with contextlib.suppress(ValueError):
                datetime_validator(feature, enforce_range=False)(value)
                return f"must be a date and time in the range of the training data, {feature.range_text}"
        return None

    def _row_type_message(self, row: object) -> str:
        if isinstance(row, list):
            count = len(self._features)
            if len(row) != count:
                return f'the row is a list of {len(row)} values; under "instances", a list must have all {count} values'
            return f'a list of all {count} values is a row only under "instances"; send an object of features'
        return f"the row must be an object with a value for each feature, not {_shown(row)}"

    def _feature_message(self, name: str, row: dict[str, Any], detail: ErrorDetails) -> str:
        if name not in self._features:
            remedy = did_you_mean(name, self._features) or "; remove it"
            return f'there is no feature "{name[:100]}"{remedy}'
        feature = self._features[name]
        if detail["type"] == "missing":
            return f'"{name[:100]}" is missing; it must be {feature.expectation}'
        value = row[name]
        if message := self._out_of_range_message(feature, value):
            return f'"{name[:100]}" {message}'
        return f'"{name[:100]}" must be {feature.expectation}, not {_shown(value)}{_hint(feature, value)}'


def _shown(value: object) -> str:
    """Return a client's value as an error message shows it, shortened."""
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


def _hint(feature: Feature, value: object) -> str:
    """Return the end of an error message that says how to correct the value, or an empty string."""
    if value is None:
        return "; no training row has null here, so send a value"
    if isinstance(value, str) and feature.is_number and value.strip("+-").replace(".", "", 1).isdigit():
        return "; send it without quotes"
    if isinstance(value, str) and feature.categories:
        return did_you_mean(value, map(str, feature.categories))
    return ""
