"""The runtimes that could serve a version: which of them answer as the estimator does, and what each takes.

Which one is fastest is measured, not believed: a graph answers a forest's row in a thousandth of the time, and a
neighbour search in twenty times as much. Only what is true may be chosen.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, get_args

import numpy as np

from flaskml.answers import Answer
from flaskml.bundle import Facts, Measurement, RuntimeName
from flaskml.comparisons import extreme_rows, is_same, rows_at_changes, scale
from flaskml.errors import MissingExtra, NotPublishable
from flaskml.golden import ABSOLUTE, some_rows
from flaskml.runtimes import sklearn
from flaskml.runtimes.foreign import ForeignGraph
from flaskml.runtimes.onnx import GRAPH_FILE, OnnxRuntime, open_session
from flaskml.schema import Table

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

COMPARED = 4_000
"""Rows of the sample on which answers are compared."""

ALONE = 32
"""Rows that are asked for one by one too."""

MANY = 32
"""Rows of the larger of the two batches that are timed."""

CALLS = 60
"""Calls that are timed at most."""

SECONDS = 0.25
"""Seconds that timing one batch may take."""

GAIN = 0.9
"""The share of the estimator's own time that another runtime may take at most to be worth it."""

GRAPH_LIMIT = 64 * 2**20
"""Bytes that all graphs of a version may have together; a graph is parsed at each start, and is shared by nobody."""


