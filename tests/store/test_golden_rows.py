"""Golden rows: sampling, storage as JSON, and replay."""

import json

import numpy as np
import pandas as pd
import pytest

from flaskml.schema.features import Feature, Schema
from flaskml.schema.from_sample import schema_from_frame
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store.golden_rows import MAX_GOLDEN_ROWS, GoldenRows, finite_json, record_golden_rows

SCHEMA = Schema(features=(Feature(name="x", kind="float"),), layout="array")
BUILD = SchemaTableBuilder(SCHEMA).build


def doubled(table):
    return np.asarray(table)[:, 0] * 2


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 1000])
def test_golden_rows_are_spread_evenly_over_the_table(count):
    table = np.arange(float(count)).reshape(-1, 1)
    golden = record_golden_rows(SCHEMA, table, doubled)
    values = [row[0] for row in golden.rows]
    assert len(values) == min(count, MAX_GOLDEN_ROWS) and values == sorted(set(values))
    assert values[0] == 0 and values[-1] == count - 1
    assert golden.answers == tuple(2 * value for value in values)


def test_missing_values_of_a_frame_are_stored_as_null():
    frame = pd.DataFrame({"n": [1.5, np.nan], "city": ["Rome", None], "b": [True, False], "whole": [1, 2]})
    frame["when"] = pd.to_datetime(["2024-01-31 12:00", None])
    golden = record_golden_rows(schema_from_frame(frame), frame, lambda table: np.array(["yes", "no"])[: len(table)])
    assert json.loads(golden.model_dump_json()) == {
        "rows": [[1.5, "Rome", True, 1, "2024-01-31T12:00:00"], [None, None, False, 2, None]],
        "answers": ["yes", "no"],
    }
    assert GoldenRows.model_validate_json(golden.model_dump_json()) == golden


def test_nan_and_infinite_answers_are_null():
    assert finite_json(np.array([[1.0, np.nan], [np.inf, -np.inf]])) == [[1.0, None], [None, None]]
    assert finite_json(np.array(["a", np.float64(2), np.int64(3), None], dtype=object)) == ["a", 2.0, 3, None]


def test_equal_answers_are_no_mismatch():
    golden = record_golden_rows(SCHEMA, np.arange(50.0).reshape(-1, 1), doubled)
    assert golden.replay(BUILD, doubled) is None


@pytest.mark.parametrize("row", [0, 17, 31])
def test_replay_returns_the_first_mismatch(row):
    table = np.arange(32.0).reshape(-1, 1)
    golden = record_golden_rows(SCHEMA, table, doubled)

    def predict_one_row_differently(table):
        return np.where(table[:, 0] == row, -1.0, table[:, 0] * 2)

    mismatch = golden.replay(BUILD, predict_one_row_differently)
    assert (mismatch.row, mismatch.expected, mismatch.answered) == (row, 2.0 * row, -1.0)


@pytest.mark.parametrize("when_alone", [True, False])
def test_an_answer_that_depends_on_the_batch_is_a_mismatch(when_alone):
    table = np.arange(8.0).reshape(-1, 1)
    golden = record_golden_rows(SCHEMA, table, doubled)
    mismatch = golden.replay(BUILD, lambda rows: doubled(rows) + ((len(rows) == 1) == when_alone))
    assert mismatch.row == 0 and mismatch.answered == 1.0 and mismatch.is_alone == when_alone


def test_replay_raises_if_answers_are_missing():
    table = np.arange(8.0).reshape(-1, 1)
    with pytest.raises(ValueError, match="shorter"):
        record_golden_rows(SCHEMA, table, doubled).replay(BUILD, lambda rows: doubled(rows)[: max(1, len(rows) - 1)])


def test_unknown_fields_are_rejected():
    with pytest.raises(ValueError, match="extra"):
        GoldenRows.model_validate({"rows": [], "answers": [], "code": "x"})
