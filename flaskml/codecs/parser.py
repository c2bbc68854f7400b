"""The parser of one version: the bytes of a request to the table that the estimator takes.

A schema is compiled once into strict validators that read JSON straight into rows. What they refuse is read a second
time, slowly, to say everything that is wrong with it (`diagnosis`).
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from flaskml.codecs import validation_report as diagnosis
from flaskml.codecs.csv_tables import read_csv_rows
from flaskml.codecs.npy import read_npy
from flaskml.codecs.text_values import browser_field_names, parse_text_value
from flaskml.errors import InvalidInput, Problem, TooManyRows
from flaskml.schema.features import MAX_EXACT_INTEGER, Feature, Schema, Value
from flaskml.schema.tables import SchemaTableBuilder, datetime_validator, json_value

MAX_TEXT_CHARACTERS = 100_000
"""Characters in one text value, so that a vectorizer's work on one request is bounded."""

_INSTANCES = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"instances"[ \t\n\r]*:[ \t\n\r]*\[[ \t\n\r]*(\[?)')


class TableBuilder(Protocol):
    """Makes the tables that a runtime computes."""

    def build(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Return the table of rows that have their values in schema order, null as None."""
        ...


class Rows:
    """What a request asks about: its values, and whether they came as one row rather than a list."""

    __slots__ = ("_table", "_table_builder", "is_single", "values")

    def __init__(self, values: Sequence[Sequence[Value]], table_builder: TableBuilder, *, is_single: bool) -> None:
        self.values = values
        """Valid values in schema order, null as None."""

        self.is_single = is_single
        self._table_builder = table_builder
        self._table: Any = None

    @property
    def table(self) -> Any:
        """The same as the estimator takes it, made when it is asked for: rows of several requests share a table."""
        if self._table is None:
            self._table = self._table_builder.build(self.values)
        return self._table


class Parser:
    """The validators of one schema. Every method returns `Rows` or raises a `FlaskmlError` with a 4xx status."""

    def __init__(self, schema: Schema, *, max_rows: int, table_builder: TableBuilder | None = None) -> None:
        self.schema = schema
        self.table_builder = table_builder or SchemaTableBuilder(schema)
        self.max_rows = max_rows
        self._features = {feature.name: feature for feature in schema.features}
        self._written = {written: name for name in schema.names for written in browser_field_names(name)}
        # To pydantic each missing value is an error with a copy of the row, which may be large: here none is missed.
        quick = _row(schema, required=False)
        values = core_schema.tuple_schema([_field(schema, feature) for feature in schema.features], fail_fast=True)
        self._row = SchemaValidator(_row(schema, required=True))
        self._quick_row = SchemaValidator(quick)
        self._rows = SchemaValidator(self._list(quick))
        self._instances = SchemaValidator(_only("instances", self._list(quick)))
        self._value_instances = SchemaValidator(_only("instances", self._list(values)))

    def _list(self, item: CoreSchema) -> CoreSchema:
        # Failing fast: a list of errors for every row would be many times the size of the body.
        return core_schema.list_schema(item, max_length=self.max_rows, fail_fast=True)

    def parse_json(self, body: bytes) -> Rows:
        """One object of features, a list of them, or `{"instances": [...]}` with rows as objects or as lists."""
        try:
            if (rows := self._parse(body)) is not None:
                return rows
        except ValidationError:
            pass  # Its errors may be many times the size of the body, and are gone before the second reading.
        document = diagnosis.decode_json(body)
        sent, is_single = _as_rows(document)
        if len(sent) > self.max_rows:
            raise TooManyRows(self.max_rows)
        return self._checked(sent, is_single=is_single, lists=not isinstance(document, list))

    def _parse(self, body: bytes) -> Rows | None:
        start = _INSTANCES.match(body)
        if start is None:
            if body.lstrip(b" \t\n\r")[:1] == b"[":
                return self._of_whole(self._rows.validate_json(body))
            return self._of_whole([self._quick_row.validate_json(body)], is_single=True)
        if start[1]:
            values = self._value_instances.validate_json(body)["instances"]
            return Rows(values, self.table_builder, is_single=False)
        return self._of_whole(self._instances.validate_json(body)["instances"])

    def _of_whole(self, rows: Sequence[Mapping[str, Value]], *, is_single: bool = False) -> Rows | None:
        """The rows, unless one of them misses a feature."""
        width = len(self.schema.features)
        whole = min(map(len, rows), default=width) == width
        return self._of_objects(rows, is_single=is_single) if whole else None

    def _checked(
        self, rows: Sequence[object], *, is_single: bool, lists: bool = False, found: Sequence[Problem] = ()
    ) -> Rows:
        """The rows, validated one by one so that every problem is told, after those that were found already.

        `lists` says that a row may be a list. A problem stands where there was no row to be read.
        """
        report = diagnosis.ValidationReport(self.schema)
        for problem in found:
            report.tell(problem)
        valid = []
        for index, row in enumerate(rows):
            if report.full:
                break
            if isinstance(row, Problem):
                report.tell(row)
                continue
            row = diagnosis.with_names(self.schema, row) if lists else row
            row = diagnosis.without_excess_names(self.schema, row)
            try:
                valid.append(self._row.validate_python(row))
            except ValidationError as error:
                report.add(index, row, error)
        report.raise_if_any()
        return self._of_objects(valid, is_single=is_single)

    def parse_form(self, fields: Sequence[tuple[str, str]]) -> Rows:
        """One row of text fields. A number is written in ASCII digits; nothing stands for null."""
        named = [(self.feature_meant(written), text) for written, text in fields]
        twice = [name[:100] for name, count in Counter(name for name, _ in named).items() if count > 1]
        found = [Problem(0, name, f'"{name}" was sent more than once') for name in twice]
        return self._checked([self._read(dict(named))], is_single=True, found=found)

    def feature_meant(self, written: str) -> str:
        """The feature that a form means by a name, which browsers do not send as it stands."""
        return written if written in self._features else self._written.get(written, written)

    def parse_csv(self, body: bytes) -> Rows:
        """Rows of text with a header, in UTF-8; an empty field is null. The rules are those of a form."""
        header, records = read_csv_rows(body, self.max_rows)
        if not records:  # Otherwise each row says which values it lacks.
            self.check_columns(header)
        return self.parse_texts(records)

    def parse_npy(self, body: bytes) -> Rows:
        """An array of shape (rows, features) in NumPy's format, features in schema order."""
        array = read_npy(body)
        if len(array) > self.max_rows:
            raise TooManyRows(self.max_rows)
        self.check_width(array.shape[1])
        return self.parse_table(array.tolist())

    def parse_texts(self, records: Sequence[Mapping[str, str] | Problem]) -> Rows:
        """Rows of text by column, under the rules of CSV; a problem stands where there was no row to be read."""
        return self._checked([self._read(record) for record in records], is_single=False)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `InvalidInput` naming each feature that has no column."""
        missing = [name for name in self.schema.names if name not in columns]
        if missing:
            raise InvalidInput([Problem(None, name[:100], f'there is no column "{name[:100]}"') for name in missing])

    def check_width(self, columns: int) -> None:
        """Raise `InvalidInput` unless an array has one column for each feature."""
        if columns != (width := len(self.schema.features)):
            raise InvalidInput([Problem(None, None, f"the array has {columns} columns, and the model takes {width}")])

    def _read(self, texts: Mapping[str, str] | Problem) -> dict[str, Value] | Problem:
        if isinstance(texts, Problem):
            return texts
        return {name: self._read_field(name, text) for name, text in texts.items()}

    def _read_field(self, name: str, text: str) -> Value:
        feature = self._features.get(name)
        return text if feature is None else parse_text_value(feature, text)

    def _of_objects(self, rows: Sequence[Mapping[str, Value]], *, is_single: bool = False) -> Rows:
        # A validated row has its values in schema order, whatever the order they were sent in.
        values = [tuple(row.values()) for row in rows]
        return Rows(values, self.table_builder, is_single=is_single)

    def parse_table(self, rows: object) -> Rows:
        """Rows from Python, any number of them: a mapping, a list of mappings or of lists, a 2-D array, a DataFrame."""
        if isinstance(rows, Mapping):
            return self._checked([_plain(rows)], is_single=True)
        if hasattr(rows, "to_dict"):
            rows = rows.to_dict("records")
        return self._checked([_plain(row) for row in rows], is_single=False, lists=True)  # type: ignore[attr-defined]


def _field(schema: Schema, feature: Feature) -> CoreSchema:
    field = _FIELDS[feature.kind](schema, feature)
    return core_schema.nullable_schema(field) if feature.nullable else field


def _float(schema: Schema, feature: Feature) -> CoreSchema:
    low, high = schema.bounds(feature)
    if -low == high == sys.float_info.max:
        return core_schema.float_schema(strict=True, allow_inf_nan=False)
    return core_schema.float_schema(strict=True, allow_inf_nan=False, ge=float(low), le=float(high))


def _integer(schema: Schema, feature: Feature) -> CoreSchema:
    least, most = schema.bounds(feature)
    low, high = math.ceil(least), math.floor(most)
    # A client without integers sends 3.0; a float that large has lost its last digits and is an integer by accident.
    number = core_schema.float_schema(strict=True, ge=max(low, -MAX_EXACT_INTEGER), le=min(high, MAX_EXACT_INTEGER))
    whole = core_schema.no_info_after_validator_function(_as_integer, number)
    return core_schema.union_schema([core_schema.int_schema(strict=True, ge=low, le=high), whole])


def _as_integer(number: float) -> int:
    # Not by pydantic's `multiple_of`, to which 1,000,000,000.5 is a multiple of 1 up to its version 2.10 at least.
    if not number.is_integer():
        raise ValueError
    return int(number)


def _text(_: Schema, __: Feature) -> CoreSchema:
    return core_schema.str_schema(strict=True, max_length=MAX_TEXT_CHARACTERS)


def _category(schema: Schema, feature: Feature) -> CoreSchema:
    categories = list(feature.categories or ())
    any_category = _integer(schema, feature) if feature.is_whole else _text(schema, feature)
    if feature.unknown == "accept":
        return any_category
    closed = core_schema.literal_schema(categories)
    return core_schema.chain_schema([any_category, closed]) if feature.is_whole else closed  # To a literal, true is 1.


def _datetime(schema: Schema, feature: Feature) -> CoreSchema:
    check = datetime_validator(feature, closed=schema.out_of_range == "refuse")
    return core_schema.no_info_after_validator_function(check, core_schema.str_schema(strict=True, max_length=40))


_FIELDS: Mapping[str, Callable[[Schema, Feature], CoreSchema]] = {
    "float": _float,
    "integer": _integer,
    "boolean": lambda _, __: core_schema.bool_schema(strict=True),
    "text": _text,
    "category": _category,
    "datetime": _datetime,
}


def _row(schema: Schema, *, required: bool) -> CoreSchema:
    fields = {
        feature.name: core_schema.typed_dict_field(_field(schema, feature), required=required)
        for feature in schema.features
    }
    return core_schema.typed_dict_schema(fields, extra_behavior=_EXTRA[schema.extra], strict=True)


_EXTRA: Mapping[str, Literal["forbid", "ignore"]] = {"refuse": "forbid", "ignore": "ignore"}


def _only(name: str, value: CoreSchema) -> CoreSchema:
    return core_schema.typed_dict_schema({name: core_schema.typed_dict_field(value)}, extra_behavior="forbid")


def _as_rows(document: object) -> tuple[Sequence[Any], bool]:
    if isinstance(document, dict) and document.keys() == {"instances"} and isinstance(document["instances"], list):
        return document["instances"], False
    return (document, False) if isinstance(document, list) else ([document], True)


def _plain(row: Any) -> Any:
    """A row from Python with the values that JSON would have given it."""
    if isinstance(row, Mapping):
        return {str(name): json_value(value) for name, value in row.items()}
    if isinstance(row, (Sequence, np.ndarray)) and not isinstance(row, str):
        return [json_value(value) for value in row]
    return row
