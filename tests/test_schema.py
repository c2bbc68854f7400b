"""Learning a schema and making tables of it."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from flaskml.schema import Feature, Schema, conform, learn
from tests.conftest import mixed_table


@pytest.fixture
def frame():
    return mixed_table().drop(columns=["empty", "sold"])


def test_kinds(frame):
    features = {feature.name: feature for feature in learn(frame).features}
    kinds = {name: (feature.kind, feature.nullable) for name, feature in features.items()}
    assert kinds == {
        "age": ("float", True),
        "rooms": ("integer", False),
        "home city": ("category", True),
        "member": ("boolean", False),
        "note": ("text", True),
    }
    assert features["home city"].categories == ("Oslo", "Rome", "São Paulo")
    assert features["rooms"].minimum == 1 and features["rooms"].maximum == 8


def test_integers_beyond_64_bits_are_floats():
    table = pd.DataFrame({"a": np.array([2**63, 2**63 + 5, 7], dtype=np.uint64), "b": ["x", "y", "z"]})
    schema = learn(table)
    assert schema.features[0].kind == "float" and conform(table, schema)["a"].tolist() == [2.0**63, 2.0**63, 7.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": ()},
        {"features": (Feature(name="a", kind="float"), Feature(name="a", kind="text"))},
    ],
)
def test_schemas_that_are_none(wrong):
    with pytest.raises(ValidationError):
        Schema(layout="frame", **wrong)
    with pytest.raises(ValidationError):
        Feature(name="a", kind="category")


def test_numbers_alone_are_an_array():
    assert learn(pd.DataFrame({"a": [1, 2], "b": [0.5, None]})).layout == "array"
    assert learn(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})).layout == "frame"


def test_training_and_requests_meet_the_same_table(frame):
    schema = learn(frame)
    trained = conform(frame, schema)
    rows = [tuple(None if value != value else value for value in row) for row in trained.itertuples(index=False)]
    served = schema.table(rows)
    pd.testing.assert_frame_equal(served, trained)
    for start in (0, 7, 11):
        one = schema.table(rows[start : start + 1])
        pd.testing.assert_frame_equal(one, trained.iloc[start : start + 1].reset_index(drop=True))


def test_missing_numbers_become_nan():
    schema = Schema(features=(Feature(name="a", kind="float", nullable=True),), layout="array")
    table = schema.table([(None,), (1.5,)])
    assert table.dtype == np.float64 and np.isnan(table[0, 0]) and table[1, 0] == 1.5


@pytest.mark.parametrize("layout", ["array", "frame"])
def test_no_rows(layout):
    schema = Schema(features=(Feature(name="a", kind="float"), Feature(name="b", kind="integer")), layout=layout)
    assert schema.table([]).shape == (0, 2)


def test_the_example_is_made_up_and_accepted(frame):
    from flaskml.parsing import Parser

    schema = learn(frame)
    row = Parser(schema, max_rows=1).parse_table(schema.example)
    assert row.single and schema.example["note"] == "text"


def test_long_sets_are_listed_in_part():
    feature = Feature(name="a", kind="category", categories=tuple(f"c{i}" for i in range(30)))
    assert feature.wanted.endswith("… (30 in all)") and '"c9"' in feature.wanted and '"c10"' not in feature.wanted
