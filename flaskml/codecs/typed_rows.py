"""The reader of JSON rows with msgspec, of the extra `fast`: several times as fast as pydantic for many rows.

msgspec compiles the schema into decoders, which check the type of each value while they decode a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Annotated, Any, Literal, TypeAlias

from flaskml.codecs.json_rows import ReadRows, Shape
from flaskml.codecs.validators import MAX_DATETIME_CHARACTERS, MAX_TEXT_CHARACTERS, number_bounds
from flaskml.schema.features import MAX_FLOAT, Feature, Schema
from flaskml.schema.tables import datetime_validator

MAX_STRUCT_FEATURES = 32
"""Features up to which a row that is an object is read as a struct, whatever the order of its keys. A struct with keys
out of schema order takes quadratic time in them. Wider rows are read as dictionaries, if all features have one type."""

MAX_ORDERED_FEATURES = 1_000
"""Features up to which an object whose first key is the first feature is read as a struct. If the other keys are out of
order, it takes a millisecond more."""

_Check: TypeAlias = tuple[int, Callable[[str], str]]
"""A column, and the function that raises ValueError for a text that is not a value of it."""


class TypedRows:
    """The reader with msgspec decoders; `TypedRows.of` makes one."""

    def __init__(self, schema: Schema, max_rows: int) -> None:
        """Compile the decoders. Raises ImportError without msgspec, and other errors for a schema out of its reach."""
        import msgspec

        types = [_value_type(schema, feature) for feature in schema.features]
        self._checks: list[_Check] = [
            (index, datetime_validator(feature, enforce_range=schema.out_of_range == "refuse"))
            for index, feature in enumerate(schema.features)
            if feature.kind == "datetime"
        ]
        self._max_rows = max_rows
        self._errors = (msgspec.MsgspecError, RecursionError, UnicodeError, KeyError)
        self._values_of: Callable[[Any], tuple[Any, ...]] = msgspec.structs.astuple
        self._values_of_ordered = self._values_of
        self._ordered_object: Any = None
        self._ordered_start = re.compile(_first_key_pattern(schema)).match
        forms: dict[str, Any] = {"lists": list[tuple[tuple(types)]]}  # type: ignore[misc]
        row: Any = None
        if len(types) <= MAX_STRUCT_FEATURES:
            row = _object_type(schema, types)
        elif len(set(types)) == 1 and not self._checks:
            row, self._values_of = dict[str, types[0]], _values_by_name(schema.names)  # type: ignore[valid-type]
        if MAX_STRUCT_FEATURES < len(types) <= MAX_ORDERED_FEATURES:
            self._ordered_object = msgspec.json.Decoder(_object_type(schema, types))
        if row is not None:
            forms |= {"object": row, "objects": list[row]}
        for form in ("lists", "objects"):
            if form in forms:
                fields = [("instances", forms[form])]
                forms[f"instances of {form}"] = msgspec.defstruct("Instances", fields, forbid_unknown_fields=True)
        self._decoders = {form: msgspec.json.Decoder(rows) for form, rows in forms.items()}

    @classmethod
    def of(cls, schema: Schema, max_rows: int) -> TypedRows | None:
        """Return a reader of a schema; None without msgspec, or for a schema that msgspec cannot read.

        msgspec does not check the texts that it ignores, so it reads no schema that ignores unknown names. It takes no
        names with quotes, backslashes or control characters, and no bounds beyond those of 64-bit integers.
        """
        if schema.extra == "ignore":
            return None
        try:
            return cls(schema, max_rows)
        except (ImportError, TypeError, ValueError, OverflowError):
            return None

    def read(self, text: bytes, shape: Shape) -> ReadRows:
        """Return the rows of a JSON text."""
        is_ordered = shape == "object" and self._ordered_object is not None and self._ordered_start(text)
        if shape not in self._decoders and not is_ordered:
            return None
        try:
            rows: Any = (self._ordered_object if is_ordered else self._decoders[shape]).decode(text)
            if is_ordered:
                rows = [self._values_of_ordered(rows)]
            elif shape == "object":
                rows = [self._values_of(rows)]
            else:
                if shape.startswith("instances"):
                    rows = rows.instances
                if shape.endswith("objects"):
                    rows = list(map(self._values_of, rows))
        except self._errors:
            return None
        return rows if len(rows) <= self._max_rows and (not self._checks or self._are_valid(rows)) else None

    def _are_valid(self, rows: list[tuple[Any, ...]]) -> bool:
        """Return whether the texts of datetimes are valid."""
        try:
            for index, check in self._checks:
                for row in rows:
                    if row[index] is not None:
                        check(row[index])
        except ValueError:
            return False
        return True


def _first_key_pattern(schema: Schema) -> bytes:
    """Return the pattern of the beginning of an object whose first key is the first feature."""
    return rb"[ \t\n\r]*\{[ \t\n\r]*" + re.escape(json.dumps(schema.names[0]).encode()) + rb"[ \t\n\r]*:"


def _values_by_name(names: Sequence[str]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return the function that returns the values of a row. It raises KeyError for unknown and for missing names."""
    width, values_of = len(names), itemgetter(*names)

    def values(row: dict[str, Any]) -> tuple[Any, ...]:
        if len(row) != width:
            raise KeyError
        found: tuple[Any, ...] = values_of(row)
        return found

    return values


def _object_type(schema: Schema, types: list[Any]) -> Any:
    """Return the type of a row that is an object."""
    import msgspec

    fields = [f"f{index}" for index in range(len(types))]  # The fields of a struct are identifiers.
    return msgspec.defstruct(
        "Row",
        list(zip(fields, types, strict=True)),
        rename=dict(zip(fields, schema.names, strict=True)),
        forbid_unknown_fields=True,
        gc=False,
    )


def _value_type(schema: Schema, feature: Feature) -> Any:
    """Return the type of the values of a feature, as msgspec reads annotations."""
    plain = _plain_type(schema, feature)
    return plain | None if feature.nullable else plain


def _plain_type(schema: Schema, feature: Feature) -> Any:
    import msgspec

    if feature.kind == "category" and feature.unknown != "accept":
        return Literal[feature.categories or ()]
    if feature.is_number or feature.is_whole:
        return _number_type(schema, feature)
    if feature.kind == "boolean":
        return bool
    longest = MAX_DATETIME_CHARACTERS if feature.kind == "datetime" else MAX_TEXT_CHARACTERS
    return Annotated[str, msgspec.Meta(max_length=longest)]


def _number_type(schema: Schema, feature: Feature) -> Any:
    import msgspec

    number: Any = int if feature.is_whole else float
    low, high = number_bounds(schema, feature)
    if not feature.is_whole and -low == high == MAX_FLOAT:
        return number
    return Annotated[number, msgspec.Meta(ge=low, le=high)]
