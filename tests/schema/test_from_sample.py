"""Learning a schema from a sample; casting and correcting it."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from flaskml.codecs.parser import Parser
from flaskml.errors import InvalidSchema
from flaskml.schema.corrections import apply_corrections, cast_columns
from flaskml.schema.features import Feature
from flaskml.schema.from_sample import parse_date_column, schema_from_frame, with_array_layout
from flaskml.schema.tables import json_rows
from tests.support.tables import mixed_table


@pytest.fixture
def frame():
    return mixed_table().drop(columns=["empty", "sold"])


def test_kinds_and_statistics_are_learnt(frame):
    features = {feature.name: feature for feature in schema_from_frame(frame).features}
    kinds = {name: (feature.kind, feature.nullable) for name, feature in features.items()}
    assert kinds == {
        "age": ("float", True),
        "rooms": ("integer", False),
        "home city": ("category", True),
        "member": ("boolean", False),
        "note": ("text", True),
    }
    assert features["home city"].categories == ("Oslo", "Rome", "São Paulo")
    assert sum(features["home city"].counts) == frame["home city"].notna().sum()
    assert (features["rooms"].minimum, features["rooms"].maximum) == (1, 8)
    assert features["age"].quantiles[2] == pytest.approx(frame["age"].median())


@pytest.mark.parametrize(
    ("column", "kind", "dtype", "missing"),
    [
        (np.array([1, 2], dtype=np.int8), "integer", "int8", "NaN"),
        (np.array([1.5, 2], dtype=np.float32), "float", "float32", "NaN"),
        (np.array([2**63, 2**64 - 1], dtype=np.uint64), "integer", "uint64", "NaN"),
        (pd.Series([True, None], dtype=object), "boolean", "object", "None"),
        (pd.Series([True, np.nan], dtype=object), "boolean", "object", "NaN"),
        (pd.Series([1, None], dtype=object), "integer", "object", "None"),
        (pd.Series([1, 2.5], dtype=object), "float", "object", "None"),
        (pd.array([1, None], dtype="Int64"), "integer", "Int64", "NA"),
        (pd.array([1.5, None], dtype="Float32"), "float", "Float32", "NA"),
        (pd.array([True, None], dtype="boolean"), "boolean", "boolean", "NA"),
        (pd.array(["a", None], dtype="string"), "text", "string", "NA"),
        (pd.Series(["a", pd.NA], dtype=object), "text", "object", "NA"),
        (pd.Categorical(["a", None]), "category", f"category[{pd.Index(['a']).dtype}]", "NaN"),
        (pd.Categorical([7, 3]), "category", "category[int64]", "NaN"),
        (np.array(["2024-01-31", "NaT"], dtype="datetime64[s]"), "datetime", "datetime64[s]", "NaT"),
        (pd.to_datetime(["2024-01-31"]).tz_localize("Europe/Oslo").as_unit("ns").repeat(2), "datetime",
         "datetime64[ns, Europe/Oslo]", "NaT"),
    ],
)  # fmt: skip
def test_kind_dtype_and_missing_marker_are_learnt(column, kind, dtype, missing):
    feature = schema_from_frame(pd.DataFrame({"a": column})).features[0]
    assert (feature.kind, feature.dtype, feature.missing) == (kind, dtype, missing)


def test_quantiles_of_huge_numbers_do_not_overflow():
    feature = schema_from_frame(pd.DataFrame({"a": [-1.7e308, 1.7e308] * 2})).features[0]
    assert Feature.model_validate_json(feature.model_dump_json()) == feature
    assert feature.quantiles[2] == 0 and feature.minimum <= feature.quantiles[0] < feature.quantiles[4] <= 1.7e308


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float16"])
def test_low_precision_floats_are_in_range_as_decimal_or_exact_value(dtype):
    column = pd.Series([0.1, 0.3], dtype=dtype)
    feature = schema_from_frame(pd.DataFrame({"a": column})).features[0]
    for number in (0.1, 0.3, *map(float, column)):
        assert feature.minimum <= number <= feature.maximum


def test_datetimes_with_offsets_in_seconds_survive_a_request():
    datetimes = pd.Series(pd.to_datetime(["1850-01-01", "1851-07-02"])).dt.tz_localize("Europe/Amsterdam")
    schema = schema_from_frame(pd.DataFrame({"a": datetimes}))
    rows = json_rows(schema, pd.DataFrame({"a": datetimes}))
    table = Parser(schema, max_rows=2).parse_table([*rows, schema.example]).table
    assert table["a"][:2].tolist() == datetimes.tolist() and table["a"].dtype == datetimes.dtype


@pytest.mark.parametrize(
    "values",
    [
        [Decimal(1)],
        [dt.date(2024, 1, 31)],
        [b"bytes"],
        [[1, 2]],
        ["a", 1],
        [True, "a"],
        np.array([1 + 2j]),
        np.array([5], dtype="timedelta64[s]"),
        pd.arrays.SparseArray([0.0, 1.0]),
        pd.Categorical([1.5]),
        pd.Categorical([None, None]),
        [np.inf],
    ],
    ids=repr,
)
def test_a_column_that_cannot_be_a_feature_is_rejected(values):
    with pytest.raises(InvalidSchema, match='"odd one"'):
        schema_from_frame(pd.DataFrame({"odd one": values}))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a"] * 2, "category"),
        (["a", "b"] * 2, "category"),
        (["a", "b", "c"], "text"),
        ([str(i) for i in range(50)] * 2, "category"),
        ([str(i) for i in range(51)] * 9, "text"),
        ([np.nan, "a"], "text"),
    ],
)
def test_strings_that_repeat_are_a_category(values, kind):
    assert schema_from_frame(pd.DataFrame({"a": pd.Series(values, dtype=object)})).features[0].kind == kind


def test_an_array_has_one_dtype():
    schema = with_array_layout(schema_from_frame(pd.DataFrame({"a": [1, 2], "b": [0.5, None]})), "float64")
    assert [(feature.kind, feature.dtype) for feature in schema.features] == [
        ("integer", "float64"),
        ("float", "float64"),
    ]


def test_corrections_replace_parts_of_the_schema(frame):
    schema = apply_corrections(
        schema_from_frame(frame),
        {
            "extra": "ignore",
            "features": [
                {"name": "rooms", "minimum": 0, "maximum": 20},
                {"name": "home city", "kind": "text"},
                {"name": "note", "nullable": False},
            ],
        },
    )
    features = {feature.name: feature for feature in schema.features}
    assert schema.extra == "ignore" and schema.names == schema_from_frame(frame).names
    assert (features["rooms"].minimum, features["rooms"].maximum) == (0, 20)
    assert features["home city"].kind == "text" and features["home city"].categories is None
    assert not features["note"].nullable and features["age"] == schema_from_frame(frame).features[0]
    assert apply_corrections(
        schema_from_frame(frame), schema_from_frame(frame).model_dump(mode="json")
    ) == schema_from_frame(frame)


@pytest.mark.parametrize(
    ("correction", "message"),
    [
        ({"features": [{"name": "ages"}]}, 'no feature "ages"; did you mean "age"'),
        ({"features": [{"name": "age", "kind": "text"}]}, "cannot be of kind text"),
        ({"features": [{"name": "age", "kind": "colour"}]}, 'Feature "age": kind'),
        ({"features": [{"name": "age", "colour": 1}]}, "colour"),
        ({"features": [{"name": "rooms", "nullable": True}]}, "cannot be null"),
        ({"features": [{"name": "rooms", "kind": "category"}]}, "a feature of kind category needs categories"),
        ({"features": {"age": {}}}, "must be a list"),
        ({"features": ["age"]}, "must be a list"),
        ({"colour": 1}, "colour"),
        ({"extra": "maybe"}, "extra"),
    ],
)
def test_an_invalid_correction_is_rejected(frame, correction, message):
    with pytest.raises(InvalidSchema, match=message):
        apply_corrections(schema_from_frame(frame), correction)


@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        (["2024-01-31", None], "datetime", "datetime64"),
        ([1, 2], "category", "category"),
        (["a", "b"], "category", "category"),
        ([1, 2], "text", "object"),
        ([1, 2], "float", "float64"),
        ([1.0, 2.0], "integer", "int64"),
        ([1.0, None], "integer", "float64"),
        (["true", "False"], "boolean", "bool"),
        ([1, 0], "boolean", "bool"),
    ],
)
def test_a_column_is_cast_to_the_corrected_kind(values, kind, dtype):
    table = cast_columns(pd.DataFrame({"a": values}), {"features": [{"name": "a", "kind": kind}]})
    assert str(table["a"].dtype).startswith(dtype)


@pytest.mark.parametrize(
    ("values", "kind"), [(["x"], "datetime"), (["x"], "float"), ([2], "boolean"), (["x"], "integer")]
)
def test_values_of_another_kind_are_not_cast(values, kind):
    with pytest.raises(InvalidSchema, match=f'"a" holds values that are not of kind {kind}'):
        cast_columns(pd.DataFrame({"a": values}), {"features": [{"name": "a", "kind": kind}]})


@pytest.mark.parametrize(
    ("values", "are_dates"),
    [
        (["2024-01-31", "2024-02-01T10:00"], True),
        (["2024-01-31", None], True),
        (["2024-01-31T10:00:00+01:00"], True),
        (["2024-01-31", "soon"], False),
        (["20240131"], False),
        (["2024-01-31", "2024-01-31T10:00:00+01:00"], False),
        (["1234567890"], False),
        ([None], False),
    ],
)
def test_a_column_of_dates_becomes_datetimes(values, are_dates):
    column = parse_date_column(pd.Series(values, dtype=object))
    assert str(column.dtype).startswith("datetime64") is are_dates
