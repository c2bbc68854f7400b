"""Strict pydantic-core validators of values and rows, compiled from a schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic_core import CoreSchema, core_schema

from flaskml.schema.features import MAX_EXACT_INTEGER, MAX_FLOAT, Feature, Schema
from flaskml.schema.tables import datetime_validator

MAX_TEXT_CHARACTERS = 100_000
"""Characters in one text value: bounds the work of a vectorizer on one request."""

MAX_DATETIME_CHARACTERS = 40
"""Characters of the longest datetime; ISO 8601 with all digits and an offset has 35."""


def value_core_schema(schema: Schema, feature: Feature) -> CoreSchema:
    """Return the pydantic-core schema of one value of a feature."""
    field = _SCHEMA_OF_KIND[feature.kind](schema, feature)
    return core_schema.nullable_schema(field) if feature.nullable else field


def number_bounds(schema: Schema, feature: Feature) -> tuple[Any, Any]:
    """Return the smallest and the largest number of a feature: integers for whole numbers, else floats."""
    low, high = schema.bounds(feature)
    return (math.ceil(low), math.floor(high)) if feature.is_whole else (float(low), float(high))


def _float_schema(schema: Schema, feature: Feature) -> CoreSchema:
    low, high = number_bounds(schema, feature)
    if -low == high == MAX_FLOAT:
        return core_schema.float_schema(strict=True, allow_inf_nan=False)
    return core_schema.float_schema(strict=True, allow_inf_nan=False, ge=low, le=high)


def _integer_schema(schema: Schema, feature: Feature) -> CoreSchema:
    low, high = number_bounds(schema, feature)
    # A client without an integer type sends 3.0. Above 2**53 a float has lost its last digits, so it may not be the
    # integer that the client meant.
    number = core_schema.float_schema(strict=True, ge=max(low, -MAX_EXACT_INTEGER), le=min(high, MAX_EXACT_INTEGER))
    integral_float = core_schema.no_info_after_validator_function(_as_integer, number)
    return core_schema.union_schema([core_schema.int_schema(strict=True, ge=low, le=high), integral_float])


def _as_integer(number: float) -> int:
    # pydantic's `multiple_of` takes 1,000,000,000.5 for a multiple of 1, up to version 2.10 at least.
    if not number.is_integer():
        raise ValueError
    return int(number)


def _text_schema(_: Schema, __: Feature) -> CoreSchema:
    return core_schema.str_schema(strict=True, max_length=MAX_TEXT_CHARACTERS)


def _category_schema(schema: Schema, feature: Feature) -> CoreSchema:
    categories = list(feature.categories or ())
    any_category = _integer_schema(schema, feature) if feature.is_whole else _text_schema(schema, feature)
    if feature.unknown == "accept":
        return any_category
    known_category = core_schema.literal_schema(categories)
    if feature.is_whole:  # `literal_schema` alone accepts true as 1.
        return core_schema.chain_schema([any_category, known_category])
    return known_category


def _datetime_schema(schema: Schema, feature: Feature) -> CoreSchema:
    check = datetime_validator(feature, enforce_range=schema.out_of_range == "refuse")
    return core_schema.no_info_after_validator_function(
        check, core_schema.str_schema(strict=True, max_length=MAX_DATETIME_CHARACTERS)
    )


_SCHEMA_OF_KIND: Mapping[str, Callable[[Schema, Feature], CoreSchema]] = {
    "float": _float_schema,
    "integer": _integer_schema,
    "boolean": lambda _, __: core_schema.bool_schema(strict=True),
    "text": _text_schema,
    "category": _category_schema,
    "datetime": _datetime_schema,
}


def row_core_schema(schema: Schema, *, is_required: bool) -> CoreSchema:
    """Return the pydantic-core schema of a row as an object; without `is_required`, any value may be missing."""
    fields = {
        feature.name: core_schema.typed_dict_field(value_core_schema(schema, feature), required=is_required)
        for feature in schema.features
    }
    return core_schema.typed_dict_schema(fields, extra_behavior=_EXTRA_BEHAVIOR[schema.extra], strict=True)


_EXTRA_BEHAVIOR: Mapping[str, Literal["forbid", "ignore"]] = {"refuse": "forbid", "ignore": "ignore"}
