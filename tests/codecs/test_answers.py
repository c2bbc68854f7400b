"""Answers as JSON values and as CSV."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest

from flaskml.codecs.answers import class_name, encode_csv, encode_json, json_answers

PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("a", "a"),
        (np.str_("a"), "a"),
        (True, "true"),
        (np.False_, "false"),
        (np.int64(3), "3"),
        (1.5, "1.5"),
        (np.datetime64("2024-01-31", "D"), "2024-01-31"),
    ],
)
def test_class_names_are_json_keys(label, name):
    assert class_name(label) == name


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (np.array([1, 2], dtype=np.int8), [1, 2]),
        (np.array([2**60 + 1]), [2**60 + 1]),
        (np.array([True, False]), [True, False]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([np.str_("a"), np.int64(3), np.float32(0.5), None], dtype=object), ["a", 3, 0.5, None]),
        (np.array([np.nan, -np.inf, 0.5]), [None, None, 0.5]),
        (np.array([[1.0, np.nan]]), [[1.0, None]]),
        (np.array(["2024-01-31", "NaT"], dtype="datetime64[D]"), ["2024-01-31", None]),
        (np.array([pd.NA, pd.NaT, pd.Timestamp("2024-01-31")], dtype=object), [None, None, "2024-01-31T00:00:00"]),
        (np.array([[1, pd.NA]], dtype=object), [[1, None]]),
        (np.array([np.array([1, 2]), np.array([]), np.array(["a"]), None], dtype=object), [[1, 2], [], ["a"], None]),
    ],
)
def test_every_dtype_has_json_values(answer, expected):
    values = json.loads(encode_json(json_answers(answer, "predict")), parse_constant=pytest.fail)
    assert values == expected and list(map(type, values)) == list(map(type, expected))


def test_probabilities_are_objects_by_class():
    rows = json_answers(PROBABILITIES, "predict_proba", [("a", "b", "c")])
    assert rows == [{"a": 0.1, "b": 0.7, "c": 0.2}, {"a": 0.3, "b": 0.3, "c": 0.4}]


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "transform"])
@pytest.mark.parametrize("classes", [(), [("a", "b")], [("a", "b"), ("c",)]])
def test_zero_rows_have_no_answers(method, classes):
    assert json_answers(np.empty(0), method, classes) == json_answers(np.empty(0), method, classes, top=1) == []


def test_columns_without_class_names_are_numbered():
    assert json_answers(PROBABILITIES, "predict_proba", [("a", "b")])[0] == {"0": 0.1, "1": 0.7, "2": 0.2}


def test_each_output_has_its_own_classes():
    rows = json_answers([PROBABILITIES, PROBABILITIES[:, :2]], "predict_proba", [("a", "b", "c"), ("ja", "nein")])
    assert rows[0] == [{"a": 0.1, "b": 0.7, "c": 0.2}, {"ja": 0.1, "nein": 0.7}]


def test_top_classes_are_sorted_by_probability_then_class_order():
    rows = json_answers(PROBABILITIES, "predict_proba", [("a", "b", "c")], top=2)
    assert [list(row) for row in rows] == [["b", "c"], ["c", "a"]]
    assert list(json_answers(PROBABILITIES, "predict_log_proba", [("a", "b", "c")], top=9)[0]) == ["b", "c", "a"]


def read_csv(content):
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


@pytest.mark.parametrize(
    ("rows", "table"),
    [
        ([0.5, None, True], [["prediction"], ["0.5"], [""], ["true"]]),
        (["a,b", 'c"d\ne'], [["prediction"], ["a,b"], ['c"d\ne']]),
        ([[1, 2], [3, 4]], [["prediction:0", "prediction:1"], ["1", "2"], ["3", "4"]]),
        ([{"a": 0.5}, {"b": 1.0}], [["prediction:a", "prediction:b"], ["0.5", ""], ["", "1.0"]]),
        ([[{"a": 0.5}, {"a": float("nan")}]], [["prediction:0:a", "prediction:1:a"], ["0.5", ""]]),
        ([], [["prediction"]]),
    ],
)
def test_answers_are_encoded_as_csv(rows, table):
    assert read_csv(encode_csv(rows)) == table


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_formulas_are_escaped_in_csv(text):
    assert read_csv(encode_csv([text])) == [["prediction"], [f"'{text}"]]
    assert read_csv(encode_csv([-1, -0.5])) == [["prediction"], ["-1"], ["-0.5"]]
