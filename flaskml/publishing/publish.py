"""Publish a fitted estimator: inspect it with a sample, store it as a version, run its trial, make it active."""

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
    """Publish a fitted estimator as the next version of a model and return the version.

    `X` is a sample of the rows that the estimator was fitted on, a DataFrame or an array of shape (rows, features). The
    schema is learnt from it, and some of its rows become golden rows. `y` is the targets of these rows, if given; the
    score on them is recorded. Before the version becomes active, a child process loads it and replays the golden rows.
    `schema` corrects the learnt schema: any part of the output of `flask models show --schema`. `runtime` is `sklearn`
    or `onnx`; the default is the fastest that gives the estimator's answers.
    Raises `NotPublishable`, `InvalidSchema`, `InvalidName`, `VersionRejected` or `StorageFailed`; the version that was
    active before stays active.
    """
    config = {"INSTANCE_PATH": Path(instance_path)} if instance_path is not None else {}
    settings, _ = load_settings(config)
    store = open_store(settings)
    return publish_sample(
        store, settings, name, estimator, X, y, data="a sample", activate=activate, corrections=schema, runtime=runtime
    ).version


def open_store(settings: Settings) -> ModelStore:
    """Return the store that the settings describe."""
    strict = settings.store_checks == "strict"
    return ModelStore(settings.instance_path, key_file=settings.signing_key_file, strict=strict)


def trial_limits(settings: Settings) -> TrialLimits:
    """Return the limits of a trial from the settings."""
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
    """Publish as `publish` does, into an open store, and return the manifest.

    `data` names the source of the sample, for the manifest. `corrections` is the parameter `schema` of `publish`.
    """
    check_portable(estimator)
    with _errors_as_not_publishable():
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
    """Store the estimator as the next version, run its trial and, with `activate`, make it active.

    `table` holds rows in the form that the estimator takes; a few dozen become golden rows. `reason` is recorded in the
    history of activations. Raises `NotPublishable`, `StorageFailed` or `VersionRejected`; the version that was active
    before stays active.
    """
    with _errors_as_not_publishable():
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
    """Return the facts completed by calls of the estimator, and the golden rows.

    The calls give the methods, the classes, and the limits of the schema. Raises `NotPublishable` if the schema does
    not accept the golden rows.
    """
    check_round_trip(facts.schema_, table)
    rows = sample_rows(table)
    _check_one_answer_per_row(estimator, rows)
    methods = working_methods(estimator, rows)
    schema = with_unknown_categories_probed(facts.schema_, estimator, rows, methods)
    schema = with_magnitude_probed(schema, estimator, rows, methods[0])
    golden = record_golden_rows(schema, rows, lambda part: call_method(estimator, part, methods[0]))
    try:
        RangeWarnings(schema).find(Parser(schema, max_rows=len(golden.rows)).parse_table(golden.rows))
    except InvalidInput as error:
        # The problem's detail is left out: it holds a value, and the detail of a training job is public.
        name = error.problems[0].feature
        raise NotPublishable(
            f'The schema does not accept the values of "{name}" in the sample; correct its range or kind in the schema.'
        ) from error
    completed = {"schema_": schema, "methods": methods, "classes": estimator_classes(estimator)}
    return facts.model_copy(update=completed), golden


def _check_one_answer_per_row(estimator: Any, table: Table) -> None:
    """Raise `NotPublishable` if the number of answers does not follow the number of rows.

    The table is passed with its rows repeated, because a fixed number of answers may match the table by accident.
    """
    import pandas as pd

    repeated = pd.concat([table, table]) if isinstance(table, pd.DataFrame) else np.concatenate([table, table])
    call_method(estimator, repeated, estimator_methods(estimator)[0])


@contextmanager
def _errors_as_not_publishable() -> Iterator[None]:
    """Convert any exception that the estimator raises in the block to `NotPublishable`."""
    try:
        yield
    except (FlaskmlError, MemoryError):
        raise
    except Exception as error:  # An estimator may raise anything.
        # The message of the error is left out: it may hold values of rows, and the detail of a training job is public.
        raised = type(error).__name__
        reason = "it is not fitted; fit it first" if raised == "NotFittedError" else f"it raised {raised}"
        raise NotPublishable(f"The estimator does not answer the sample: {reason}.") from error


class _PortabilityPickler(pickle.Pickler):
    """A pickler that raises `NotPublishable` at a class or function that no other process could import."""

    def reducer_override(self, value: Any) -> Any:
        definition = value if isinstance(value, (type, FunctionType)) else type(value)
        if definition.__module__ == "__main__" or "<" in definition.__qualname__:
            source = "a notebook or script" if definition.__module__ == "__main__" else "a function"
            raise NotPublishable(
                f"{definition.__qualname__} is defined in {source}, so the server cannot import it. Move it into a "
                "module that is installed or lies beside wsgi.py, import it from there, and fit again."
            )
        return NotImplemented


class _DiscardingFile:
    """A file that discards its content."""

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes


def check_portable(estimator: Any) -> None:
    """Raise `NotPublishable` for an estimator that another process could not load, or that has no method to serve."""
    if isinstance(estimator, type):
        raise NotPublishable(f"{estimator.__name__} is a class; publish a fitted instance of it.")
    estimator_methods(estimator)
    if isinstance(estimator, ImportedGraph):
        return
    try:
        _PortabilityPickler(_DiscardingFile(), protocol=5).dump(estimator)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise NotPublishable(
            f"The estimator cannot be pickled: {error}. Remove the attribute that holds such an object."
        ) from error


def estimator_task(estimator: Any) -> Task:
    """Return the task of the estimator, by its type and its scikit-learn tags; "regression" if it has none."""
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
    except (AttributeError, TypeError):  # It has scikit-learn's methods without its tags.
        return "regression"


def _is_clusterer(estimator: Any) -> bool:
    """Return whether the estimator is a clusterer, for scikit-learn before 1.6, which has no function for it."""
    return getattr(estimator, "_estimator_type", None) == "clusterer"


def estimator_name(estimator: Any) -> str:
    """Return the class name of the estimator; for a pipeline, the class names of its steps joined by " + "."""
    if isinstance(estimator, ImportedGraph):
        return "ONNX graph"
    steps = getattr(estimator, "steps", None)
    return " + ".join(type(step).__name__ for _, step in steps) if steps else type(estimator).__name__


def _score(estimator: Any, X: Any, y: Any) -> Score | None:
    """Return the estimator's own score on the sample, on which it may have been fitted; None without one."""
    if y is None or not hasattr(estimator, "score"):
        return None
    target_count = y.shape[0] if hasattr(y, "shape") else len(y)
    if target_count != len(X):
        raise NotPublishable(f"The sample has {len(X)} rows and {target_count} targets; give one target per row.")
    with warnings.catch_warnings(action="ignore"):
        value = float(estimator.score(X, y))
    metric = {"classification": "accuracy", "regression": "r2"}.get(estimator_task(estimator), "score")
    return Score(metric=metric, value=value, rows=target_count, on="the sample") if math.isfinite(value) else None
