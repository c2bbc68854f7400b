"""One training run: a specification in, a stored and active version out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flaskml.errors import InvalidTraining
from flaskml.publishing.publish import estimator_name, open_store, publish_version
from flaskml.schema.features import Table
from flaskml.settings import MODEL_NAME_PATTERN, Settings
from flaskml.store.manifest import Manifest, RuntimeName, Score, Task, VersionFacts
from flaskml.training.columns import as_fitted
from flaskml.training.datasets import BUILT_IN, Dataset, built_in, read_csv_dataset
from flaskml.training.estimators import build, infer_task

HELD_OUT = 0.2
"""Share of the rows that the score is measured on."""

FEWEST_ROWS = 10
"""Rows below which a held-out score says nothing."""


def _known(name: str) -> str:
    if name not in BUILT_IN:
        raise ValueError(f"there is no such built-in data set; there are {', '.join(BUILT_IN)}")
    return name


class TrainingSpec(BaseModel):
    """What to train. The same for `flask train` and `POST /train`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    data: Annotated[str, AfterValidator(_known)] | None = "regression"
    """A built-in data set; None where a file is given beside the specification."""

    target: Annotated[str, Field(max_length=1_000)] | None = None
    """The column of the file to predict."""

    name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")] = "default"
    """The model that the version belongs to."""

    task: Task | None = None
    """What to predict, a class or a quantity; None reads it off the target."""

    corrections: Annotated[Mapping[str, Any] | None, Field(alias="schema")] = None
    """What to take instead of the learnt schema: any part of one, features by name."""

    runtime: RuntimeName | None = None
    """What is to compute; None takes the fastest that answers as the estimator does."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the split and of the estimator."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a run is: what it does now, and which share of the stages lies behind it."""

    name: str
    fraction: float


StageReport: TypeAlias = Callable[[Stage], None]

STAGES = ("reading", "fitting for the score", "scoring", "fitting on all rows", "storing and trying")


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """The CSV file to train on, and what it is called; no file for a built-in data set."""

    file: Path | None = None
    name: str = ""


BUILT_IN_SOURCE = TrainingSource()


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator fitted on all rows, what is known of it, and the table that it was fitted on."""

    estimator: Any
    facts: VersionFacts
    table: Table
    task_rule: str
    dropped_rows: int
    dropped_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What a run did, for people."""

    manifest: Manifest
    active: str | None
    """The active version: a newer one, if somebody else has published it in the meantime."""

    fitted: Fitted


def run_training(
    spec: TrainingSpec, settings: Settings, report: StageReport, source: TrainingSource = BUILT_IN_SOURCE
) -> Training:
    """Fits as `fit` does, stores the version, tries it and makes it active.

    Raises `InvalidTraining` for data that no model can be fitted to, `StorageFailed` if the disk refuses it, and
    `VersionRejected` if the trial does.
    """
    fitted = fit(spec, report, source)
    report(Stage(STAGES[-1], 1 - 1 / len(STAGES)))
    reason = f"trained on {fitted.facts.data}"
    store = open_store(settings)
    manifest = publish_version(
        store,
        settings,
        spec.name,
        fitted.estimator,
        fitted.facts,
        fitted.table,
        reason=reason,
        runtime=spec.runtime,
    )
    return Training(manifest, store.state(spec.name).active, fitted)


def fit(spec: TrainingSpec, report: StageReport, source: TrainingSource = BUILT_IN_SOURCE) -> Fitted:
    """Reads the data, measures a held-out score, and fits on all rows. Raises `InvalidTraining`."""
    stages = _Stages(report)
    with stages.next():
        dataset = _read(spec, source)
        task, rule = infer_task(dataset.target)
        run = _Run(spec.task or task, dataset, spec.seed, spec.corrections or {})
    with stages.next():
        run.fit_part()
    with stages.next():
        score = run.score()
    with stages.next():
        estimator = run.fit_all()
    rule = rule if spec.task is None else "as asked for"
    facts = _facts(spec, dataset, run, score, estimator)
    return Fitted(estimator, facts, run.table, rule, dataset.dropped_rows, dataset.dropped_columns)


