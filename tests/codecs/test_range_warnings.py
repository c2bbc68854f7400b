"""Warnings about values outside the training data."""

import pytest

from flaskml.codecs.parser import Parser
from flaskml.codecs.range_warnings import RangeWarnings
from flaskml.errors import MAX_PROBLEMS
from flaskml.schema.features import Feature, Schema

AGE = Feature(name="age", kind="float", minimum=18.0, maximum=80.0, nullable=True)
ROOMS = Feature(name="rooms", kind="integer", minimum=1, maximum=9)
CITY = Feature(name="city", kind="category", categories=("Oslo", "Rome"), unknown="accept", dtype="object")
SOLD = Feature(name="sold", kind="datetime", minimum="2020-01-01T00:00:00", maximum="2021-01-01T00:00:00")
SEEN = Feature(
    name="seen",
    kind="datetime",
    dtype="datetime64[us, UTC]",
    minimum="2020-01-01T00:00:00+00:00",
    maximum="2021-01-01T00:00:00+00:00",
)


def warnings_for(features, rows, layout="frame", **policies):
    schema = Schema(features=features, layout=layout, **policies)
    parsed = Parser(schema, max_rows=1_000).parse_table(rows)
    return [(problem.row, problem.feature, problem.detail) for problem in RangeWarnings(schema).find(parsed)]


@pytest.mark.parametrize("layout", ["array", "frame"])
def test_numbers_out_of_range_give_warnings(layout):
    rows = [[18, 1], [80.5, 9], [None, 10], [17.9, 0]]
    age = '"age" is outside the range of the training data, 18.0 to 80.0'
    rooms = '"rooms" is outside the range of the training data, 1 to 9'
    warnings = warnings_for((AGE, ROOMS), rows, layout)
    assert warnings == [(1, "age", age), (2, "rooms", rooms), (3, "age", age), (3, "rooms", rooms)]


def test_unknown_categories_give_warnings():
    warnings = warnings_for((CITY,), [["Rome"], ["Bern"]])
    assert warnings == [(1, "city", '"city" is not a category of the training data')]


@pytest.mark.parametrize(
    ("feature", "inside", "outside"),
    [
        (SOLD, "2020-06-01", "2021-01-01T00:00:01"),
        (SEEN, "2021-01-01T01:00:00+01:00", "2021-01-01T00:00:00-01:00"),
    ],
)
def test_datetimes_out_of_range_give_warnings(feature, inside, outside):
    assert [(row, name) for row, name, _ in warnings_for((feature,), [[inside], [outside]])] == [(1, feature.name)]


@pytest.mark.parametrize("policy", ["accept", "refuse"])
def test_other_policies_give_no_warnings(policy):
    assert warnings_for((ROOMS,), [[5]], out_of_range=policy) == []
    if policy == "accept":
        assert warnings_for((ROOMS,), [[50]], out_of_range=policy) == []


def test_a_feature_without_a_range_gives_no_warnings():
    assert warnings_for((Feature(name="a", kind="float"),), [[1e300]], "array") == []


def test_the_number_of_warnings_is_limited():
    assert len(warnings_for((ROOMS,), [[50]] * 100, "array")) == MAX_PROBLEMS
