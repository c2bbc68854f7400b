"""Rows on which runtimes are compared beside those of the sample, and whether two answers are the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flaskml.answers import Answer
from flaskml.golden import RELATIVE
from flaskml.schema import Schema

PAIRS = 64
"""Pairs of rows between which the place is sought where the answer changes."""

HALVINGS = 32
"""How often the way between two rows is halved: what is left is a billionth, far less than single precision tells."""

EXTREMES = 16
"""Features that are tried with the smallest and the largest number."""


def is_same(expected: Answer, answered: Answer, absolute: float) -> bool:
    """Whether two answers are of the same shape and kind, with equal labels and numbers equal but for a millionth.

    Near zero they may differ by `absolute`.
    """
    if isinstance(expected, list) or isinstance(answered, list):
        parts = zip(expected, answered, strict=False)
        return len(expected) == len(answered) and all(is_same(one, other, absolute) for one, other in parts)
    if expected.shape != answered.shape or _kind(expected) != _kind(answered):
        return False
    if expected.dtype.kind != "f":
        return bool(np.array_equal(expected, answered))
    return bool(np.allclose(answered, expected, rtol=RELATIVE, atol=absolute, equal_nan=True))


def scale(answer: Answer) -> float:
    """The largest finite magnitude of an answer's numbers."""
    if isinstance(answer, list):
        return max(map(scale, answer), default=0.0)
    if answer.dtype.kind != "f":
        return 0.0
    return float(np.abs(answer[np.isfinite(answer)]).max(initial=0.0))


def _kind(answer: np.ndarray) -> str:
    """What JSON makes of the array's type."""
    return {"i": "whole", "u": "whole", "U": "text", "O": "text"}.get(answer.dtype.kind, answer.dtype.kind)


def extreme_rows(table: np.ndarray, schema: Schema) -> np.ndarray:
    """Rows in each of which one feature, of the first few, is the smallest or the largest that a request may send."""
    floats = [index for index, feature in enumerate(schema.features) if feature.kind == "float"][:EXTREMES]
    rows = np.repeat(table[:1], 2 * len(floats), axis=0)
    for number, index in enumerate(floats):
        rows[2 * number : 2 * number + 2, index] = schema.bounds(schema.features[index])
    return rows


def rows_at_changes(ask: Callable[[np.ndarray], Answer], table: np.ndarray, schema: Schema) -> np.ndarray:
    """Rows on both sides of places where the answer changes, as near to them as features allow.

    Between two rows that are answered differently lies a boundary, or a step. The way between them is halved again and
    again; features of whole numbers stay whole.
    """
    rng = np.random.default_rng(0)
    low, high = (table[rng.integers(0, len(table), PAIRS)].astype(np.float64) for _ in range(2))
    whole = np.array([feature.kind != "float" for feature in schema.features])

    def key(rows: np.ndarray) -> np.ndarray:
        answer = ask(rows.astype(table.dtype))
        found = np.asarray(answer[0] if isinstance(answer, list) else answer)
        return found.reshape(len(rows), -1)[:, 0]

    first, last = key(low), key(high)
    middle = (first + last) / 2 if first.dtype.kind == "f" else None
    for _ in range(HALVINGS):
        between = low + (high - low) / 2
        between[:, whole] = np.round(between[:, whole])
        found = key(between)
        is_low = found == first if middle is None else (found <= middle) == (first <= middle)
        low[is_low], high[~is_low] = between[is_low], between[~is_low]
    return np.concatenate([low, high]).astype(table.dtype)
