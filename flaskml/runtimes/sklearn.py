"""The scikit-learn runtime: calls the estimator itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from flaskml.codecs.answers import Answer, class_name
from flaskml.errors import NotPublishable
from flaskml.runtimes.thread_safety import is_thread_safe
from flaskml.schema.features import Layout, Schema, Table
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store.manifest import METHODS, LoadedVersion


class SklearnRuntime:
    """A runtime that calls the methods of a fitted estimator in the calling thread.

    An estimator that is not thread-safe is called by one thread at a time, whatever the method.
    """

    def __init__(self, estimator: Any, methods: Sequence[str], schema: Schema) -> None:
        """Look up the methods. Raises `NotPublishable` if the estimator lacks one."""
        if missing := [method for method in methods if not hasattr(estimator, method)]:
            name = type(estimator).__name__
            raise NotPublishable(
                f"{name} has no method {', '.join(missing)} here; install the libraries that it was fitted with."
            )
        self.table_builder = SchemaTableBuilder(schema)
        self.is_thread_safe = is_thread_safe(estimator)
        self._methods = {method: getattr(estimator, method) for method in methods}
        if not self.is_thread_safe:
            lock = threading.Lock()
            self._methods = {method: _call_under_lock(lock, call) for method, call in self._methods.items()}

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> SklearnRuntime:
        """Return the runtime of the version's estimator; sets `n_jobs` to 1 in it."""
        warm_up_sklearn(loaded.manifest.schema_.layout)
        set_single_threaded(loaded.estimator)
        if loaded.manifest.schema_.layout == "array":
            drop_feature_names(loaded.estimator)
        return cls(loaded.estimator, loaded.manifest.methods, loaded.manifest.schema_)

    def compute(self, table: Table, method: str) -> Answer:
        """Return the answer of the method: an array, or a list of arrays, one for each output."""
        with np.errstate(all="ignore"):  # To print a warning of numpy, Python opens the source file.
            return as_numpy(self._methods[method](table))


def _call_under_lock(lock: threading.Lock, call: Callable[[Table], Any]) -> Callable[[Table], Any]:
    """Return a function that acquires the lock for the duration of each call."""

    def locked_call(table: Table) -> Any:
        with lock:
            return call(table)

    return locked_call


def estimator_methods(estimator: Any) -> tuple[str, ...]:
    """Return the methods that the estimator has, the default method first.

    Raises `NotPublishable` for an estimator that neither predicts nor transforms.
    """
    methods = tuple(method for method in METHODS if hasattr(estimator, method))
    if not {"predict", "transform"} & set(methods):
        name = type(estimator).__name__
        raise NotPublishable(f"{name} neither predicts nor transforms new rows; publish an estimator that does.")
    return methods if "predict" in methods else ("transform", *(method for method in methods if method != "transform"))


def estimator_classes(estimator: Any) -> tuple[tuple[str, ...], ...]:
    """Return the class names of each output of a classifier, and an empty tuple for any other estimator."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or not len(classes):
        return ()
    outputs = classes if isinstance(classes, list) and np.ndim(classes[0]) == 1 else [classes]
    return tuple(tuple(class_name(label) for label in output) for output in outputs)


def as_numpy(answer: Any) -> Answer:
    """Return the answer as dense numpy arrays in double precision at most; it may be sparse or a frame."""
    if isinstance(answer, list) and answer and hasattr(answer[0], "shape"):
        return [np.asarray(part) for part in answer]
    array = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        return array.astype(np.float64)
    return array


def drop_feature_names(estimator: Any) -> None:
    """Remove the feature names of an estimator fitted on a frame: scikit-learn warns if it then gets an array."""
    for part in _nested_estimators(estimator, set()):
        vars(part).pop("feature_names_in_", None)


def warm_up_sklearn(layout: Layout) -> None:
    """Do the work that scikit-learn defers to the first call of any estimator; later calls then cost little.

    scikit-learn imports modules, searches for plug-ins, counts processor cores and lists the loaded libraries, all from
    files. The warm-up calls use toy data and one OpenMP thread, because a thread pool does not survive a fork.
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
            _warm_up_frame()


def _warm_up_frame() -> None:
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    frame = pd.DataFrame({"number": [0.0, np.nan], "string": pd.Series(["a", np.nan], dtype=object)})
    encode = make_column_transformer((SimpleImputer(), ["number"]), (OneHotEncoder(), ["string"]))
    encode.fit(frame).transform(frame)


def set_single_threaded(estimator: Any) -> None:
    """Set `n_jobs` to 1 in the estimator and in every estimator inside it.

    A parallel predict costs milliseconds and opens files. `set_params` is not enough: a fitted pipeline or forest holds
    copies of its estimators in attributes that `set_params` does not reach.
    """
    for part in _nested_estimators(estimator, set()):
        if getattr(part, "n_jobs", 1) != 1:
            part.n_jobs = 1


@contextmanager
def single_threaded(estimator: Any) -> Iterator[None]:
    """Set `n_jobs` to 1 in the caller's estimator, as when it is served, and restore the values on exit."""
    before = [(part, part.n_jobs) for part in _nested_estimators(estimator, set()) if hasattr(part, "n_jobs")]
    set_single_threaded(estimator)
    try:
        yield
    finally:
        for part, jobs in before:
            part.n_jobs = jobs


def _nested_estimators(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield every estimator in an estimator (itself included), list, tuple, dict or object array, each once."""
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
            yield from _nested_estimators(item, seen)
