"""The table of a request equals the table of the sample."""

import json

import numpy as np
import pandas as pd
import pytest

from flaskml.codecs.parser import Parser
from flaskml.schema.features import Feature, Schema
from flaskml.schema.from_sample import schema_from_frame, with_array_layout
from flaskml.schema.tables import SchemaTableBuilder, json_rows


@pytest.fixture
def frame():
    """A column of every dtype that a sample may have, with missing values wherever the dtype can mark them."""
    texts = ["2024-07-01T10:00:00", "2024-01-02T00:00:00", "2025-01-01T01:02:03.5"] * 4
    texts_with_gaps = ["2024-01-01T10:00:00.123456", None, "2025-01-01T00:00:00"] * 4
    columns = {
        "float64": np.arange(12) + 0.5,
        "float32": np.arange(12, dtype=np.float32) / 3,
        "int8": np.arange(12, dtype=np.int8),
        "beyond exact floats": np.arange(12) + 2**60 + 1,
        "uint64": np.arange(12, dtype=np.uint64) + 2**63,
        "bool": np.arange(12) % 2 == 0,
        "bool objects": pd.Series([True, None, False] * 4, dtype=object),
        "Int64": pd.array([1, None, 3] * 4, dtype="Int64"),
        "boolean": pd.array([True, None, False] * 4, dtype="boolean"),
        "Float32": pd.array([1.5, None, 3] * 4, dtype="Float32"),
        "string": pd.array(["a", None, "b"] * 4, dtype="string"),
        "inferred string": pd.Series(["a", "c", "b"] * 4),
        "None": pd.Series(["x", None, "y"] * 4, dtype=object),
        "NaN": pd.Series(["x", np.nan, "y"] * 4, dtype=object),
        "NA": pd.Series(["x", pd.NA, "y"] * 4, dtype=object),
        "ordered": pd.Categorical(["hi", "lo", None] * 4, categories=["lo", "mid", "hi"], ordered=True),
        "whole": pd.Categorical([3, 1, 2] * 4),
        "naive": pd.to_datetime(pd.Series(texts_with_gaps), format="ISO8601"),
        "ns": np.array(["2024-01-01T10:00:00.123456789"] * 12, dtype="datetime64[ns]"),
        "s": np.array(["2024-01-01T10:00:00"] * 12, dtype="datetime64[s]"),
        "Oslo": pd.to_datetime(pd.Series(texts), format="ISO8601").dt.tz_localize("Europe/Oslo"),
        "UTC": pd.to_datetime(pd.Series(texts_with_gaps), format="ISO8601", utc=True),
        "one value": 7.0,
        'é "quoted", ü': np.arange(12) * 1.0,
    }
    return pd.DataFrame(columns)


def parsed(schema, rows, form):
    objects = [dict(zip(schema.names, row, strict=True)) for row in rows]
    document = {"objects": objects, "instances": {"instances": objects}, "lists": {"instances": rows}}[form]
    return Parser(schema, max_rows=100).parse_json(json.dumps(document).encode()).table


@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize("form", ["objects", "instances", "lists"])
def test_a_frame_survives_the_round_trip(frame, form, count):
    schema = schema_from_frame(frame)
    rows = json_rows(schema, frame.iloc[:count])
    pd.testing.assert_frame_equal(parsed(schema, rows, form), frame.iloc[:count])


def test_a_frame_from_python_survives_the_round_trip(frame):
    pd.testing.assert_frame_equal(Parser(schema_from_frame(frame), max_rows=1).parse_table(frame).table, frame)


def test_a_schema_survives_serialisation(frame):
    schema = schema_from_frame(frame)
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, np.nan], [2.5, 3.0]]),
        np.array([[1.5, 2.0], [2.5, 3.0]], dtype=np.float32),
        np.array([[1, 2**62 + 1], [3, 4]]),
        np.array([[True, False], [False, True]]),
        np.array([["a", "ü" * 9], ["b", "c"]]),
        np.array([["a", 1, None, True], ["b", 2, 2.5, None]], dtype=object),
        np.array([[np.nan, 1, 1], ["b", 2, 1]], dtype=object),
    ],
    ids=lambda array: str(array.dtype),
)
@pytest.mark.parametrize("form", ["objects", "lists"])
def test_an_array_survives_the_round_trip(array, form):
    dtype = "U" if array.dtype.kind == "U" else array.dtype.name
    schema = with_array_layout(schema_from_frame(pd.DataFrame(array)), dtype)
    for part in (array, array[:1]):
        table = parsed(schema, json_rows(schema, part), form)
        assert table.dtype.kind == array.dtype.kind and table.shape == part.shape
        assert array.dtype.kind == "U" or table.dtype == array.dtype
        assert [[repr(value) for value in row] for row in table] == [[repr(value) for value in row] for row in part]


@pytest.mark.parametrize("layout", ["array", "frame"])
def test_an_empty_table_has_all_columns(layout):
    schema = Schema(features=(Feature(name="a", kind="float"), Feature(name="b", kind="integer")), layout=layout)
    assert SchemaTableBuilder(schema).build([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("datetime64[us]", "2024-01-31", "2024-01-31T00:00:00"),
        ("datetime64[us]", "2024-01-31 10:20", "2024-01-31T10:20:00"),
        ("datetime64[s]", "2024-01-31T10:20:30.9", "2024-01-31T10:20:30"),
        ("datetime64[us]", "2024-01-31T10:20:30.123456789", "2024-01-31T10:20:30.123456"),
        ("datetime64[us]", "9999-12-31T23:59:59", "9999-12-31T23:59:59"),
        ("datetime64[us, UTC]", "2024-01-31T10:20:00+05:30", "2024-01-31T04:50:00+00:00"),
        ("datetime64[us, UTC]", "2024-01-31T10:20:00-01:00", "2024-01-31T11:20:00+00:00"),
        ("datetime64[ns, Europe/Oslo]", "2024-07-01T10:00:00Z", "2024-07-01T12:00:00+02:00"),
    ],
)
def test_datetimes_are_parsed_in_the_unit_and_zone_of_the_dtype(dtype, text, expected):
    schema = Schema(features=(Feature(name="a", kind="datetime", dtype=dtype),), layout="frame")
    table = Parser(schema, max_rows=1).parse_json(json.dumps({"a": text}).encode()).table
    assert str(table["a"].dtype) == dtype and table["a"][0].isoformat() == expected
