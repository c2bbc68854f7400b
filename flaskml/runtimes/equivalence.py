"""Rows on which runtimes are compared beside those of the sample, and whether two answers are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from flaskml.codecs.answer_equality import ABSOLUTE_TOLERANCE, answers_equal, largest_magnitude
from flaskml.codecs.answers import Answer
from flaskml.schema.features import Schema, Table
from flaskml.store.golden_rows import sample_rows

MAX_COMPARED_ROWS = 4_000
"""Rows of the sample on which answers are compared at most."""

RELATIVE_TOLERANCE = 1e-8
"""How far a number may be off as a share of itself: a hundredth of what is promised, for rows that nobody tried."""

MAX_SINGLE_ROWS = 32
"""Rows of each table that are asked for one by one too, at most."""

SINGLE_ROWS_SECONDS = 0.2
"""Seconds after which no more of them are."""

TIMED_BATCH_ROWS = 32
"""Rows of a batch by which it is judged what an estimator costs."""

COMPARISON_SECONDS = 2.0
"""Seconds that an estimator may take for each part of what it is asked: of a slow one, less is asked."""

MIN_CALLS = 4
"""Calls that are made for each part, however slow the estimator is."""

BOUNDARY_PAIRS = 64
"""Pairs of rows between which the place is sought where the answer changes."""

BISECTION_STEPS = 32
"""How often the way between two rows is halved: what is left is a billionth, far less than single precision tells."""

MAX_EXTREME_FEATURES = 8
"""Features that are tried with the smallest and the largest number."""

EXTRAPOLATION_FACTORS = (10.0, 1e3, 1e6)
"""How many times as far from the middle as in the sample values are tried that no sample has."""


NUMERIC_DTYPE_KINDS = "biuf"
"""The kinds of numpy's types that a graph takes; rows between and beyond those of a sample can be made of them."""


class Compute(Protocol):
    """What answers a table by a method."""

    def __call__(self, table: Any, method: str) -> Answer: ...


