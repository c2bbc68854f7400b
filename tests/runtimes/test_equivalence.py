"""Rows that tell runtimes apart, and whether two answers are the same."""

import numpy as np
import pytest

from flaskml.runtimes.equivalence import (
    BOUNDARY_PAIRS,
    EXTRAPOLATION_FACTORS,
    Comparison,
    extrapolated_rows,
    extreme_rows,
    rows_at_decision_boundaries,
)
from flaskml.schema.features import Feature, Schema

LARGEST = np.finfo(np.float64).max


def schema(*kinds, dtype="float64", **options):
    features = [Feature(name=f"x{index}", kind=kind, dtype=dtype) for index, kind in enumerate(kinds)]
    return Schema(features=tuple(features), layout="array", dtype=dtype, **options)


def array(*values):
    return np.array(values)


def step(place):
    """Answers whether the first number is above a place."""
    return lambda rows: rows[:, 0] > place


def test_rows_at_changes_lie_on_both_sides_of_a_boundary():
    table = np.random.default_rng(0).normal(size=(50, 2))
    rows = rows_at_decision_boundaries(step(0.123456789), table, schema("float", "float"))
    assert rows.shape == (2 * BOUNDARY_PAIRS, 2)
    near = np.abs(rows[:, 0] - 0.123456789) < 1e-8
    answers = step(0.123456789)(rows)
    assert near.sum() > 20 and set(answers[near]) == {True, False}


def test_numbers_change_where_they_are_half():
    table = np.random.default_rng(0).normal(size=(50, 1))
    rows = rows_at_decision_boundaries(lambda rows: np.where(rows[:, 0] > 0.5, 9.0, 1.0), table, schema("float"))
    assert (np.abs(rows[:, 0] - 0.5) < 1e-8).sum() > 20


@pytest.mark.parametrize(
    "answer", [lambda rows: [rows[:, 0] > 0, rows], lambda rows: np.c_[rows[:, 0] > 0, rows[:, 1]]]
)
def test_the_first_column_of_the_first_output_counts(answer):
    table = np.random.default_rng(0).normal(size=(50, 2))
    assert (np.abs(rows_at_decision_boundaries(answer, table, schema("float", "float"))[:, 0]) < 1e-8).sum() > 20


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", "float64"])
def test_rows_keep_the_type_of_the_table_and_whole_numbers(dtype):
    kind = {"bool": "boolean", "float32": "float", "float64": "integer"}.get(dtype, "integer")
    table = np.array([[0, 1], [1, 0], [1, 1], [0, 0]]).astype(dtype)
    asked = []

    def ask(rows):
        asked.append(rows)
        return rows[:, 0] > 0

    sketch = schema(kind, kind, dtype=dtype)
    for rows in (
        rows_at_decision_boundaries(ask, table, sketch),
        extrapolated_rows(table, sketch),
        extreme_rows(table, sketch),
        *asked,
    ):
        assert rows.dtype == table.dtype and rows.shape[1] == 2
        if dtype == "float64":
            assert np.array_equal(rows, np.round(rows))


@pytest.mark.parametrize(
    ("dtype", "bounds"), [("int64", (-(2**63), 2**63 - 1)), ("uint64", (0, 2**64 - 1)), ("int8", (-128, 127))]
)
def test_the_largest_whole_numbers(dtype, bounds):
    table, sketch = np.array([[3], [5]], dtype=dtype), schema("integer", dtype=dtype)
    assert tuple(extreme_rows(table, sketch)[:, 0].tolist()) == bounds
    huge = np.array([[bounds[0]], [bounds[1]]], dtype=dtype)
    for rows in (
        extrapolated_rows(huge, sketch),
        rows_at_decision_boundaries(lambda rows: rows[:, 0] > 9, huge, sketch),
    ):
        assert (rows >= bounds[0]).all() and (rows <= bounds[1]).all()


def test_extreme_rows_keep_to_what_requests_may_send():
    table = np.array([[0.0, 1.0]])
    assert extreme_rows(table, schema("float", "float")).tolist() == [
        [-LARGEST, 1.0], [LARGEST, 1.0], [0.0, -LARGEST], [0.0, LARGEST],
    ]  # fmt: skip
    assert extreme_rows(table, schema("float", "boolean", magnitude=100.0)).tolist() == [[-100.0, 1.0], [100.0, 1.0]]
    assert extreme_rows(table, schema("boolean", "boolean")).shape == (0, 2)


def test_far_rows_go_beyond_the_sample_and_not_beyond_requests():
    table = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 0.0]])
    rows = extrapolated_rows(table, schema("float", "boolean", magnitude=1e5))
    assert len(rows) == 3 * len(EXTRAPOLATION_FACTORS)
    assert rows[:, 0].min() == -1e5 and rows[:, 0].max() == 1e5 and 22.0 in rows[:, 0]
    assert np.isnan(rows[:, 1]).sum() == len(EXTRAPOLATION_FACTORS) and set(rows[~np.isnan(rows[:, 1]), 1]) == {
        0.0,
        1.0,
    }


class Asked:
    """Answers with the sum of each row, and remembers what it was asked."""

    def __init__(self, change=lambda table, answer: answer):
        self.change = change
        self.tables = []

    def __call__(self, table, method):
        self.tables.append(table)
        return self.change(table, table.sum(axis=1))


def refuse(table, answer):
    raise KeyError("nothing")


def bounded(table, answer):
    return answer if np.abs(table).max() < 50 else refuse(table, answer)


CHANGES = {
    "in a batch": (lambda table, answer: answer + (len(table) > 1) * 1e-3, "answers otherwise than the estimator"),
    "alone": (lambda table, answer: answer + (len(table) == 1 and table[0, 0] < 9) * 1e-3, "a row alone otherwise"),
    "far away": (lambda table, answer: np.where(np.abs(table).max(axis=1) > 50, 0, answer), "answers otherwise"),
    "at the extremes": (lambda table, answer: np.where(np.abs(table).max(axis=1) > 1e200, 0, answer), "otherwise"),
    "by raising": (refuse, "raises, or does not"),
    "by another type": (lambda table, answer: answer.astype(int), "answers otherwise"),
    "by another shape": (lambda table, answer: answer.reshape(-1, 1), "answers otherwise"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_found(name):
    change, said = CHANGES[name]
    table = np.random.default_rng(0).normal(size=(50, 2))
    with np.errstate(all="ignore"):
        comparison = Comparison(Asked(), ["predict"], schema("float", "float"), table)
        assert comparison.difference(Asked(), ["predict"]) is None
        found = comparison.difference(Asked(change), ["predict"])
    assert found.startswith("predict ") and said in found


def test_rows_that_the_estimator_refuses_have_to_be_refused():
    table = np.random.default_rng(0).normal(size=(50, 2))
    with np.errstate(all="ignore"):
        comparison = Comparison(Asked(bounded), ["predict"], schema("float", "float"), table)
        assert comparison.difference(Asked(bounded), ["predict"]) is None
        assert "raises, or does not" in comparison.difference(Asked(), ["predict"])


def test_a_sample_of_one_row_and_one_of_many():
    for rows in (1, 10_000):
        table, own, other = np.random.default_rng(0).normal(size=(rows, 2)), Asked(), Asked()
        with np.errstate(all="ignore"):
            comparison = Comparison(own, ["predict"], schema("float", "float"), table)
            assert comparison.difference(other, ["predict"]) is None
        assert max(map(len, other.tables)) <= 4_000
