"""The one way in: a fitted estimator and a sample of its rows become a version, tried and, if asked, active."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.bundle import Facts, Manifest, Score, Task
from flaskml.errors import NotPublishable
from flaskml.golden import record
from flaskml.runtimes.sklearn import answering
from flaskml.schema import Layout, Schema, Table, conform, learn
from flaskml.settings import MODEL_NAME, Settings, load_settings
from flaskml.store import Store
from flaskml.trial import Limits, ensure_accepted

if TYPE_CHECKING:
    import pandas as pd


def publish(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    name: str = "default",
    activate: bool = True,
    instance_path: str | os.PathLike[str] | None = None,
) -> str:
    """Publishes a fitted estimator as the next version of a model, and returns the version.

    `X` is a sample of the rows that it was fitted on, a DataFrame or a 2-D array of shape (rows, features); the schema
    is learnt from it and some of its rows become golden rows. `y`, if given, are the targets of these rows, and the
    score on them is recorded. A child process has to load the version and answer the golden rows alike before it
    becomes active.
    Raises `NotPublishable`, `VersionRejected` or `StorageFailed`; what was served before still is.
    """
    config = {"INSTANCE_PATH": Path(instance_path)} if instance_path is not None else {}
    settings, _ = load_settings(config)
    store = open_store(settings)
    return publish_sample(store, settings, name, estimator, X, y, data="a sample", activate=activate).version


def open_store(settings: Settings) -> Store:
    """The store that the settings describe."""
    strict = settings.store_checks == "strict"
    return Store(settings.instance_path, key_file=settings.signing_key_file, strict=strict)


def trial_limits(settings: Settings) -> Limits:
    """What a trial may take, by the settings."""
    return Limits(seconds=settings.trial_timeout, memory=settings.trial_memory)


def publish_sample(
    store: Store,
    settings: Settings,
    name: str,
    estimator: Any,
    X: Any,
    y: Any,
    *,
    data: str,
    activate: bool,
) -> Manifest:
    """As `publish`, into a store that is open; `data` says where the sample came from."""
    if not re.fullmatch(MODEL_NAME, name, re.ASCII):
        raise NotPublishable(f'"{name[:100]}" is no name for a model; small letters, digits, ".", "_" and "-" are.')
    refuse_unportable(estimator)
    with _refusals_told():
        frame, schema = understand(estimator, X)
        original = frame if schema.layout == "frame" else frame.to_numpy()
        sample = Sample(conform(frame, schema), original)
        facts = Facts(
            task=task_of(estimator),
            estimator=name_of(estimator),
            data=data,
            rows=len(frame),
            score=_score(estimator, original, y),
            schema_=schema,
        )
    return publish_version(
        store, settings, name, estimator, facts, sample, reason=f"published with {data}", activate=activate
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of the training table: as requests will bring them, and as the estimator was given them."""

    table: Table
    original: Any


def publish_version(
    store: Store,
    settings: Settings,
    name: str,
    estimator: Any,
    facts: Facts,
    sample: Sample,
    *,
    reason: str,
    activate: bool = True,
) -> Manifest:
    """Stores the estimator as the next version, tries it, and makes it active if asked.

    `reason` is what the history of activations will say. Raises `StorageFailed`, or `VersionRejected`, with what was
    served before still active.
    """
    with _refusals_told():
        golden = record(sample.table, sample.original, answering(estimator))
    manifest = store.publish(name, estimator, facts, golden)
    ensure_accepted(store, name, manifest.version, trial_limits(settings))
    if activate:
        store.activate(name, manifest.version, reason, unless_newer=True)
    store.clean(name, settings.keep_versions)
    return manifest


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What the estimator or the schema says against a sample becomes a sentence."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # What it says may hold values of rows, and a job's detail is told to anybody.
        raised = type(error).__name__
        reason = "it is not fitted" if raised == "NotFittedError" else f"it raised {raised}"
        raise NotPublishable(f"The estimator does not answer the sample: {reason}.") from error


