"""Equivalence of runtimes: comparison with the estimator on sample, boundary, extrapolated and extreme rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from flaskml.codecs.answer_equality import ABSOLUTE_TOLERANCE, answers_equal, largest_absolute_number
from flaskml.codecs.answers import Answer
from flaskml.runtimes.mixed_rows import NumericPart, unusual_rows
from flaskml.schema.features import Schema, Table
from flaskml.store.golden_rows import sample_rows

MAX_COMPARED_ROWS = 4_000
"""Rows of the sample that are compared, at most."""

RELATIVE_TOLERANCE = 1e-8
"""Relative tolerance of a number: a hundredth of the promised 1e-6, as a margin for rows that are not compared."""

SINGLE_PRECISION_TOLERANCE = 4 * float(np.finfo(np.float32).eps)
"""Relative tolerance where the estimator and the runtime both answer in single precision, below the promised 1e-6."""

MAX_SINGLE_ROWS = 32
"""Rows of each table that are also computed one by one, at most."""

SINGLE_ROWS_SECONDS = 0.2
"""Seconds for the rows of a table that are computed one by one."""

TIMED_BATCH_ROWS = 32
"""Rows of the batch that measures the cost of a runtime."""

COMPARISON_SECONDS = 2.0
"""Seconds that the estimator may take for each part of the comparison; a slow estimator gets fewer rows."""

MIN_CALLS = 4
"""Calls of each part of the comparison, at least, however slow the estimator is."""

BOUNDARY_PAIRS = 64
"""Pairs of rows between which bisection searches for a decision boundary."""

BISECTION_STEPS = 32
"""Halvings of the distance between two rows: less than a billionth is left, far below the step of single precision."""

MAX_EXTREME_FEATURES = 8
"""Features that are set to the smallest and to the largest number, at most."""

EXTRAPOLATION_FACTORS = (10.0, 1e3, 1e6)
"""Factors that move rows away from the mean of the sample, beyond its values."""


NUMERIC_DTYPE_KINDS = "biuf"
"""The kinds of numpy dtypes that a graph takes; only they allow boundary, extrapolated and extreme rows."""


class ComputeFunction(Protocol):
    """A function that returns the answer of a method to a table."""

    def __call__(self, table: Any, method: str) -> Answer: ...


class Comparison:
    """The estimator's own answers to sample, boundary, extrapolated and extreme rows, to compare a runtime with."""

    def __init__(self, reference: ComputeFunction, methods: Sequence[str], schema: Schema, table: Table) -> None:
        """Compute the answers of `reference`, the estimator; `table` is the sample, the first method the default."""
        one_row_seconds, batch_seconds = (
            _seconds(partial(reference, repeat_rows(table, count), methods[0])) for count in (1, TIMED_BATCH_ROWS)
        )
        batches = _affordable_calls(batch_seconds, MAX_COMPARED_ROWS // TIMED_BATCH_ROWS)
        tables = [sample_rows(table, TIMED_BATCH_ROWS * batches)]
        if isinstance(table, np.ndarray) and table.dtype.kind in NUMERIC_DTYPE_KINDS:
            tables.append(extrapolated_rows(tables[0], schema))
            with suppress(Exception):  # An estimator may raise any error at rows between those of the sample.
                predict = partial(reference, method=methods[0])
                pairs = _affordable_calls(batch_seconds, BOUNDARY_PAIRS)
                tables.append(rows_at_decision_boundaries(predict, tables[0], schema, pairs))
            extremes = extreme_rows(table, schema)[: _affordable_calls(one_row_seconds, 2 * MAX_EXTREME_FEATURES)]
            tables += [extremes[index : index + 1] for index in range(len(extremes))]
        elif isinstance(table, np.ndarray):
            rows = _affordable_calls(one_row_seconds, MAX_COMPARED_ROWS)
            tables += mixed_tables(partial(reference, method=methods[0]), tables[0], schema, rows)
        self._expected = {
            method: [(rows, _answer_or_none(reference, rows, method)) for rows in tables] for method in methods
        }

    def find_difference(self, compute: ComputeFunction, methods: Sequence[str]) -> str | None:
        """Return how `compute` differs from the estimator, as a clause that begins with the method; None if equal."""
        for method in methods:
            sample_answer = self._expected[method][0][1]
            absolute = ABSOLUTE_TOLERANCE * (0.0 if sample_answer is None else largest_absolute_number(sample_answer))
            for table, expected in self._expected[method]:
                if (difference := self._table_difference(compute, method, table, expected, absolute)) is not None:
                    return f"{method} {difference}"
        return None

    def _table_difference(
        self, compute: ComputeFunction, method: str, table: Table, expected: Answer | None, absolute: float
    ) -> str | None:
        batch_answer = _answer_or_none(compute, table, method)
        if expected is None or batch_answer is None:
            return None if expected is batch_answer else "raises an error where the estimator does not, or the reverse"
        is_single = {_dtype(expected), _dtype(batch_answer)} == {np.dtype(np.float32)}
        relative = SINGLE_PRECISION_TOLERANCE if is_single else RELATIVE_TOLERANCE
        if not answers_equal(expected, batch_answer, relative=relative, absolute=absolute):
            return "differs from the estimator's own answer"
        end = time.perf_counter() + SINGLE_ROWS_SECONDS
        for index in range(min(MAX_SINGLE_ROWS, len(table)) if len(table) > 1 else 0):
            if index >= MIN_CALLS and time.perf_counter() > end:
                break
            answer = _answer_or_none(compute, table[index : index + 1], method)
            if answer is None or not answers_equal(_row(expected, index), answer, relative=relative, absolute=absolute):
                return "gives a single row another answer than in a batch"
        return None


def _dtype(answer: Answer) -> np.dtype | None:
    """Return the dtype of an answer that is one array."""
    return None if isinstance(answer, list) else answer.dtype


def _row(answer: Answer, index: int) -> Answer:
    return [part[index : index + 1] for part in answer] if isinstance(answer, list) else answer[index : index + 1]


def _answer_or_none(compute: ComputeFunction, table: Any, method: str) -> Answer | None:
    """Return the answer, or None if `compute` raises an error. Raises `MemoryError`."""
    try:
        return compute(table, method)
    except MemoryError:
        raise
    except Exception:  # An estimator may raise any error at rows that it does not support.
        return None


def repeat_rows(table: Table, rows: int) -> Table:
    """Return a table of exactly `rows` rows; it repeats the rows of a shorter table."""
    indices = np.arange(rows) % len(table)
    return table[indices] if isinstance(table, np.ndarray) else table.iloc[indices]


def _affordable_calls(seconds: float, most: int) -> int:
    """Return how many calls of `seconds` each fit into `COMPARISON_SECONDS`, from `MIN_CALLS` to `most`."""
    return max(MIN_CALLS, min(most, int(COMPARISON_SECONDS / max(seconds, 1e-6))))


def _seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a call after a warm-up call."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def extreme_rows(table: np.ndarray, schema: Schema) -> np.ndarray:
    """Return rows in which one feature is the smallest or the largest number that a request may send.

    There are two rows for each of the first `MAX_EXTREME_FEATURES` numeric features.
    """
    numeric = [index for index, feature in enumerate(schema.features) if feature.is_number][:MAX_EXTREME_FEATURES]
    rows = np.repeat(table[:1], 2 * len(numeric), axis=0)
    for number, index in enumerate(numeric):
        for row, bound in enumerate(schema.bounds(schema.features[index]), 2 * number):
            rows[row, index] = bound
    return rows


def extrapolated_rows(table: np.ndarray, schema: Schema) -> np.ndarray:
    """Return rows of the table with their numbers moved far away from the mean, where probabilities reach zero.

    Integers stay integers, and all numbers stay within the bounds of a request.
    """
    sample = table[np.linspace(0, len(table) - 1, min(len(table), BOUNDARY_PAIRS)).astype(int)].astype(np.float64)
    mean = np.nan_to_num(np.nanmean(sample, axis=0))
    rows = np.concatenate([mean + (sample - mean) * factor for factor in EXTRAPOLATION_FACTORS])
    for index, feature in enumerate(schema.features):
        column = rows[:, index]
        if feature.is_number:
            rounded = np.round(column) if feature.is_whole else column
            rows[:, index] = np.clip(rounded, *schema.bounds(feature))
        else:
            rows[:, index] = np.tile(sample[:, index], len(EXTRAPOLATION_FACTORS))
    return _as_dtype(rows, table.dtype)


def mixed_tables(
    predict: Callable[[np.ndarray], Answer], rows: np.ndarray, schema: Schema, limit: int
) -> list[np.ndarray]:
    """Return tables with numbers, texts and missing values that the sample rows do not have, of `limit` rows at most.

    `rows` is an array of tuples with the values of requests.
    """
    parts = NumericPart(rows[:BOUNDARY_PAIRS], schema)
    tables = [unusual_rows(rows, schema)[:limit]]
    if parts.schema is not None:
        numbers, numeric = parts.numbers, parts.schema
        tables.append(parts.rows_with(extrapolated_rows(numbers, numeric))[:limit])
        tables += [parts.rows_with(extreme_rows(numbers, numeric)[index : index + 1]) for index in range(4)]
        with suppress(Exception):  # An estimator may raise any error at rows between those of the sample.
            on_numbers = partial(_predict_numbers, predict, parts)
            tables.append(parts.rows_with(rows_at_decision_boundaries(on_numbers, numbers, numeric, len(numbers))))
    return [table for table in tables if len(table)]


def _predict_numbers(predict: Callable[[np.ndarray], Answer], parts: NumericPart, numbers: np.ndarray) -> Answer:
    return predict(parts.rows_with(numbers))


def rows_at_decision_boundaries(
    predict: Callable[[np.ndarray], Answer], table: np.ndarray, schema: Schema, pairs: int = BOUNDARY_PAIRS
) -> np.ndarray:
    """Return rows on both sides of decision boundaries, as close to them as the features allow.

    Between two rows with different answers lies a decision boundary, or a step of a regression. Bisection between the
    rows finds it. Features that are not floats stay integers. Raises the errors of `predict`.
    """
    rng = np.random.default_rng(0)
    low, high = (table[rng.integers(0, len(table), pairs)].astype(np.float64) for _ in range(2))
    is_integer = np.array([feature.kind != "float" for feature in schema.features])

    def first_column(rows: np.ndarray) -> np.ndarray:
        answer = predict(_as_dtype(rows, table.dtype))
        output = np.asarray(answer[0] if isinstance(answer, list) else answer)
        return output.reshape(len(rows), -1)[:, 0]

    low_answer, high_answer = first_column(low), first_column(high)
    # The boundary of a regression is where the answer crosses the mean of both answers.
    mean = low_answer / 2 + high_answer / 2 if low_answer.dtype.kind == "f" else None
    for _ in range(BISECTION_STEPS):
        middle = low / 2 + high / 2
        middle[:, is_integer] = np.round(middle[:, is_integer])
        answer = first_column(middle)
        is_low = answer == low_answer if mean is None else (answer <= mean) == (low_answer <= mean)
        low[is_low], high[~is_low] = middle[is_low], middle[~is_low]
    return _as_dtype(np.concatenate([low, high]), table.dtype)


def _as_dtype(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the rows in the dtype of the table; numbers beyond the limits of an integer dtype are clipped."""
    if dtype.kind not in "iu":
        return rows.astype(dtype)
    limits = np.iinfo(dtype)
    # Double precision has no exact value for the largest 64-bit integer, and rounds it to a number above the limit.
    high = min(float(limits.max), np.nextafter(float(limits.max) + 1, 0))
    clipped: np.ndarray = np.clip(rows, float(limits.min), high).astype(dtype)
    return clipped