class Comparison:
    """Rows, and what the estimator answers to them: those of the sample, at boundaries, far away, and extreme ones."""

    def __init__(self, own: Compute, methods: Sequence[str], schema: Schema, table: Table) -> None:
        one, many = (_seconds(partial(own, repeat_rows(table, count), methods[0])) for count in (1, TIMED_BATCH_ROWS))
        tables = [sample_rows(table, TIMED_BATCH_ROWS * _affordable(many, MAX_COMPARED_ROWS // TIMED_BATCH_ROWS))]
        if isinstance(table, np.ndarray) and table.dtype.kind in NUMERIC_DTYPE_KINDS:
            tables.append(extrapolated_rows(tables[0], schema))
            with suppress(Exception):  # An estimator may raise anything at rows between those that it knows.
                ask = partial(own, method=methods[0])
                tables.append(rows_at_decision_boundaries(ask, tables[0], schema, _affordable(many, BOUNDARY_PAIRS)))
            extremes = extreme_rows(table, schema)[: _affordable(one, 2 * MAX_EXTREME_FEATURES)]
            tables += [extremes[index : index + 1] for index in range(len(extremes))]
        self._expected = {method: [(part, _tried(own, part, method)) for part in tables] for method in methods}

    def difference(self, compute: Compute, methods: Sequence[str]) -> str | None:
        """What tells the answers of the methods from the estimator's; None if nothing does."""
        for method in methods:
            first = self._expected[method][0][1]
            absolute = ABSOLUTE_TOLERANCE * (0.0 if first is None else largest_magnitude(first))
            for table, expected in self._expected[method]:
                if (found := self._difference(compute, method, table, expected, absolute)) is not None:
                    return f"{method} {found}"
        return None

    def _difference(
        self, compute: Compute, method: str, table: Table, expected: Answer | None, absolute: float
    ) -> str | None:
        together = _tried(compute, table, method)
        if expected is None or together is None:
            return None if expected is together else "raises, or does not, where the estimator does otherwise"
        if not answers_equal(expected, together, relative=RELATIVE_TOLERANCE, absolute=absolute):
            return "answers otherwise than the estimator"
        end = time.perf_counter() + SINGLE_ROWS_SECONDS
        for index in range(min(MAX_SINGLE_ROWS, len(table)) if len(table) > 1 else 0):
            if index >= MIN_CALLS and time.perf_counter() > end:
                break
            answer = _tried(compute, table[index : index + 1], method)
            if answer is None or not answers_equal(
                _row(expected, index), answer, relative=RELATIVE_TOLERANCE, absolute=absolute
            ):
                return "answers a row alone otherwise than among others"
        return None


def _row(answer: Answer, index: int) -> Answer:
    return [part[index : index + 1] for part in answer] if isinstance(answer, list) else answer[index : index + 1]


def _tried(compute: Compute, table: Any, method: str) -> Answer | None:
    """What is answered; None if the rows are refused, with whatever error that is."""
    try:
        return compute(table, method)
    except MemoryError:
        raise
    except Exception:  # An estimator may raise anything at rows that it does not like.
        return None


def repeat_rows(table: Table, rows: int) -> Table:
    """So many rows of the table, some of them again if it has fewer."""
    wanted = np.arange(rows) % len(table)
    return table[wanted] if isinstance(table, np.ndarray) else table.iloc[wanted]


def _affordable(seconds: float, most: int) -> int:
    """How many calls of so many seconds there is time for."""
    return max(MIN_CALLS, min(most, int(COMPARISON_SECONDS / max(seconds, 1e-6))))


def _seconds(call: Callable[[], object]) -> float:
    """Seconds that a call takes, the first one apart, which does what later ones need not."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def extreme_rows(table: np.ndarray, schema: Schema) -> np.ndarray:
    """Rows in each of which one feature, of the first few, is the smallest or the largest that a request may send."""
    numbers = [index for index, feature in enumerate(schema.features) if feature.is_number][:MAX_EXTREME_FEATURES]
    rows = np.repeat(table[:1], 2 * len(numbers), axis=0)
    for number, index in enumerate(numbers):
        for row, bound in enumerate(schema.bounds(schema.features[index]), 2 * number):
            rows[row, index] = bound
    return rows


def extrapolated_rows(table: np.ndarray, schema: Schema) -> np.ndarray:
    """Rows from the table, with their numbers farther and farther from the middle: where probabilities become nothing.

    Whole numbers stay whole, and nothing leaves what a request may send.
    """
    chosen = table[np.linspace(0, len(table) - 1, min(len(table), BOUNDARY_PAIRS)).astype(int)].astype(np.float64)
    middle = np.nan_to_num(np.nanmean(chosen, axis=0))
    rows = np.concatenate([middle + (chosen - middle) * times for times in EXTRAPOLATION_FACTORS])
    for index, feature in enumerate(schema.features):
        column = rows[:, index]
        if feature.is_number:
            whole = np.round(column) if feature.is_whole else column
            rows[:, index] = np.clip(whole, *schema.bounds(feature))
        else:
            rows[:, index] = np.tile(chosen[:, index], len(EXTRAPOLATION_FACTORS))
    return _typed(rows, table.dtype)


def rows_at_decision_boundaries(
    ask: Callable[[np.ndarray], Answer], table: np.ndarray, schema: Schema, pairs: int = BOUNDARY_PAIRS
) -> np.ndarray:
    """Rows on both sides of places where the answer changes, as near to them as features allow.

    Between two rows that are answered differently lies a boundary, or a step. The way between them is halved again and
    again; what is not a float stays whole. An error of `ask` is raised.
    """
    rng = np.random.default_rng(0)
    low, high = (table[rng.integers(0, len(table), pairs)].astype(np.float64) for _ in range(2))
    whole = np.array([feature.kind != "float" for feature in schema.features])

    def key(rows: np.ndarray) -> np.ndarray:
        answer = ask(_typed(rows, table.dtype))
        found = np.asarray(answer[0] if isinstance(answer, list) else answer)
        return found.reshape(len(rows), -1)[:, 0]

    first, last = key(low), key(high)
    middle = first / 2 + last / 2 if first.dtype.kind == "f" else None
    for _ in range(BISECTION_STEPS):
        between = low / 2 + high / 2
        between[:, whole] = np.round(between[:, whole])
        found = key(between)
        is_low = found == first if middle is None else (found <= middle) == (first <= middle)
        low[is_low], high[~is_low] = between[is_low], between[~is_low]
    return _typed(np.concatenate([low, high]), table.dtype)


def _typed(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The rows in the type of the table; what lies beyond its largest whole number becomes that."""
    if dtype.kind not in "iu":
        return rows.astype(dtype)
    limits = np.iinfo(dtype)
    # The largest number in 64 bits is none in double precision, and the next is too large.
    high = min(float(limits.max), np.nextafter(float(limits.max) + 1, 0))
    typed: np.ndarray = np.clip(rows, float(limits.min), high).astype(dtype)
    return typed
