"""The one way in: a fitted estimator and a sample of its rows become a version, tried and, if asked, active."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from flaskml.codecs.parser import Parser
from flaskml.codecs.range_warnings import RangeWarnings
from flaskml.errors import FlaskmlError, InvalidInput, NotPublishable
from flaskml.publishing.inspection import (
    call_method,
    check_round_trip,
    inspect_sample,
    with_magnitude_probed,
    with_unknown_categories_probed,
    working_methods,
)
from flaskml.publishing.trial import TrialLimits, activate_version, ensure_accepted
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.runtimes.selection import choose_runtime
from flaskml.runtimes.sklearn import estimator_classes, estimator_methods
from flaskml.schema.features import Table
from flaskml.settings import Settings, load_settings
from flaskml.store.golden_rows import GoldenRows, record_golden_rows, sample_rows
from flaskml.store.manifest import Manifest, RuntimeName, Score, Task, VersionFacts
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents


def publish(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    name: str = "default",
    activate: bool = True,
    instance_path: str | os.PathLike[str] | None = None,
    schema: Mapping[str, Any] | None = None,
    runtime: RuntimeName | None = None,
) -> str:
    """Publishes a fitted estimator as the next version of a model, and returns the version.

    `X` is a sample of the rows that it was fitted on, a DataFrame or a 2-D array of shape (rows, features); the schema
    is learnt from it and some of its rows become golden rows. `y`, if given, are the targets of these rows, and the
    score on them is recorded. A child process has to load the version and answer the golden rows alike before it
    becomes active. `schema` corrects what was learnt: any part of what `flask models show --schema` prints. `runtime`
    says what is to compute (`sklearn` or `onnx`); left away, the fastest is taken of those that
    answer as the estimator does.
    Raises `NotPublishable`, `InvalidName`, `VersionRejected` or `StorageFailed`; what was served before still is.
    """
    config = {"INSTANCE_PATH": Path(instance_path)} if instance_path is not None else {}
    settings, _ = load_settings(config)
    store = open_store(settings)
    return publish_sample(
        store, settings, name, estimator, X, y, data="a sample", activate=activate, corrections=schema, runtime=runtime
    ).version


def open_store(settings: Settings) -> ModelStore:
    """The store that the settings describe."""
    strict = settings.store_checks == "strict"
    return ModelStore(settings.instance_path, key_file=settings.signing_key_file, strict=strict)


def trial_limits(settings: Settings) -> TrialLimits:
    """What a trial may take, by the settings."""
    return TrialLimits(seconds=settings.trial_timeout, memory=settings.trial_memory)


def publish_sample(
    store: ModelStore,
    settings: Settings,
    name: str,
    estimator: Any,
    X: Any,
    y: Any,
    *,
    data: str,
    activate: bool,
    corrections: Mapping[str, Any] | None = None,
    runtime: RuntimeName | None = None,
) -> Manifest:
    """As `publish`, into a store that is open; `data` says where the sample came from."""
    check_portable(estimator)
    with _refusals_told():
        sample = inspect_sample(estimator, X, corrections)
        facts = VersionFacts(
            task=estimator_task(estimator),
            estimator=estimator_name(estimator),
            data=data,
            rows=len(sample.table),
            score=_score(estimator, sample.table, y),
            schema_=sample.schema,
        )
    reason = f"published with {data}"
    return publish_version(
        store, settings, name, estimator, facts, sample.table, reason=reason, activate=activate, runtime=runtime
    )


def publish_version(
    store: ModelStore,
    settings: Settings,
    name: str,
    estimator: Any,
    facts: VersionFacts,
    table: Table,
    *,
    reason: str,
    activate: bool = True,
    runtime: RuntimeName | None = None,
) -> Manifest:
    """Stores the estimator as the next version, tries it, and makes it active if asked.

    `table` are rows as the estimator takes them; a few dozen become golden rows. `reason` is what the history of
    activations will say. Raises `NotPublishable`, `StorageFailed` or `VersionRejected`, with what was served before
    still active.
    """
    with _refusals_told():
        facts, golden = complete_facts(facts, estimator, table)
        choice = choose_runtime(estimator, facts, table, runtime)
    contents = VersionContents(None if isinstance(estimator, ImportedGraph) else estimator, golden, choice.graphs)
    manifest = store.publish(name, choice.complete(facts), contents)
    if activate:
        activate_version(store, name, manifest.version, reason, trial_limits(settings), unless_newer=True)
    else:
        ensure_accepted(store, name, manifest.version, trial_limits(settings))
    store.clean(name, settings.keep_versions)
    return manifest


def complete_facts(facts: VersionFacts, estimator: Any, table: Table) -> tuple[VersionFacts, GoldenRows]:
    """The facts with what only trying can tell, and the golden rows, which have to be rows that the schema takes."""
    check_round_trip(facts.schema_, table)
    some = sample_rows(table)
    _check_count(estimator, some)
    methods = working_methods(estimator, some)
    schema = with_unknown_categories_probed(facts.schema_, estimator, some, methods)
    schema = with_magnitude_probed(schema, estimator, some, methods[0])
    golden = record_golden_rows(schema, some, lambda rows: call_method(estimator, rows, methods[0]))
    try:
        RangeWarnings(schema).find(Parser(schema, max_rows=len(golden.rows)).parse_table(golden.rows))
    except InvalidInput as error:
        name = error.problems[
            0
        ].feature  # The rest of what is said holds a value, and a job's detail is told to anybody.
        raise NotPublishable(f'The schema does not take the values that the sample has of "{name}".') from error
    known = {"schema_": schema, "methods": methods, "classes": estimator_classes(estimator)}
    return facts.model_copy(update=known), golden


def _check_count(estimator: Any, table: Table) -> None:
    """Raises `NotPublishable` for an estimator whose answers are not one for each row, even if they seem so once."""
    import pandas as pd

    twice = pd.concat([table, table]) if isinstance(table, pd.DataFrame) else np.concatenate([table, table])
    call_method(estimator, twice, estimator_methods(estimator)[0])


@contextmanager
def _refusals_told() -> Iterator[None]:
    """What the estimator or the schema says against a sample becomes a sentence."""
    try:
        yield
    except (FlaskmlError, MemoryError):
        raise
    except Exception as error:  # A foreign estimator may raise anything.
        # What it says may hold values of rows, and a job's detail is told to anybody.
        raised = type(error).__name__
        reason = "it is not fitted" if raised == "NotFittedError" else f"it raised {raised}"
        raise NotPublishable(f"The estimator does not answer the sample: {reason}.") from error


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


def check_portable(estimator: Any) -> None:
    """Raises `NotPublishable` for an estimator that only this process could load, or that answers nothing."""
    if isinstance(estimator, type):
        raise NotPublishable(f"{estimator.__name__} is a class; publish a fitted instance of it.")
    estimator_methods(estimator)
    if isinstance(estimator, ImportedGraph):
        return
    try:
        _Scout(_Nowhere(), protocol=5).dump(estimator)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise NotPublishable(f"The estimator cannot be pickled: {error}.") from error


def estimator_task(estimator: Any) -> Task:
    """What kind of question the estimator answers, by its own word."""
    from sklearn import base

    if isinstance(estimator, ImportedGraph):
        return estimator.task
    if not hasattr(estimator, "predict"):
        return "transformation"
    checks: tuple[tuple[Task, Any], ...] = (
        ("classification", base.is_classifier),
        ("outliers", base.is_outlier_detector),
        ("clustering", getattr(base, "is_clusterer", _is_clusterer)),
    )
    try:
        return next((task for task, check in checks if check(estimator)), "regression")
    except (AttributeError, TypeError):  # It has scikit-learn's methods and not its tags.
        return "regression"


def _is_clusterer(estimator: Any) -> bool:
    """What scikit-learn has a function for from 1.6 on."""
    return getattr(estimator, "_estimator_type", None) == "clusterer"


def estimator_name(estimator: Any) -> str:
    """The class of the estimator, of a pipeline's steps in order, for people."""
    if isinstance(estimator, ImportedGraph):
        return "ONNX graph"
    steps = getattr(estimator, "steps", None)
    return " + ".join(type(step).__name__ for _, step in steps) if steps else type(estimator).__name__


def _score(estimator: Any, X: Any, y: Any) -> Score | None:
    """The estimator's own score on the sample, which it may have been fitted on."""
    if y is None or not hasattr(estimator, "score"):
        return None
    targets = y.shape[0] if hasattr(y, "shape") else len(y)
    if targets != len(X):
        raise NotPublishable(f"The sample has {len(X)} rows and {targets} targets.")
    with warnings.catch_warnings(action="ignore"):
        value = float(estimator.score(X, y))
    metric = {"classification": "accuracy", "regression": "r2"}.get(estimator_task(estimator), "score")
    return Score(metric=metric, value=value, rows=targets, on="the sample") if math.isfinite(value) else None
