"""Answers of an estimator as JSON has them, and how they are compared."""

import math

import numpy as np


def by_class(classes, numbers):
    names = [{True: "true", False: "false"}.get(label, str(label)) if label in (True, False) and isinstance(label, bool)
             else str(label) for label in np.asarray(classes).tolist()]  # fmt: skip
    return dict(zip(names, numbers, strict=True))


def plain(answer):
    if isinstance(answer, (list, np.ndarray)):
        return [plain(part) for part in answer]
    value = answer.item() if isinstance(answer, np.generic) else answer
    return None if isinstance(value, float) and not math.isfinite(value) else value


def differs(wanted, got, near, scale):
    """Whether two answers are not the same."""
    if isinstance(wanted, float) and isinstance(got, (int, float)) and not isinstance(got, bool):
        return not math.isclose(wanted, got, rel_tol=near, abs_tol=near * scale)
    if isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        return any(differs(one, other, near, scale) for one, other in zip(wanted, got, strict=True))
    if isinstance(wanted, dict) and isinstance(got, dict):
        return list(wanted) != list(got) or differs(list(wanted.values()), list(got.values()), near, scale)
    return type(wanted) is not type(got) or wanted != got


def largest(answer):
    """The largest magnitude of the numbers in an answer: beside it, a smaller one may be rounding alone."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return max(map(largest, answer), default=0.0)
    return abs(answer) if isinstance(answer, float) else 0.0
