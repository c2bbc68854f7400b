"""Features and schemas: validation, messages, examples and bounds."""

import math

import pytest
from pydantic import ValidationError

from flaskml.codecs.parser import Parser
from flaskml.errors import InvalidInput
from flaskml.schema.features import MAX_FLOAT, Feature, Schema


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": ()},
        {"features": (Feature(name="a", kind="float"), Feature(name="a", kind="text"))},
    ],
)
def test_an_invalid_schema_is_rejected(wrong):
    with pytest.raises(ValidationError):
        Schema(layout="frame", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "category"},
        {"kind": "float", "categories": ("a",)},
        {"kind": "category", "categories": ("a", 1)},
        {"kind": "float", "minimum": "2024-01-31"},
        {"kind": "datetime", "maximum": 1},
        {"kind": "complex"},
        {"kind": "float", "colour": "red"},
        {"kind": "float", "minimum": 2, "maximum": 1},
        {"kind": "float", "minimum": math.nan},
        {"kind": "float", "maximum": math.inf},
        {"kind": "float", "maximum": 10**400},
        {"kind": "text", "minimum": 1},
        {"kind": "boolean", "maximum": 1},
        {"kind": "datetime", "minimum": "abc"},
        {"kind": "datetime", "minimum": "2024-01-31T00:00:00Z"},
        {"kind": "datetime", "dtype": "datetime64[us, UTC]", "minimum": "2024-01-31T00:00:00"},
        {"kind": "datetime", "minimum": "2024-01-31", "maximum": "2024-01-30"},
        {"kind": "category", "categories": ("a", "b", "a")},
        {"kind": "category", "categories": ("a", "b"), "counts": (1,)},
        {"kind": "text", "unknown": "accept"},
        {"kind": "float", "ordered": True},
    ],
)
def test_an_invalid_feature_is_rejected(wrong):
    with pytest.raises(ValidationError):
        Feature(name="a", **wrong)


def test_a_message_lists_at_most_ten_categories():
    feature = Feature(name="a", kind="category", categories=tuple(f"c{i}" for i in range(30)))
    text = feature.expectation
    assert text.endswith("… (30 in all)") and '"c9"' in text and '"c10"' not in text


@pytest.mark.parametrize(
    ("feature", "expectation"),
    [
        ({"kind": "float", "nullable": True}, "a finite number or null"),
        ({"kind": "category", "categories": (3, 5)}, "one of 3, 5"),
        ({"kind": "datetime"}, "2024-01-31T12:00:00, without an offset"),
        ({"kind": "datetime", "dtype": "datetime64[us, UTC]"}, "2024-01-31T12:00:00+01:00, with an offset"),
    ],
)
def test_the_expectation_describes_valid_values(feature, expectation):
    assert Feature(name="a", **feature).expectation.endswith(expectation)


@pytest.mark.parametrize(
    ("feature", "example"),
    [
        ({"kind": "float", "minimum": 1.0, "maximum": 2.0}, 1.5),
        ({"kind": "float", "minimum": -1.7e308, "maximum": 1.7e308}, 0.0),
        ({"kind": "float"}, 0.0),
        ({"kind": "integer", "minimum": 1, "maximum": 8}, 4),
        ({"kind": "integer", "minimum": 2**60 + 1, "maximum": 2**60 + 3}, 2**60 + 2),
        ({"kind": "boolean"}, False),
        ({"kind": "text"}, "text"),
        ({"kind": "category", "categories": (3, 5)}, 3),
        (
            {"kind": "datetime", "minimum": "2020-05-06T07:08:09", "maximum": "2021-01-01T00:00:00"},
            "2020-09-03T00:00:00",
        ),
        ({"kind": "datetime", "dtype": "datetime64[ns, UTC]"}, "2024-01-31T00:00:00+00:00"),
        (
            {"kind": "datetime", "minimum": "2020-05-06T07:00:00", "maximum": "2020-05-06T09:00:00"},
            "2020-05-06T08:00:00",
        ),
        ({"kind": "float", "minimum": 1.0001, "maximum": 1.0002}, 1.0001),
        ({"kind": "float", "minimum": 5.0}, 5.0),
        ({"kind": "integer", "maximum": -3}, -3),
    ],
)
def test_the_example_is_made_up_and_accepted(feature, example):
    schema = Schema(features=(Feature(name="a", **feature),), layout="frame", out_of_range="refuse")
    assert schema.example == {"a": example}
    assert Parser(schema, max_rows=1).parse_table(schema.example).is_single


@pytest.mark.parametrize(
    ("feature", "options", "bounds"),
    [
        ({"kind": "float"}, {}, (-MAX_FLOAT, MAX_FLOAT)),
        ({"kind": "float"}, {"magnitude": 1e15}, (-1e15, 1e15)),
        ({"kind": "float", "dtype": "float32"}, {"magnitude": 1e300}, (-3.4028234663852886e38, 3.4028234663852886e38)),
        ({"kind": "float", "minimum": 1.0}, {"magnitude": 1e15, "out_of_range": "refuse"}, (1.0, 1e15)),
        ({"kind": "float", "minimum": 1.0, "maximum": 2.0}, {"out_of_range": "warn"}, (-MAX_FLOAT, MAX_FLOAT)),
        ({"kind": "integer"}, {"magnitude": 1e15}, (-(2**63), 2**63 - 1)),
        ({"kind": "integer", "dtype": "uint8"}, {}, (0, 255)),
        ({"kind": "integer", "minimum": 1, "maximum": 8}, {"out_of_range": "refuse"}, (1, 8)),
    ],
)
def test_bounds_follow_dtype_magnitude_and_range(feature, options, bounds):
    schema = Schema(features=(Feature(name="a", **feature),), layout="frame", **options)
    assert schema.bounds(schema.features[0]) == bounds


def test_a_number_beyond_the_magnitude_is_rejected_with_its_bounds():
    schema = Schema(features=(Feature(name="a", kind="float"),), layout="frame", magnitude=1e15)
    parser = Parser(schema, max_rows=1)
    assert parser.parse_table({"a": -1e15}).is_single
    for number in (1.1e15, -1e300):
        with pytest.raises(InvalidInput, match=r'"a" must be a number from -1000000000000000\.0 to 1000'):
            parser.parse_table({"a": number})


def test_a_schema_without_a_magnitude_accepts_every_number():
    stored = Schema(features=(Feature(name="a", kind="float"),), layout="frame").model_dump()
    del stored["magnitude"]
    assert Schema.model_validate(stored).magnitude == MAX_FLOAT
