"""The scikit-learn runtime: calls the estimator itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from flaskml.bundle import Bundle
from flaskml.errors import NotPublishable
from flaskml.schema import Layout, Table


class SklearnRuntime:
    """Calls a fitted estimator in the thread that asks."""

    def __init__(self, estimator: Any) -> None:
        self.predict: Callable[[Table], np.ndarray] = answering(estimator)


def answering(estimator: Any) -> Callable[[Any], np.ndarray]:
    """What answers a table with an array: `predict`, or `transform` of an estimator that only transforms.

    Raises `NotPublishable` for one that does neither.
    """
    if hasattr(estimator, "predict"):
        return lambda table: np.asarray(estimator.predict(table))
    if hasattr(estimator, "transform"):
        return lambda table: _dense(estimator.transform(table))
    name = type(estimator).__name__
    raise NotPublishable(f"{name} neither predicts nor transforms new rows; publish one that does.")


def _dense(answer: Any) -> np.ndarray:
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)


def open_runtime(bundle: Bundle) -> SklearnRuntime:
    """The runtime of the bundle's estimator, which from now on computes in one thread."""
    rehearse(bundle.manifest.schema_.layout)
    run_in_one_thread(bundle.estimator)
    return SklearnRuntime(bundle.estimator)


def rehearse(layout: Layout) -> None:
    """Has scikit-learn do what it puts off to the first call of any estimator, so that a second time costs little.

    It imports modules, looks for plug-ins, counts processor cores and lists the loaded libraries, all from files. The
    calls are on toy data and with one OpenMP thread, for a pool of them would not survive a fork.
    """
    from joblib import cpu_count
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    row = np.zeros((2, 1))
    with threadpool_limits(limits=1, user_api="openmp"):
        cpu_count(only_physical_cores=True)
        pairwise_distances_argmin(row, row)
        LinearRegression().fit(row, row).predict(row)
        if layout == "frame":
            _rehearse_frame()


def _rehearse_frame() -> None:
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"number": [0.0, np.nan], "string": pd.Series(["a", np.nan], dtype=object)})
    encode = make_column_transformer((SimpleImputer(), ["number"]), (OneHotEncoder(), ["string"]))
    encode.fit(frame).transform(frame)


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
