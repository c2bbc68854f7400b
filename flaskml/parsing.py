"""The parser of one version: the bytes of a request to the table that the estimator takes.

A schema is compiled once into strict validators that read JSON straight into rows. What they refuse is read a second
time, slowly, to say everything that is wrong with it (`diagnosis`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from flaskml import diagnosis
from flaskml.errors import InvalidInput, Problem, TooManyRows
from flaskml.schema import Feature, Schema, Table, Value

TEXT_LIMIT = 100_000
"""Characters in one text value, so that a vectorizer's work on one request is bounded."""

_INSTANCES = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"instances"[ \t\n\r]*:[ \t\n\r]*\[[ \t\n\r]*(\[?)')
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Rows:
    """What a request asks about: the table, and whether it came as one row rather than a list."""

    table: Table
    single: bool


class Parser:
    """The validators of one schema. Every method returns `Rows` or raises a `FlaskmlError` with a 4xx status."""

    def __init__(self, schema: Schema, *, max_rows: int) -> None:
        self.schema = schema
        self.max_rows = max_rows
        row = _row(schema)
        values = core_schema.tuple_schema([_field(feature) for feature in schema.features])
        self._row = SchemaValidator(row)
        self._rows = SchemaValidator(self._list(row))
        self._instances = SchemaValidator(_only("instances", self._list(row)))
        self._value_instances = SchemaValidator(_only("instances", self._list(values)))

    def _list(self, item: CoreSchema) -> CoreSchema:
        # Failing fast: a list of errors for every row would be many times the size of the body.
        return core_schema.list_schema(item, max_length=self.max_rows, fail_fast=True)

    def parse_json(self, body: bytes) -> Rows:
        """One object of features, a list of them, or `{"instances": [...]}` with rows as objects or as lists."""
        try:
            return self._parse(body)
        except ValidationError:
            document = diagnosis.decode(body)
        rows, single = _as_rows(document)
        if len(rows) > self.max_rows:
            raise TooManyRows(self.max_rows)
        return self._checked(rows, single=single, lists=not isinstance(document, list))

    def _parse(self, body: bytes) -> Rows:
        start = _INSTANCES.match(body)
        if start is None:
            if body.lstrip(b" \t\n\r")[:1] == b"[":
                return self._of_objects(self._rows.validate_json(body))
            return self._of_objects([self._row.validate_json(body)], single=True)
        if start[1]:
            return Rows(self.schema.table(self._value_instances.validate_json(body)["instances"]), single=False)
        return self._of_objects(self._instances.validate_json(body)["instances"])

    def _checked(self, rows: Sequence[object], *, single: bool, lists: bool = False) -> Rows:
        """The rows, validated one by one so that every problem is told; `lists` says that a row may be a list."""
        report = diagnosis.Report(self.schema)
        valid = []
        for index, row in enumerate(rows):
            row = diagnosis.named(self.schema, row) if lists else row
            try:
                valid.append(self._row.validate_python(row))
            except ValidationError as error:
                report.add(index, row, error)
            if report.full:
                break
        report.raise_if_any()
        return self._of_objects(valid, single=single)

    def parse_form(self, fields: Sequence[tuple[str, str]]) -> Rows:
        """One row of text fields. A number is written in ASCII digits; nothing stands for null."""
        texts: dict[str, str] = {}
        for name, text in fields:
            if name in texts:
                raise InvalidInput([Problem(0, name[:100], f'"{name[:100]}" was sent more than once')])
            texts[name] = text
        features = {feature.name: feature for feature in self.schema.features}
        row = {name: read_text(features[name], text) if name in features else text for name, text in texts.items()}
        return self._checked([row], single=True)

    def _of_objects(self, rows: Sequence[Mapping[str, Value]], *, single: bool = False) -> Rows:
        # A validated row has its values in schema order, whatever the order they were sent in.
        return Rows(self.schema.table([tuple(row.values()) for row in rows]), single=single)

    def parse_table(self, rows: object) -> Rows:
        """Rows from Python, any number of them: a mapping, a list of mappings or of lists, a 2-D array, a DataFrame."""
        if isinstance(rows, Mapping):
            return self._checked([_plain(rows)], single=True)
        if hasattr(rows, "to_dict"):
            rows = rows.to_dict("records")
        return self._checked([_plain(row) for row in rows], single=False, lists=True)  # type: ignore[attr-defined]


def _field(feature: Feature) -> CoreSchema:
    schema = _FIELDS[feature.kind](feature)
    return core_schema.nullable_schema(schema) if feature.nullable else schema


def _integer(_: Feature) -> CoreSchema:
    # A client without integers sends 3.0; a float that large has lost its last digits and is an integer by accident.
    whole = core_schema.float_schema(strict=True, multiple_of=1, ge=-(2.0**53), le=2.0**53)
    return core_schema.union_schema([core_schema.int_schema(strict=True, ge=-(2**63), lt=2**63), whole])


_FIELDS: Mapping[str, Callable[[Feature], CoreSchema]] = {
    "float": lambda _: core_schema.float_schema(strict=True, allow_inf_nan=False),
    "integer": _integer,
    "boolean": lambda _: core_schema.bool_schema(strict=True),
    "text": lambda _: core_schema.str_schema(strict=True, max_length=TEXT_LIMIT),
    "category": lambda feature: core_schema.literal_schema(list(feature.categories or ())),
}


def _row(schema: Schema) -> CoreSchema:
    fields = {feature.name: core_schema.typed_dict_field(_field(feature)) for feature in schema.features}
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid", strict=True)


def _only(name: str, value: CoreSchema) -> CoreSchema:
    return core_schema.typed_dict_schema({name: core_schema.typed_dict_field(value)}, extra_behavior="forbid")


def _as_rows(document: object) -> tuple[Sequence[Any], bool]:
    if isinstance(document, dict) and document.keys() == {"instances"} and isinstance(document["instances"], list):
        return document["instances"], False
    return (document, False) if isinstance(document, list) else ([document], True)


def read_text(feature: Feature, text: str) -> Value:
    """The value that a text field stands for; a text that stands for none is returned as it is, to be refused."""
    if feature.kind in ("category", "text"):
        return None if text == "" and feature.nullable else text
    if text == "":
        return None
    if feature.kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    if feature.kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _plain(row: Any) -> Any:
    """A row from Python with the values that JSON would have given it."""
    if isinstance(row, Mapping):
        return {str(name): _scalar(value) for name, value in row.items()}
    return [_scalar(value) for value in row] if isinstance(row, (Sequence, np.ndarray)) else _scalar(row)


def _scalar(value: Any) -> Any:
    """A numpy scalar as the Python value that it holds, and the missing markers of numpy and pandas as null."""
    value = value.item() if isinstance(value, np.generic) else value
    missing = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
    return None if missing else value
