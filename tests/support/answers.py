"""Convert the answers of an estimator to JSON values, and compare them with those of a server."""

import math

import numpy as np


def by_class(classes, numbers):
    """Return the numbers by class name, in the form of JSON object keys."""
    names = [{True: "true", False: "false"}.get(label, str(label)) if label in (True, False) and isinstance(label, bool)
             else str(label) for label in np.asarray(classes).tolist()]  # fmt: skip
    return dict(zip(names, numbers, strict=True))


def plain(answer):
    """Return an answer in the values of JSON: arrays as lists, and None for a number that is not finite."""
    if isinstance(answer, (list, np.ndarray)):
        return [plain(part) for part in answer]
    value = answer.item() if isinstance(answer, np.generic) else answer
    return None if isinstance(value, float) and not math.isfinite(value) else value


def differs(expected, actual, tolerance, scale):
    """Return whether two answers differ: numbers by more than the tolerance, relative to the number or to `scale`."""
    if isinstance(expected, float) and isinstance(actual, (int, float)) and not isinstance(actual, bool):
        return not math.isclose(expected, actual, rel_tol=tolerance, abs_tol=tolerance * scale)
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return any(differs(one, other, tolerance, scale) for one, other in zip(expected, actual, strict=True))
    if isinstance(expected, dict) and isinstance(actual, dict):
        same_keys = list(expected) == list(actual)
        return not same_keys or differs(list(expected.values()), list(actual.values()), tolerance, scale)
    return type(expected) is not type(actual) or expected != actual


def largest(answer):
    """Return the largest magnitude of the floats in an answer. Rounding errors are relative to it."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return max(map(largest, answer), default=0.0)
    return abs(answer) if isinstance(answer, float) else 0.0
