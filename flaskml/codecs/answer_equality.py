"""Tolerant equality of answers, as arrays or as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ABSOLUTE_TOLERANCE = 1e-9
"""Tolerance of a difference, as a share of the largest magnitude in the answer: a smaller one may be rounding error."""


def answers_equal(expected: Any, answered: Any, *, relative: float, absolute: float = 0.0) -> bool:
    """Return whether two answers are equal: numbers within the tolerance, labels exactly, containers item by item.

    Answers are arrays of shape (rows,) or (rows, columns), lists of such arrays, or JSON values. `relative` is a share
    of the number, `absolute` is in the unit of the number.
    """
    if isinstance(expected, np.ndarray) or isinstance(answered, np.ndarray):
        return _arrays_equal(expected, answered, relative, absolute)
    if isinstance(expected, Mapping) and isinstance(answered, Mapping):
        items = list(expected.values()), list(answered.values())
        return list(expected) == list(answered) and answers_equal(*items, relative=relative, absolute=absolute)
    if _is_list(expected) and _is_list(answered):
        pairs = zip(expected, answered, strict=False)
        return len(expected) == len(answered) and all(
            answers_equal(one, other, relative=relative, absolute=absolute) for one, other in pairs
        )
    if isinstance(expected, float) and isinstance(answered, (int, float)) and not isinstance(answered, bool):
        return math.isclose(expected, answered, rel_tol=relative, abs_tol=absolute)
    return type(expected) is type(answered) and bool(expected == answered)


def largest_absolute_number(answer: Any) -> float:
    """Return the largest finite magnitude of the floats in an answer, 0.0 without any."""
    if isinstance(answer, np.ndarray):
        is_float = answer.dtype.kind == "f"
        return float(np.abs(answer[np.isfinite(answer)]).max(initial=0.0)) if is_float else 0.0
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if _is_list(answer):
        return max(map(largest_absolute_number, answer), default=0.0)
    return abs(answer) if isinstance(answer, float) and math.isfinite(answer) else 0.0


def _arrays_equal(expected: Any, answered: Any, relative: float, absolute: float) -> bool:
    """Return whether two arrays have the same shape, the same type in JSON, and equal values; NaN equals NaN."""
    if not (isinstance(expected, np.ndarray) and isinstance(answered, np.ndarray)):
        return False
    if expected.shape != answered.shape or _json_kind(expected) != _json_kind(answered):
        return False
    if expected.dtype.kind != "f":
        return bool(np.array_equal(expected, answered))
    return bool(np.allclose(answered, expected, rtol=relative, atol=absolute, equal_nan=True))


def _json_kind(answer: np.ndarray) -> str:
    """Return the JSON type of the array's values; the dtype's kind where JSON has no type of its own."""
    return {"i": "integer", "u": "integer", "U": "text", "O": "text"}.get(answer.dtype.kind, answer.dtype.kind)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