Compute: TypeAlias = Callable[[Any, str], Answer]


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime with what it needs, and what was found of all."""

    runtime: RuntimeName
    measurements: tuple[Measurement, ...]
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The methods that each graph answers."""

    def complete(self, facts: Facts) -> Facts:
        """The facts with the choice among them."""
        found = {"runtime": self.runtime, "graphs": self.methods, "measurements": self.measurements}
        return facts.model_copy(update=found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime that could be chosen."""

    runtime: RuntimeName
    compute: Compute
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose(estimator: Any, facts: Facts, table: Table, wanted: RuntimeName | None = None) -> Choice:
    """The fastest runtime that answers as the estimator does, or the `wanted` one if it does.

    `table` are rows as the estimator takes them. Raises `NotPublishable` or `MissingExtra` if the wanted one cannot be.
    """
    from threadpoolctl import threadpool_limits

    if isinstance(estimator, ForeignGraph):
        return _graph_alone(estimator, table, wanted)
    if wanted is not None and wanted not in RUNTIMES:
        raise NotPublishable(f'There is no runtime "{wanted}"; there are {", ".join(RUNTIMES)}.')
    with sklearn.in_one_thread(estimator), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        trial = _Trial(estimator, facts, table)
        own = trial.of_estimator("sklearn")
        measurements = {own.runtime: trial.measured(own, "the estimator itself")}
        candidates: dict[RuntimeName, Candidate] = {own.runtime: own}
        for runtime in RUNTIMES:
            if runtime != own.runtime and wanted in (None, runtime):
                trial.consider(runtime, candidates, measurements)
    found = tuple(measurements.values())
    chosen = candidates[_fastest(found) if wanted is None else _demanded(wanted, measurements)]
    return Choice(chosen.runtime, found, chosen.graphs, chosen.methods)


def _graph_alone(graph: ForeignGraph, table: Table, wanted: RuntimeName | None) -> Choice:
    """The one choice that there is for a graph without an estimator."""
    if wanted not in (None, "onnx"):
        raise NotPublishable(f"A graph is computed by the runtime onnx, not by {wanted}.")
    one, many = (timed(partial(graph.predict, _repeated(table, count))) for count in (1, MANY))
    found = Measurement(runtime="onnx", note="the graph itself", is_true=True, one_row=one, many_rows=many)
    return Choice("onnx", (found,), {GRAPH_FILE: graph.content}, {GRAPH_FILE: graph.methods})


def _fastest(measurements: Sequence[Measurement]) -> RuntimeName:
    """The true one with the least time, one row and many taken alike, if it is worth leaving the estimator for."""
    times = {m.runtime: m.one_row * m.many_rows for m in measurements if m.is_true and m.one_row and m.many_rows}
    best = min(times, key=lambda name: times[name])
    return best if times[best] <= GAIN**2 * times["sklearn"] else "sklearn"


def _demanded(runtime: RuntimeName, measurements: Mapping[RuntimeName, Measurement]) -> RuntimeName:
    measurement = measurements[runtime]
    if not measurement.is_true:
        raise NotPublishable(f"The runtime {runtime} cannot serve this estimator: {measurement.note}.")
    return runtime


class _Trial:
    """Rows, and what the estimator answers to them."""

    def __init__(self, estimator: Any, facts: Facts, table: Table) -> None:
        self._estimator = estimator
        self._facts = facts
        self._sample = table
        own = self.of_estimator("sklearn").compute
        tables = [some_rows(table, COMPARED)]
        if isinstance(table, np.ndarray) and table.dtype.kind in "iuf":
            extremes = extreme_rows(table, facts.schema_)
            near = rows_at_changes(lambda rows: own(rows, facts.methods[0]), tables[0], facts.schema_)
            tables += [near, *(extremes[index : index + 1] for index in range(len(extremes)))]
        self._expected = {
            method: [(part, answer) for part in tables if (answer := _tried(own, part, method)) is not None]
            for method in facts.methods
        }

    def of_estimator(self, runtime: RuntimeName) -> Candidate:
        """The estimator itself, with or without the checks of its library."""
        kind = sklearn.RUNTIMES[runtime]
        return Candidate(runtime, kind(self._estimator, self._facts.methods, self._facts.schema_).compute)

    def consider(
        self,
        runtime: RuntimeName,
        candidates: dict[RuntimeName, Candidate],
        measurements: dict[RuntimeName, Measurement],
    ) -> None:
        """Tries a runtime, and adds it if there is one."""
        try:
            candidate = self._of_graphs() if runtime == "onnx" else self.of_estimator(runtime)
        except (NotPublishable, MissingExtra) as error:
            measurements[runtime] = Measurement(runtime=runtime, note=error.detail.rstrip("."), is_true=False)
            return
        difference = self._difference(candidate.compute)
        if difference is not None:
            measurements[runtime] = Measurement(runtime=runtime, note=difference, is_true=False)
            return
        candidates[runtime] = candidate
        measurements[runtime] = self.measured(candidate, "answers as the estimator")

    def measured(self, candidate: Candidate, note: str) -> Measurement:
        """What a candidate takes."""
        method = self._facts.methods[0]
        tables = (_repeated(self._sample, count) for count in (1, MANY))
        one, many = (timed(partial(candidate.compute, rows, method)) for rows in tables)
        return Measurement(runtime=candidate.runtime, note=note, is_true=True, one_row=one, many_rows=many)

    def _of_graphs(self) -> Candidate:
        from flaskml.runtimes.conversion import graphs_of

        if not isinstance(self._sample, np.ndarray) or self._sample.dtype.kind not in "iuf":
            raise NotPublishable("A graph takes numbers only, and the estimator takes a table of other columns.")
        graphs = graphs_of(self._estimator, self._sample[:MANY], self._facts.methods)
        if sum(len(graph.content) for graph in graphs.values()) > GRAPH_LIMIT:
            raise NotPublishable(f"The graph is larger than {GRAPH_LIMIT // 2**20} MiB.")
        sessions = {file: open_session(graph.content) for file, graph in graphs.items()}
        methods = {file: self._true_methods(sessions[file], graph.methods) for file, graph in graphs.items()}
        kept = {file: graph.content for file, graph in graphs.items() if methods[file]}
        by_method = {method: sessions[file] for file in kept for method in methods[file]}
        if self._facts.methods[0] not in by_method:
            raise NotPublishable("The graph answers otherwise than the estimator.")
        own = sklearn.SklearnRuntime(self._estimator, self._facts.methods, self._facts.schema_)
        compute = _from_doubles(OnnxRuntime(by_method, self._facts.schema_, own))
        return Candidate("onnx", compute, kept, {file: methods[file] for file in kept})

    def _true_methods(self, session: Any, methods: Sequence[str]) -> tuple[str, ...]:
        """The methods of the manifest that the session answers as the estimator does."""
        offered = [*methods, *(["predict_log_proba"] if "predict_proba" in methods else [])]
        compute = _from_doubles(OnnxRuntime(dict.fromkeys(offered, session), self._facts.schema_))
        asked = [method for method in offered if method in self._facts.methods]
        return tuple(method for method in asked if self._difference(compute, method) is None)

    def _difference(self, compute: Compute, *methods: str) -> str | None:
        """What tells the answers of the methods, of all if none is named, from the estimator's; None if nothing."""
        for method in methods or self._facts.methods:
            absolute = ABSOLUTE * scale(self._expected[method][0][1])
            for table, expected in self._expected[method]:
                try:
                    together = compute(table, method)
                    alone = [compute(table[i : i + 1], method) for i in range(min(ALONE, len(table)))]
                except Exception as error:  # A runtime may raise anything at what the estimator takes.
                    return f"{method} raises {type(error).__name__}"
                if not is_same(expected, together, absolute):
                    return f"{method} answers otherwise than the estimator"
                if not all(is_same(_row(expected, index), answer, absolute) for index, answer in enumerate(alone)):
                    return f"{method} answers a row alone otherwise than among others"
        return None


def _from_doubles(runtime: OnnxRuntime) -> Compute:
    """What computes a table of any numbers in a runtime of graphs."""
    return lambda table, method: runtime.compute(np.asarray(table, dtype=np.float64), method)


def _row(answer: Answer, index: int) -> Answer:
    return [part[index : index + 1] for part in answer] if isinstance(answer, list) else answer[index : index + 1]


def _tried(compute: Compute, table: Any, method: str) -> Answer | None:
    """What the estimator answers; None if it refuses, as it will then be asked to."""
    try:
        return compute(table, method)
    except (ValueError, OverflowError):
        return None


def _repeated(table: Table, rows: int) -> Table:
    """So many rows of the table, some of them again if it has fewer."""
    wanted = np.arange(rows) % len(table)
    return table[wanted] if isinstance(table, np.ndarray) else table.iloc[wanted]


def timed(call: Callable[[], object]) -> float:
    """Microseconds that a call takes, of many the first quartile: whatever else the machine did only delays."""
    found: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(found) < CALLS and (len(found) < 3 or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return round(float(np.quantile(found, 0.25)) * 1e6, 1)