def _read(spec: TrainingSpec, source: TrainingSource) -> Dataset:
    if source.file is not None:
        return read_csv_dataset(source.file, source.name, spec.target)
    if spec.data is None:
        raise InvalidTraining(f"There is nothing to train on: give a CSV file or one of {', '.join(BUILT_IN)}.")
    if spec.target not in (None, "target"):
        raise InvalidTraining(f'The built-in data set {spec.data} has its own target; leave "{spec.target}" away.')
    return built_in(spec.data)


class _Stages:
    """Tells where a run is, stage after stage."""

    def __init__(self, report: StageReport) -> None:
        self._report = report
        self._done = 0

    @contextmanager
    def next(self) -> Iterator[None]:
        self._report(Stage(STAGES[self._done], self._done / len(STAGES)))
        yield
        self._done += 1


class _Run:
    """The table of one run, its split and its estimators."""

    def __init__(self, task: Task, dataset: Dataset, seed: int, corrections: Mapping[str, Any]) -> None:
        self.task = task
        self.seed = seed
        self.schema, self.table = as_fitted(dataset.features, corrections)
        self.target = _target(dataset, task)
        if len(self.target) < FEWEST_ROWS:
            raise InvalidTraining(
                f"{dataset.name} has {len(self.target)} rows with a target; {FEWEST_ROWS} are needed."
            )
        self._fitted, self._held_out = self._split()
        self._scored: Any = None

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to fit and to score on; every class is in both where it has rows enough."""
        from sklearn.model_selection import train_test_split

        rows = np.arange(len(self.target))
        held_out = max(2, round(len(rows) * HELD_OUT))
        classes = self._classes_to_balance(held_out)
        fitted, scored = train_test_split(rows, test_size=held_out, random_state=self.seed, stratify=classes)
        return fitted, scored

    def _classes_to_balance(self, held_out: int) -> np.ndarray | None:
        if self.task == "regression":
            return None
        classes, counts = np.unique(self.target, return_counts=True)
        return self.target if counts.min() >= 2 and len(classes) <= held_out else None

    def fit_part(self) -> None:
        """Fits for the score, unless a rare class left the rows to fit on with one class only."""
        if self.task == "regression" or len(np.unique(self.target[self._fitted])) > 1:
            self._scored = self._fit(self._fitted)

    def fit_all(self) -> Any:
        return self._fit(np.arange(len(self.target)))

    def score(self) -> Score | None:
        """Accuracy or R², on rows that the estimator has not seen."""
        if self._scored is None:
            return None
        value = float(self._scored.score(_take(self.table, self._held_out), self.target[self._held_out]))
        metric = "accuracy" if self.task == "classification" else "r2"
        return Score(metric=metric, value=value, rows=len(self._held_out))

    def _fit(self, rows: np.ndarray) -> Any:
        estimator = build(self.task, self.schema, len(self.target), self.seed)
        try:
            return estimator.fit(_take(self.table, rows), self.target[rows])
        except ValueError as error:
            raise InvalidTraining(f"The estimator refused the table: {str(error).splitlines()[0][:300]}") from error


def _target(dataset: Dataset, task: Task) -> np.ndarray:
    """The target as an array: numbers for a quantity, labels as they came for classes."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    target = dataset.target
    if task == "regression":
        if not is_numeric_dtype(target) or is_bool_dtype(target):
            raise InvalidTraining(f'The target "{target.name}" is not a number; train it as a classification.')
        return target.to_numpy(dtype=np.float64)
    if target.nunique() < 2:
        raise InvalidTraining(f'The target "{target.name}" has one value only; there is nothing to tell apart.')
    if is_numeric_dtype(target) or is_bool_dtype(target):
        whole = not is_bool_dtype(target) and bool((target % 1 == 0).all()) and abs(target).max() < 2**53
        return target.to_numpy(dtype=np.int64) if whole else target.to_numpy()
    return target.map(str).to_numpy(dtype=np.str_)


def _take(table: Table, rows: np.ndarray) -> Table:
    return table[rows] if isinstance(table, np.ndarray) else table.iloc[rows]


def _facts(spec: TrainingSpec, dataset: Dataset, run: _Run, score: Score | None, estimator: Any) -> VersionFacts:
    return VersionFacts(
        task=run.task,
        target=str(dataset.target.name),
        estimator=estimator_name(estimator),
        data=dataset.name,
        rows=len(run.target),
        seed=spec.seed,
        score=score,
        schema_=run.schema,
    )
