"""The comparison of runtimes, and the rows that it adds to the sample."""

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


def step(threshold):
    """Return a classifier with a decision boundary at a threshold of the first feature."""
    return lambda rows: rows[:, 0] > threshold


def test_bisection_finds_rows_on_both_sides_of_a_decision_boundary():
    table = np.random.default_rng(0).normal(size=(50, 2))
    rows = rows_at_decision_boundaries(step(0.123456789), table, schema("float", "float"))
    assert rows.shape == (2 * BOUNDARY_PAIRS, 2)
    near = np.abs(rows[:, 0] - 0.123456789) < 1e-8
    answers = step(0.123456789)(rows)
    assert near.sum() > 20 and set(answers[near]) == {True, False}


def test_the_boundary_of_a_regression_is_the_mean_of_both_answers():
    table = np.random.default_rng(0).normal(size=(50, 1))
    rows = rows_at_decision_boundaries(lambda rows: np.where(rows[:, 0] > 0.5, 9.0, 1.0), table, schema("float"))
    assert (np.abs(rows[:, 0] - 0.5) < 1e-8).sum() > 20


@pytest.mark.parametrize(
    "answer", [lambda rows: [rows[:, 0] > 0, rows], lambda rows: np.c_[rows[:, 0] > 0, rows[:, 1]]]
)
def test_bisection_uses_the_first_column_of_the_first_output(answer):
    table = np.random.default_rng(0).normal(size=(50, 2))
    assert (np.abs(rows_at_decision_boundaries(answer, table, schema("float", "float"))[:, 0]) < 1e-8).sum() > 20


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", "float64"])
def test_rows_keep_the_dtype_of_the_table_and_integers(dtype):
    kind = {"bool": "boolean", "float32": "float", "float64": "integer"}.get(dtype, "integer")
    table = np.array([[0, 1], [1, 0], [1, 1], [0, 0]]).astype(dtype)
    predicted = []

    def predict(rows):
        predicted.append(rows)
        return rows[:, 0] > 0

    table_schema = schema(kind, kind, dtype=dtype)
    for rows in (
        rows_at_decision_boundaries(predict, table, table_schema),
        extrapolated_rows(table, table_schema),
        extreme_rows(table, table_schema),
        *predicted,
    ):
        assert rows.dtype == table.dtype and rows.shape[1] == 2
        if dtype == "float64":
            assert np.array_equal(rows, np.round(rows))


@pytest.mark.parametrize(
    ("dtype", "bounds"), [("int64", (-(2**63), 2**63 - 1)), ("uint64", (0, 2**64 - 1)), ("int8", (-128, 127))]
)
def test_the_largest_integers_stay_in_bounds(dtype, bounds):
    table, table_schema = np.array([[3], [5]], dtype=dtype), schema("integer", dtype=dtype)
    assert tuple(extreme_rows(table, table_schema)[:, 0].tolist()) == bounds
    huge = np.array([[bounds[0]], [bounds[1]]], dtype=dtype)
    for rows in (
        extrapolated_rows(huge, table_schema),
        rows_at_decision_boundaries(lambda rows: rows[:, 0] > 9, huge, table_schema),
    ):
        assert (rows >= bounds[0]).all() and (rows <= bounds[1]).all()


def test_extreme_rows_stay_within_the_bounds_of_a_request():
    table = np.array([[0.0, 1.0]])
    assert extreme_rows(table, schema("float", "float")).tolist() == [
        [-LARGEST, 1.0], [LARGEST, 1.0], [0.0, -LARGEST], [0.0, LARGEST],
    ]  # fmt: skip
    assert extreme_rows(table, schema("float", "boolean", magnitude=100.0)).tolist() == [[-100.0, 1.0], [100.0, 1.0]]
    assert extreme_rows(table, schema("boolean", "boolean")).shape == (0, 2)


