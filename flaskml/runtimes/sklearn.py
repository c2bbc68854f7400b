"""The scikit-learn runtime: calls the estimator itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flaskml.bundle import Bundle
from flaskml.schema import Table


class SklearnRuntime:
    """Calls a fitted estimator in the thread that asks."""

    def __init__(self, estimator: Any) -> None:
        self._predict = estimator.predict

    def predict(self, table: Table) -> np.ndarray:
        """The predictions for at least one row: shape (rows,), or (rows, outputs)."""
        return np.asarray(self._predict(table))


def open_runtime(bundle: Bundle) -> SklearnRuntime:
    """The runtime of the bundle's estimator, which from now on computes in one thread."""
    run_in_one_thread(bundle.estimator)
    return SklearnRuntime(bundle.estimator)


def run_in_one_thread(estimator: Any) -> None:
    """Sets `n_jobs` to 1 in the estimator and every estimator inside it.

    A parallel predict costs milliseconds and opens files. Parameters alone are not enough: what a pipeline or a forest
    was fitted with are copies, held in attributes that `set_params` does not reach.
    """
    for part in _parts(estimator, set()):
        if getattr(part, "n_jobs", 1) != 1:
            part.n_jobs = 1


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every estimator in an estimator, a list, a tuple, a dict or an object array, itself included, once each."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(value, "get_params") and not isinstance(value, type):
        yield value
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        for item in value:
            yield from _parts(item, seen)
