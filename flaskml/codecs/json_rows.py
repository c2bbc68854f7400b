"""Readers of rows in JSON texts: the protocol, and the reader with pydantic, which takes every schema.

A reader reads valid rows only. It returns None for others, and the caller looks for their problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from flaskml.codecs.validators import row_core_schema, value_core_schema
from flaskml.schema.features import Schema, Value

Shape: TypeAlias = Literal["object", "objects", "lists", "instances of objects", "instances of lists"]
"""The form of a text: an object of features, an array of them, an array of lists with values in schema order, or
`{"instances": [...]}` with such an array."""

ReadRows: TypeAlias = list[tuple[Value, ...]] | None
"""Rows with values in schema order, null as None; None if they are not valid."""

MAX_EXCESS_NAMES = 16_384
"""Names in a part of a body above the number of features. Texts that contain JSON have some. pydantic takes half a
microsecond to report an unknown one."""


class NotJson(Exception):
    """A text is not JSON."""


class RowReader(Protocol):
    """A reader of the rows of one schema."""

    def read(self, text: bytes, shape: Shape) -> ReadRows:
        """Return the rows of a JSON text. Duplicate keys: the last one wins.

        Raises `NotJson` instead of returning None if the schema ignores unknown values and the text is not JSON.
        """
        ...


class ValidatedRows:
    """The reader with strict pydantic-core validators."""

    def __init__(self, schema: Schema, max_rows: int) -> None:
        self._width = len(schema.features)
        self._max_rows = max_rows
        self._ignores_names = schema.extra == "ignore"
        # pydantic copies the row into the error for each missing value, and a row may be large. So the validators
        # require no value, and the number of values is compared instead.
        row = row_core_schema(schema, is_required=False)
        values = core_schema.tuple_schema(
            [value_core_schema(schema, feature) for feature in schema.features], fail_fast=True
        )
        objects, lists = self._list_schema(row), self._list_schema(values)
        self._validators: Mapping[str, SchemaValidator] = {
            "object": SchemaValidator(row),
            "objects": SchemaValidator(objects),
            "lists": SchemaValidator(lists),
            "instances of objects": SchemaValidator(_instances_schema(objects)),
            "instances of lists": SchemaValidator(_instances_schema(lists)),
        }

    def _list_schema(self, item: CoreSchema) -> CoreSchema:
        # `fail_fast`: a list of errors for every row would be many times the size of the body.
        return core_schema.list_schema(item, max_length=self._max_rows, fail_fast=True)

    def read(self, text: bytes, shape: Shape) -> ReadRows:
        """Return the rows of a JSON text."""
        try:
            rows: Any = self._validators[shape].validate_json(text)
        except ValidationError as error:  # Its errors may be far larger than the body. They are freed on return.
            if self._ignores_names and error.errors(include_input=False)[0]["type"] == "json_invalid":
                raise NotJson from None
            return None
        if shape.startswith("instances"):
            rows = rows["instances"]
        if shape.endswith("lists"):
            return list(rows)
        if shape == "object":
            rows = [rows]
        if min(map(len, rows), default=self._width) < self._width:
            return None
        # A validated row has its values in schema order, whatever the order in the body.
        return [tuple(row.values()) for row in rows]


def _instances_schema(rows: CoreSchema) -> CoreSchema:
    return core_schema.typed_dict_schema({"instances": core_schema.typed_dict_field(rows)}, extra_behavior="forbid")