def test_extrapolated_rows_leave_the_sample_but_not_the_bounds_of_a_request():
    table = np.array([[0.0, 1.0], [2.0, np.nan], [4.0, 0.0]])
    rows = extrapolated_rows(table, schema("float", "boolean", magnitude=1e5))
    assert len(rows) == 3 * len(EXTRAPOLATION_FACTORS)
    assert rows[:, 0].min() == -1e5 and rows[:, 0].max() == 1e5 and 22.0 in rows[:, 0]
    assert np.isnan(rows[:, 1]).sum() == len(EXTRAPOLATION_FACTORS) and set(rows[~np.isnan(rows[:, 1]), 1]) == {
        0.0,
        1.0,
    }


class RecordingCompute:
    """A compute function that returns the sum of each row, optionally changed, and records its tables."""

    def __init__(self, change=lambda table, answer: answer):
        self.change = change
        self.tables = []

    def __call__(self, table, method):
        self.tables.append(table)
        return self.change(table, table.sum(axis=1))


def raise_error(table, answer):
    raise KeyError("planted")


def bounded(table, answer):
    return answer if np.abs(table).max() < 50 else raise_error(table, answer)


CHANGES = {
    "in a batch": (lambda table, answer: answer + (len(table) > 1) * 1e-3, "differs from the estimator"),
    "one row": (
        lambda table, answer: answer + (len(table) == 1 and table[0, 0] < 9) * 1e-3,
        "a single row another answer",
    ),
    "extrapolated": (lambda table, answer: np.where(np.abs(table).max(axis=1) > 50, 0, answer), "differs from"),
    "extreme": (lambda table, answer: np.where(np.abs(table).max(axis=1) > 1e200, 0, answer), "differs from"),
    "error": (raise_error, "raises an error"),
    "another dtype": (lambda table, answer: answer.astype(int), "differs from"),
    "another shape": (lambda table, answer: answer.reshape(-1, 1), "differs from"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_found(name):
    change, message = CHANGES[name]
    table = np.random.default_rng(0).normal(size=(50, 2))
    with np.errstate(all="ignore"):
        comparison = Comparison(RecordingCompute(), ["predict"], schema("float", "float"), table)
        assert comparison.find_difference(RecordingCompute(), ["predict"]) is None
        difference = comparison.find_difference(RecordingCompute(change), ["predict"])
    assert difference.startswith("predict ") and message in difference


def test_errors_of_the_estimator_must_be_errors_of_the_runtime():
    table = np.random.default_rng(0).normal(size=(50, 2))
    with np.errstate(all="ignore"):
        comparison = Comparison(RecordingCompute(bounded), ["predict"], schema("float", "float"), table)
        assert comparison.find_difference(RecordingCompute(bounded), ["predict"]) is None
        assert "raises an error" in comparison.find_difference(RecordingCompute(), ["predict"])


def test_samples_of_one_row_and_of_many_rows_are_compared():
    for rows in (1, 10_000):
        table = np.random.default_rng(0).normal(size=(rows, 2))
        reference, other = RecordingCompute(), RecordingCompute()
        with np.errstate(all="ignore"):
            comparison = Comparison(reference, ["predict"], schema("float", "float"), table)
            assert comparison.find_difference(other, ["predict"]) is None
        assert max(map(len, other.tables)) <= 4_000


@pytest.mark.parametrize(
    ("dtype", "share", "is_equal"),
    [("float32", 2e-7, True), ("float32", 2e-6, False), ("float64", 2e-7, False), ("float64", 1e-9, True)],
)
def test_two_answers_in_single_precision_may_differ_in_the_last_digits(dtype, share, is_equal):
    table = np.random.default_rng(0).normal(size=(50, 2))

    def answers(factor):
        return lambda rows, method: ((np.abs(rows).sum(axis=1) + 1) * factor).astype(dtype)

    comparison = Comparison(answers(1.0), ["predict"], schema("float", "float", magnitude=1e6), table)
    assert (comparison.find_difference(answers(1.0 + share), ["predict"]) is None) == is_equal
