"""What an input holds that training did not."""

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


def doubts(features, rows, layout="frame", **policies):
    schema = Schema(features=features, layout=layout, **policies)
    parsed = Parser(schema, max_rows=1_000).parse_table(rows)
    return [(found.row, found.feature, found.detail) for found in RangeWarnings(schema).find(parsed)]


@pytest.mark.parametrize("layout", ["array", "frame"])
def test_numbers_beyond_the_range(layout):
    rows = [[18, 1], [80.5, 9], [None, 10], [17.9, 0]]
    age, rooms = '"age" lies outside the range of training, 18.0 to 80.0', '"rooms" lies outside the range of training'
    found = doubts((AGE, ROOMS), rows, layout)
    assert found == [
        (1, "age", age),
        (2, "rooms", f"{rooms}, 1 to 9"),
        (3, "age", age),
        (3, "rooms", f"{rooms}, 1 to 9"),
    ]


def test_categories_that_are_new():
    assert doubts((CITY,), [["Rome"], ["Bern"]]) == [(1, "city", '"city" is none of the categories of training')]


@pytest.mark.parametrize(
    ("feature", "inside", "outside"),
    [
        (SOLD, "2020-06-01", "2021-01-01T00:00:01"),
        (SEEN, "2021-01-01T01:00:00+01:00", "2021-01-01T00:00:00-01:00"),
    ],
)
def test_moments_beyond_the_range(feature, inside, outside):
    assert [(row, name) for row, name, _ in doubts((feature,), [[inside], [outside]])] == [(1, feature.name)]


@pytest.mark.parametrize("policy", ["accept", "refuse"])
def test_other_policies_have_no_doubts(policy):
    assert doubts((ROOMS,), [[5]], out_of_range=policy) == []
    if policy == "accept":
        assert doubts((ROOMS,), [[50]], out_of_range=policy) == []


def test_a_feature_without_a_range_has_none_to_lie_outside_of():
    assert doubts((Feature(name="a", kind="float"),), [[1e300]], "array") == []


def test_only_the_first_are_told():
    assert len(doubts((ROOMS,), [[50]] * 100, "array")) == MAX_PROBLEMS