def understand(estimator: Any, X: Any) -> tuple[pd.DataFrame, Schema]:
    """The sample as a frame, and the schema of what the estimator takes.

    An estimator that knows column names was fitted on a frame and is given one; any other is given an array.
    """
    import pandas as pd

    if not isinstance(X, pd.DataFrame):
        array = np.asarray(X)
        if array.ndim != 2:
            raise NotPublishable("The sample must be a DataFrame or an array of shape (rows, features).")
        names = getattr(estimator, "feature_names_in_", [f"x{index}" for index in range(array.shape[1])])
        X = pd.DataFrame(array, columns=list(names)).infer_objects()
    if not len(X):
        raise NotPublishable("The sample has no row.")
    X = X.rename(columns=str)
    if not X.columns.is_unique:
        raise NotPublishable("The sample has two columns with the same name.")
    _check_width(estimator, X)
    schema = learn(X)
    numbers = schema.layout == "array"
    layout: Layout = "frame" if hasattr(estimator, "feature_names_in_") else "array" if numbers else "objects"
    return X, schema.model_copy(update={"layout": layout})


def _check_width(estimator: Any, frame: pd.DataFrame) -> None:
    names, width = getattr(estimator, "feature_names_in_", None), getattr(estimator, "n_features_in_", None)
    if names is not None and list(names) != list(frame.columns):
        raise NotPublishable(f"The estimator was fitted on the columns {', '.join(map(str, names))}, in this order.")
    if width is not None and width != frame.shape[1]:
        raise NotPublishable(f"The estimator was fitted on {width} features; the sample has {frame.shape[1]} columns.")


class _Scout(pickle.Pickler):
    """Walks all that would be pickled and refuses what no other process could unpickle."""

    def reducer_override(self, value: Any) -> Any:
        kind = value if isinstance(value, (type, FunctionType)) else type(value)
        if kind.__module__ == "__main__" or "<" in kind.__qualname__:
            place = "a notebook or script" if kind.__module__ == "__main__" else "a function"
            raise NotPublishable(
                f"{kind.__qualname__} is defined in {place}, where the server cannot import it from. Move it into a "
                "module that is installed or lies beside wsgi.py, import it from there, and fit again."
            )
        return NotImplemented


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes


def refuse_unportable(estimator: Any) -> None:
    """Raises `NotPublishable` for an estimator that only this process could load, or that answers nothing."""
    if isinstance(estimator, type):
        raise NotPublishable(f"{estimator.__name__} is a class; publish a fitted instance of it.")
    answering(estimator)
    try:
        _Scout(_Nowhere(), protocol=5).dump(estimator)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise NotPublishable(f"The estimator cannot be pickled: {error}.") from error


def task_of(estimator: Any) -> Task:
    """What kind of question the estimator answers, by its own word."""
    from sklearn import base

    if not hasattr(estimator, "predict"):
        return "transformation"
    checks: tuple[tuple[Task, Any], ...] = (
        ("classification", base.is_classifier),
        ("outliers", base.is_outlier_detector),
        ("clustering", base.is_clusterer),
    )
    try:
        return next((task for task, check in checks if check(estimator)), "regression")
    except (AttributeError, TypeError):  # It has scikit-learn's methods and not its tags.
        return "regression"


def name_of(estimator: Any) -> str:
    """The class of the estimator, of a pipeline's steps in order, for people."""
    steps = getattr(estimator, "steps", None)
    return " + ".join(type(step).__name__ for _, step in steps) if steps else type(estimator).__name__


def _score(estimator: Any, X: Any, y: Any) -> Score | None:
    """The estimator's own score on the sample, which it may have been fitted on."""
    if y is None or not hasattr(estimator, "score"):
        return None
    if len(y) != len(X):
        raise NotPublishable(f"The sample has {len(X)} rows and {len(y)} targets.")
    value = float(estimator.score(X, y))
    metric = {"classification": "accuracy", "regression": "r2"}.get(task_of(estimator), "score")
    return Score(metric=metric, value=value, rows=len(y), on="the sample") if math.isfinite(value) else None
