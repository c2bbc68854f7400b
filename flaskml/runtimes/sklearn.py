"""The scikit-learn runtime: calls the estimator itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from flaskml.codecs.answers import Answer, class_name
from flaskml.errors import NotPublishable
from flaskml.schema.features import Layout, Schema, Table
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store.manifest import METHODS, LoadedVersion


class SklearnRuntime:
    """Calls a fitted estimator in the thread that asks."""

    def __init__(self, estimator: Any, methods: Sequence[str], schema: Schema) -> None:
        if missing := [method for method in methods if not hasattr(estimator, method)]:
            raise NotPublishable(f"{type(estimator).__name__} has no {', '.join(missing)} here.")
        self.table_builder = SchemaTableBuilder(schema)
        self._methods = {method: getattr(estimator, method) for method in methods}

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> SklearnRuntime:
        """Return the runtime of the version's estimator, which from now on computes in one thread."""
        warm_up_sklearn(loaded.manifest.schema_.layout)
        set_single_threaded(loaded.estimator)
        if loaded.manifest.schema_.layout == "array":
            drop_feature_names(loaded.estimator)
        return cls(loaded.estimator, loaded.manifest.methods, loaded.manifest.schema_)

    def compute(self, table: Table, method: str) -> Answer:
        """What the method answers: an array, or a list of arrays, one for each output."""
        with np.errstate(all="ignore"):  # What numpy warns of is printed with its line, from a file that is opened.
            return as_numpy(self._methods[method](table))


def estimator_methods(estimator: Any) -> tuple[str, ...]:
    """The methods that the estimator has, the one that answers when none is named first.

    Raises `NotPublishable` for one that neither predicts nor transforms.
    """
    methods = tuple(method for method in METHODS if hasattr(estimator, method))
    if not {"predict", "transform"} & set(methods):
        name = type(estimator).__name__
        raise NotPublishable(f"{name} neither predicts nor transforms new rows; publish one that does.")
    return methods if "predict" in methods else ("transform", *(method for method in methods if method != "transform"))


def estimator_classes(estimator: Any) -> tuple[tuple[str, ...], ...]:
    """The names of the classes that the estimator tells apart, output by output; none where it tells none apart."""
    classes = getattr(estimator, "classes_", None)
    if classes is None or not len(classes):
        return ()
    outputs = classes if isinstance(classes, list) and np.ndim(classes[0]) == 1 else [classes]
    return tuple(tuple(class_name(label) for label in output) for output in outputs)


def as_numpy(answer: Any) -> Answer:
    """Arrays of numpy's own, from sparse ones and frames too."""
    if isinstance(answer, list) and answer and hasattr(answer[0], "shape"):
        return [np.asarray(part) for part in answer]
    found = np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
    if found.dtype.kind == "f" and found.dtype.itemsize > np.dtype(np.float64).itemsize:
        return found.astype(np.float64)
    return found


def drop_feature_names(estimator: Any) -> None:
    """Has an estimator that was fitted on a frame and takes an array no longer warn that the array has no names."""
    for part in _parts(estimator, set()):
        vars(part).pop("feature_names_in_", None)


def warm_up_sklearn(layout: Layout) -> None:
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


def set_single_threaded(estimator: Any) -> None:
    """Sets `n_jobs` to 1 in the estimator and every estimator inside it.

    A parallel predict costs milliseconds and opens files. Parameters alone are not enough: what a pipeline or a forest
    was fitted with are copies, held in attributes that `set_params` does not reach.
    """
    for part in _parts(estimator, set()):
        if getattr(part, "n_jobs", 1) != 1:
            part.n_jobs = 1


@contextmanager
def single_threaded(estimator: Any) -> Iterator[None]:
    """Lets somebody else's estimator compute as it will be served, and leaves it as it was."""
    before = [(part, part.n_jobs) for part in _parts(estimator, set()) if hasattr(part, "n_jobs")]
    set_single_threaded(estimator)
    try:
        yield
    finally:
        for part, jobs in before:
            part.n_jobs = jobs


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
