"""The parser of one version: request bodies (JSON, forms, CSV, NPY) and Python values to validated rows.

The parser compiles a schema once into strict validators that read JSON straight into rows. A body that they reject is
parsed a second time, slowly, to report every problem in it (`validation_report`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic_core import SchemaValidator, ValidationError

from flaskml.codecs.csv_tables import read_csv_rows
from flaskml.codecs.json_rows import MAX_EXCESS_NAMES, NotJson, ReadRows, RowReader, Shape, ValidatedRows
from flaskml.codecs.json_slices import (
    MIN_SLICED_BYTES,
    has_excess_structure,
    has_more_names,
    slice_array,
    slice_instances,
)
from flaskml.codecs.npy import read_npy
from flaskml.codecs.rows import Rows, TableBuilder
from flaskml.codecs.text_values import browser_field_names, parse_text_value
from flaskml.codecs.typed_rows import TypedRows
from flaskml.codecs.validation_report import ValidationReport, decode_json, with_names, without_excess_names
from flaskml.codecs.validators import MAX_TEXT_CHARACTERS, row_core_schema
from flaskml.errors import InvalidInput, Problem, TooManyRows
from flaskml.schema.features import Schema, Value
from flaskml.schema.tables import SchemaTableBuilder, json_value

_INSTANCES_START = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*"instances"[ \t\n\r]*:[ \t\n\r]*\[[ \t\n\r]*(\[?)')
"""The beginning of a body with the key "instances". The group matches if the first row is a list."""


_FIRST_KEY = re.compile(rb'[ \t\n\r]*\{[ \t\n\r]*("(?:[a-z]|\\u00[0-9A-Fa-f]{2}){9}")')
"""The first key of an object, if it has nine letters, written as such or escaped."""

MAX_DEPTHS: Mapping[Shape, int] = {"object": 1, "objects": 2, "instances of objects": 3, "instances of lists": 3}
"""Arrays and objects within each other in valid bodies."""


MAX_MARGIN_BYTES = 2**16
"""White space around a body that is left to the JSON library."""


class Parser:
    """The compiled validators of one schema.

    The `parse_` methods return `Rows`. They raise a `FlaskmlError` with a 4xx status for invalid input.
    """

    def __init__(self, schema: Schema, *, max_rows: int, table_builder: TableBuilder | None = None) -> None:
        self.schema = schema
        self.table_builder = table_builder or SchemaTableBuilder(schema)
        self.max_rows = max_rows
        self._features = {feature.name: feature for feature in schema.features}
        self._feature_names = {field: name for name in schema.names for field in browser_field_names(name)}
        texts = sum(not feature.is_numeric for feature in schema.features)
        self._max_commas = len(schema.features) + MAX_EXCESS_NAMES + texts * MAX_TEXT_CHARACTERS
        self._row_validator = SchemaValidator(row_core_schema(schema, is_required=True))
        readers = (TypedRows.of(schema, max_rows), ValidatedRows(schema, max_rows))
        self._readers: tuple[RowReader, ...] = tuple(reader for reader in readers if reader is not None)

    def parse_json(self, body: bytes) -> Rows:
        """Return the rows of a JSON body: one object of features, a list of objects, or `{"instances": [...]}`.

        Rows under "instances" are objects, or lists of values in schema order. Duplicate keys: the last one wins.
        """
        body = _without_long_margins(body)
        rows = self.parse_valid_json(body)
        if rows is not None:
            return rows
        shape = _shape_of(body)
        if self._has_excess_structure(body, shape, _slices(body, shape)):
            message = (
                "a row has far more values than features, or values within values; send one value for each feature"
            )
            raise InvalidInput([Problem(None, None, message)])
        document = decode_json(body)
        rows_sent, is_single = _rows_of_document(document)
        if len(rows_sent) > self.max_rows:
            raise TooManyRows(self.max_rows)
        return self._validate_each(rows_sent, is_single=is_single, allow_lists=not isinstance(document, list))

    def parse_valid_json(self, body: bytes) -> Rows | None:
        """Return the rows of a valid JSON body, as `parse_json` does; None for a body that it must read again.

        A body is read again to report its problems.
        """
        body = _without_long_margins(body)
        shape = _shape_of(body)
        slices = _slices(body, shape)
        for reader in self._readers:
            try:
                values = reader.read(body, shape) if slices is None else self._read_slices(reader, slices, body, shape)
            except NotJson:
                return None
            if values is not None:
                return Rows(values, self.table_builder, is_single=shape == "object")
            if self._has_excess_names(body, slices) or self._has_excess_structure(body, shape, slices):
                return None  # pydantic would hold the GIL until it has read all of it.
        return None

    def _has_excess_names(self, body: bytes, slices: Sequence[bytes] | None) -> bool:
        """Return whether a long body that is read as a whole has far more names than features; they may be in texts."""
        is_whole = slices is None and len(body) >= MIN_SLICED_BYTES and self.schema.extra == "refuse"
        return is_whole and has_more_names(body, len(self.schema.features) + MAX_EXCESS_NAMES)

    def _has_excess_structure(self, body: bytes, shape: Shape, slices: Sequence[bytes] | None) -> bool:
        """Return whether a long part of a body holds no valid rows, for the number or the depth of its values."""
        if self.schema.extra == "ignore":
            return False
        max_values = len(self.schema.features) + MAX_EXCESS_NAMES
        max_depth = MAX_DEPTHS[shape] if slices is None else MAX_DEPTHS["objects"]
        if shape == "object" and _may_be_instances(body):
            max_depth = MAX_DEPTHS["instances of lists"]
        return any(
            has_excess_structure(part, max_depth, max_values, self.max_rows)
            for part in slices or [body]
            if len(part) >= MIN_SLICED_BYTES
        )

    def _read_slices(self, reader: RowReader, slices: Sequence[bytes], body: bytes, shape: Shape) -> ReadRows:
        """Return the rows of a long body, read in slices, so that the GIL is free in between."""
        rows: list[tuple[Value, ...]] = []
        for part in slices:
            try:
                read = reader.read(part, "lists" if shape.endswith("lists") else "objects")
            except NotJson:
                return reader.read(body, shape)  # A cut was inside of an unknown value.
            if read is None or len(rows) + len(read) > self.max_rows:
                return None
            rows += read
        return rows

    def _validate_each(
        self, rows: Sequence[object], *, is_single: bool, allow_lists: bool = False, problems: Sequence[Problem] = ()
    ) -> Rows:
        """Validate the rows one by one, to report every problem of each after the given `problems`.

        With `allow_lists`, a row may be a list of values. A `Problem` among the rows replaces an unreadable row.
        """
        report = ValidationReport(self.schema)
        for problem in problems:
            report.add_problem(problem)
        valid = []
        for index, row in enumerate(rows):
            if report.is_full:
                break
            if isinstance(row, Problem):
                report.add_problem(row)
                continue
            row = with_names(self.schema, row) if allow_lists else row
            row = without_excess_names(self.schema, row)
            try:
                valid.append(self._row_validator.validate_python(row))
            except ValidationError as error:
                report.add_row_error(index, row, error)
        report.raise_if_any()
        return self._rows_of_objects(valid, is_single=is_single)

    def parse_form(self, fields: Sequence[tuple[str, str]]) -> Rows:
        """Return the row of a form, given as (name, text) pairs.

        Numbers are written in ASCII digits. An empty text is null (`parse_text_value`).
        """
        named = [(self.feature_of_field(field), text) for field, text in fields]
        repeated = [name[:100] for name, count in Counter(name for name, _ in named).items() if count > 1]
        problems = [Problem(0, name, f'"{name}" was sent more than once; send it once') for name in repeated]
        return self._validate_each([self._convert_record(dict(named))], is_single=True, problems=problems)

    def feature_of_field(self, field: str) -> str:
        """Return the feature that a form field stands for: browsers change some characters of field names.

        An unknown name is returned unchanged.
        """
        return field if field in self._features else self._feature_names.get(field, field)

    def parse_csv(self, body: bytes) -> Rows:
        """Return the rows of a CSV body in UTF-8 with a header. A field is read as in `parse_form`."""
        header, records = read_csv_rows(body, self.max_rows, self._max_commas)
        if not records:  # Otherwise the validation of each row reports the missing values.
            self.check_columns(header)
        return self.parse_records(records)

    def parse_npy(self, body: bytes) -> Rows:
        """Return the rows of an array of shape (rows, features) in NumPy's format, features in schema order."""
        array = read_npy(body)
        if len(array) > self.max_rows:
            raise TooManyRows(self.max_rows)
        self.check_width(array.shape[1])
        return self.parse_table(array.tolist())

    def parse_records(self, records: Sequence[Mapping[str, str] | Problem]) -> Rows:
        """Return rows from records of text by column, as in CSV. A `Problem` replaces an unreadable record."""
        return self._validate_each([self._convert_record(record) for record in records], is_single=False)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `InvalidInput` naming each feature that has no column."""
        missing = [name[:100] for name in self.schema.names if name not in columns]
        if missing:
            raise InvalidInput([Problem(None, name, f'there is no column "{name}"; add it') for name in missing])

    def check_width(self, columns: int) -> None:
        """Raise `InvalidInput` unless an array has one column for each feature."""
        if columns != (width := len(self.schema.features)):
            message = f"the array has {columns} columns; send {width}, one for each feature in schema order"
            raise InvalidInput([Problem(None, None, message)])

    def _convert_record(self, record: Mapping[str, str] | Problem) -> dict[str, Value] | Problem:
        if isinstance(record, Problem):
            return record
        return {name: self._convert_text(name, text) for name, text in record.items()}

    def _convert_text(self, name: str, text: str) -> Value:
        feature = self._features.get(name)
        return text if feature is None else parse_text_value(feature, text)

    def _rows_of_objects(self, rows: Sequence[Mapping[str, Value]], *, is_single: bool = False) -> Rows:
        # A validated row has its values in schema order, whatever the order in the body.
        values = [tuple(row.values()) for row in rows]
        return Rows(values, self.table_builder, is_single=is_single)

    def parse_table(self, rows: object) -> Rows:
        """Return rows from Python: a mapping, a list of mappings or of lists, a 2-D array, or a DataFrame.

        `max_rows` does not apply.
        """
        if isinstance(rows, Mapping):
            return self._validate_each([_json_row(rows)], is_single=True)
        if hasattr(rows, "to_dict"):
            rows = rows.to_dict("records")
        json_rows = [_json_row(row) for row in rows]  # type: ignore[attr-defined]
        return self._validate_each(json_rows, is_single=False, allow_lists=True)


def _shape_of(body: bytes) -> Shape:
    """Return the form of a body by its beginning."""
    if start := _INSTANCES_START.match(body):
        return "instances of lists" if start[1] else "instances of objects"
    return "objects" if body.lstrip(b" \t\n\r")[:1] == b"[" else "object"


def _may_be_instances(body: bytes) -> bool:
    """Return whether the first key of an object is "instances", however it is written."""
    key = _FIRST_KEY.match(body)
    return key is not None and json.loads(key[1]) == "instances"


def _without_long_margins(body: bytes) -> bytes:
    """Return a long body without white space around it, which JSON libraries skip slowly."""
    if len(body) < MAX_MARGIN_BYTES:
        return body
    content = body.strip(b" \t\n\r")
    return content if len(body) - len(content) >= MAX_MARGIN_BYTES else body


def _slices(body: bytes, shape: Shape) -> list[bytes] | None:
    """Return the arrays into which a long body is cut; None if it is read as a whole."""
    if shape == "object" or len(body) < MIN_SLICED_BYTES:
        return None
    return slice_instances(body) if shape.startswith("instances") else slice_array(body)


def _rows_of_document(document: object) -> tuple[Sequence[Any], bool]:
    """Return the rows of a JSON document, and whether it is a single row."""
    if isinstance(document, dict) and document.keys() == {"instances"} and isinstance(document["instances"], list):
        return document["instances"], False
    return (document, False) if isinstance(document, list) else ([document], True)


def _json_row(row: Any) -> Any:
    """Return a row from Python with its values as `json.loads` would return them."""
    if isinstance(row, Mapping):
        return {str(name): json_value(value) for name, value in row.items()}
    if isinstance(row, (Sequence, np.ndarray)) and not isinstance(row, str):
        return [json_value(value) for value in row]
    return row
