"""JSON Schemas (draft 2020-12) of rows, values, errors and warnings, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaskml.codecs.validators import MAX_TEXT_CHARACTERS
from flaskml.schema.features import Feature, Schema
from flaskml.schema.iso8601 import DATETIME_PATTERN, UTC_OFFSET_PATTERN

MAX_DESCRIBED_COLUMNS = 1_000
"""Columns of a row that the document describes; with more, it would be larger than tools can show."""

MAX_EXAMPLE_CATEGORIES = 20
"""Categories in the examples of a feature that accepts unknown categories too."""

_PROBLEM_ENTRY = {
    "type": "object",
    "properties": {
        "row": {"type": ["integer", "null"]},
        "feature": {"type": ["string", "null"]},
        "detail": {"type": "string"},
    },
    "required": ["row", "feature", "detail"],
}

WARNINGS_SCHEMA = {"type": "array", "items": _PROBLEM_ENTRY, "description": "Values that training did not have."}

PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": _PROBLEM_ENTRY},
    },
    "required": ["title", "status", "detail"],
}


def row_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON schema of one row as an object."""
    described = schema.features[:MAX_DESCRIBED_COLUMNS]
    is_complete = len(described) == len(schema.features)
    return {
        "type": "object",
        "properties": {feature.name: feature_schema(schema, feature) for feature in described},
        "required": [feature.name for feature in described],
        "additionalProperties": schema.extra == "ignore" or not is_complete,
        "examples": [schema.example] if is_complete else [],
    }


def row_list_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON schema of one row as a list of values in the order of the columns."""
    items = [feature_schema(schema, feature) for feature in schema.features[:MAX_DESCRIBED_COLUMNS]]
    length = len(schema.features)
    further_items: Any = False if length == len(items) else {}
    return {"type": "array", "prefixItems": items, "items": further_items, "minItems": length, "maxItems": length}


def feature_schema(schema: Schema, feature: Feature) -> dict[str, Any]:
    """Return the JSON schema of one value."""
    kind: dict[str, Any] = _KINDS[feature.kind](schema, feature)
    if feature.nullable:
        kind = {"anyOf": [kind, {"type": "null"}]}
    if feature.minimum is not None and feature.maximum is not None:
        kind["description"] = f"{feature.range_text} in training"
    return {"examples": [feature.example], **kind}


def _number(schema: Schema, feature: Feature) -> dict[str, Any]:
    low, high = schema.bounds(feature)
    return {"type": "number" if feature.kind == "float" else "integer", "minimum": low, "maximum": high}


def _category(schema: Schema, feature: Feature) -> dict[str, Any]:
    categories = list(feature.categories or ())
    if feature.unknown == "refuse":
        return {"enum": categories}
    kind = _number(schema, feature) if feature.is_whole else _text(schema, feature)
    return {**kind, "examples": categories[:MAX_EXAMPLE_CATEGORIES]}


def _text(_: Schema, __: Feature) -> dict[str, Any]:
    return {"type": "string", "maxLength": MAX_TEXT_CHARACTERS}


def _datetime(_: Schema, feature: Feature) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{DATETIME_PATTERN}{UTC_OFFSET_PATTERN if feature.is_aware else ''}$"}


_KINDS: Mapping[str, Callable[[Schema, Feature], dict[str, Any]]] = {
    "float": _number,
    "integer": _number,
    "boolean": lambda _, __: {"type": "boolean"},
    "category": _category,
    "text": _text,
    "datetime": _datetime,
}
