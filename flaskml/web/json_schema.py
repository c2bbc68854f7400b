"""A schema as JSON Schema (draft 2020-12): what a row may be, for the tools that read OpenAPI; and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaskml.codecs.parser import MAX_TEXT_CHARACTERS
from flaskml.schema.features import Feature, Schema
from flaskml.schema.iso8601 import DATETIME_PATTERN, UTC_OFFSET_PATTERN

MAX_DESCRIBED_COLUMNS = 1_000
"""Columns of the widest row that is written out; a document with more would be larger than tools can show."""

MAX_EXAMPLE_CATEGORIES = 20
"""Categories that are named where others are taken too."""

_FOUND = {
    "type": "object",
    "properties": {
        "row": {"type": ["integer", "null"]},
        "feature": {"type": ["string", "null"]},
        "detail": {"type": "string"},
    },
    "required": ["row", "feature", "detail"],
}

WARNINGS_SCHEMA = {"type": "array", "items": _FOUND, "description": "Values beyond those of training."}

PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {"type": "array", "items": _FOUND},
    },
    "required": ["title", "status", "detail"],
}


def row_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema of one row as an object."""
    shown = schema.features[:MAX_DESCRIBED_COLUMNS]
    whole = len(shown) == len(schema.features)
    return {
        "type": "object",
        "properties": {feature.name: feature_schema(schema, feature) for feature in shown},
        "required": [feature.name for feature in shown],
        "additionalProperties": schema.extra == "ignore" or not whole,
        "examples": [schema.example] if whole else [],
    }


def row_list_schema(schema: Schema) -> dict[str, Any]:
    """The same of one row as a list, in the order of the columns."""
    items = [feature_schema(schema, feature) for feature in schema.features[:MAX_DESCRIBED_COLUMNS]]
    length = len(schema.features)
    rest: Any = False if length == len(items) else {}
    return {"type": "array", "prefixItems": items, "items": rest, "minItems": length, "maxItems": length}


def feature_schema(schema: Schema, feature: Feature) -> dict[str, Any]:
    """The JSON schema of one value."""
    kind: dict[str, Any] = _KINDS[feature.kind](schema, feature)
    if feature.nullable:
        kind = {"anyOf": [kind, {"type": "null"}]}
    if feature.minimum is not None and feature.maximum is not None:
        kind["description"] = f"{feature.ranged} in training"
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


def _moment(_: Schema, feature: Feature) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{DATETIME_PATTERN}{UTC_OFFSET_PATTERN if feature.is_aware else ''}$"}


_KINDS: Mapping[str, Callable[[Schema, Feature], dict[str, Any]]] = {
    "float": _number,
    "integer": _number,
    "boolean": lambda _, __: {"type": "boolean"},
    "category": _category,
    "text": _text,
    "datetime": _moment,
}
