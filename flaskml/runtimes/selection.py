"""The runtimes that could serve a version: which of them answer as the estimator does, and what each takes.

Which one is fastest is measured, not believed: a graph answers a forest's row in a thousandth of the time, and a
neighbour search in twenty times as much. Only what is true may be chosen.
"""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes import RUNTIME_CLASSES
from flaskml.runtimes.equivalence import NUMERIC_DTYPE_KINDS, TIMED_BATCH_ROWS, Comparison, Compute, repeat_rows
from flaskml.runtimes.onnx import DERIVED_METHODS, PREDICT_GRAPH_FILE, OnnxRuntime, open_session
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.runtimes.sklearn import SklearnRuntime, single_threaded
from flaskml.schema.features import MAX_EXACT_INTEGER, Table
from flaskml.store.manifest import Measurement, RuntimeName, VersionFacts

MAX_TIMED_CALLS = 60
"""Calls that are timed at most."""

CALLS_PER_TURN = 4
"""Calls of one candidate in a row."""

TIMING_SECONDS = 0.25
"""Seconds that timing one batch may take."""

MAX_TIME_SHARE = 0.9
"""The share of the estimator's own time that another runtime may take at most to be worth it."""

MAX_GRAPH_BYTES = 64 * 2**20
"""Bytes that all graphs of a version may have together; a graph is parsed at each start, and is shared by nobody."""

MAX_ESTIMATOR_BYTES = 128 * 2**20
"""Bytes of a pickled estimator beyond which no graph is tried: to write one takes seven times that."""

EQUIVALENT_NOTE = "answers as the estimator"
"""What is noted of another runtime that may serve."""


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """A runtime with what it needs, and what was found of all."""

    runtime: RuntimeName
    measurements: tuple[Measurement, ...]
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The methods that each graph answers."""

    def complete(self, facts: VersionFacts) -> VersionFacts:
        """The facts with the choice among them."""
        found = {"runtime": self.runtime, "graphs": self.methods, "measurements": self.measurements}
        return facts.model_copy(update=found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime that could be chosen."""

    runtime: RuntimeName
    compute: Compute
    note: str
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose_runtime(
    estimator: Any, facts: VersionFacts, table: Table, wanted: RuntimeName | None = None
) -> RuntimeChoice:
    """Return the fastest runtime that answers as the estimator does, or the `wanted` one if it does.

    `table` holds rows as the estimator takes them. Raises `NotPublishable` if the wanted runtime cannot serve.
    """
    from threadpoolctl import threadpool_limits

    if wanted is not None and wanted not in RUNTIME_CLASSES:
        raise NotPublishable(f'There is no runtime "{wanted}"; there are {", ".join(RUNTIME_CLASSES)}.')
    if isinstance(estimator, ImportedGraph):
        return _choose_imported_graph(estimator, table, wanted)
    with single_threaded(estimator), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        own = SklearnRuntime(estimator, facts.methods, facts.schema_)
        candidates = [Candidate("sklearn", own.compute, note="the estimator itself")]
        rejected: list[Measurement] = []
        if wanted != "sklearn":
            try:
                candidates.append(_graph_candidate(own, estimator, facts, table))
            except (NotPublishable, MissingExtra) as error:
                rejected.append(Measurement(runtime="onnx", note=error.detail.rstrip("."), matches=False))
        measured = _measure(candidates, facts.methods[0], table)
    if wanted == "onnx" and rejected:
        raise NotPublishable(f"The runtime onnx cannot serve this estimator: {rejected[0].note}.")
    runtime = wanted or _fastest(measured)
    chosen = next(candidate for candidate in candidates if candidate.runtime == runtime)
    return RuntimeChoice(runtime, (*measured, *rejected), chosen.graphs, chosen.methods)


def _choose_imported_graph(graph: ImportedGraph, table: Table, wanted: RuntimeName | None) -> RuntimeChoice:
    """Return the only choice there is for a graph without an estimator."""
    if wanted not in (None, "onnx"):
        raise NotPublishable(f"A graph is computed by the runtime onnx, not by {wanted}.")
    itself = Candidate("onnx", lambda table, method: getattr(graph, method)(table), note="the graph itself")
    measured = tuple(_measure([itself], "predict", table))
    return RuntimeChoice(
        "onnx", measured, {PREDICT_GRAPH_FILE: graph.content}, {PREDICT_GRAPH_FILE: tuple(graph.methods)}
    )


def _measure(candidates: Sequence[Candidate], method: str, table: Table) -> list[Measurement]:
    """Time the candidates by turns, so that other load on the machine delays them alike."""
    one, many = (
        time_calls([partial(candidate.compute, repeat_rows(table, count), method) for candidate in candidates])
        for count in (1, TIMED_BATCH_ROWS)
    )
    return [
        Measurement(
            runtime=candidate.runtime,
            note=candidate.note,
            matches=True,
            one_row_microseconds=row,
            batch_microseconds=batch,
        )
        for candidate, row, batch in zip(candidates, one, many, strict=True)
    ]


def _fastest(measurements: Sequence[Measurement]) -> RuntimeName:
    """Return the runtime with the least product of both times, if it is clearly faster than the estimator."""
    times = {
        found.runtime: (found.one_row_microseconds or 0) * (found.batch_microseconds or 0) for found in measurements
    }
    best = min(times, key=lambda name: times[name])
    return best if times[best] <= MAX_TIME_SHARE**2 * times["sklearn"] else "sklearn"


def _graph_candidate(own: SklearnRuntime, estimator: Any, facts: VersionFacts, table: Table) -> Candidate:
    """Return graphs for the methods that they answer as the estimator does; the estimator answers the others.

    Raises `NotPublishable` with the reason, or `MissingExtra`, if there is none.
    """
    from flaskml.runtimes.onnx_export.conversion import export_graphs

    _check_exportable(estimator, table)
    graphs = export_graphs(estimator, np.asarray(table[:TIMED_BATCH_ROWS]), facts.methods)
    if sum(len(graph.content) for graph in graphs.values()) > MAX_GRAPH_BYTES:
        raise NotPublishable(f"The graph is larger than {MAX_GRAPH_BYTES // 2**20} MiB.")
    comparison = Comparison(own.compute, facts.methods, facts.schema_, table)
    sessions = {file: open_session(graph.content) for file, graph in graphs.items()}
    methods: dict[str, tuple[str, ...]] = {}
    for file, graph in graphs.items():
        compute = OnnxRuntime(dict.fromkeys(_offered(graph.methods), sessions[file]), facts.schema_).compute
        # A graph is accepted or rejected as a whole: wrong probabilities mean a wrong label near the boundary.
        difference = comparison.difference(compute, [method for method in facts.methods if method in graph.methods])
        if difference is None:
            asked = [method for method in _offered(graph.methods) if method in facts.methods]
            methods[file] = tuple(method for method in asked if comparison.difference(compute, [method]) is None)
        elif file == PREDICT_GRAPH_FILE:
            raise NotPublishable(f"Of the graph, {difference}.")
    by_method = {method: sessions[file] for file, answered in methods.items() for method in answered}
    compute = OnnxRuntime(by_method, facts.schema_, own).compute
    if difference := comparison.difference(compute, facts.methods):
        raise NotPublishable(f"{difference}.")
    return Candidate("onnx", compute, EQUIVALENT_NOTE, {file: graphs[file].content for file in methods}, methods)


def _offered(methods: Sequence[str]) -> list[str]:
    """The methods that a graph with outputs for these can be asked."""
    return [*methods, *(method for method, source in DERIVED_METHODS.items() if source in methods)]


def _check_exportable(estimator: Any, table: Table) -> None:
    """Raises `NotPublishable` for what has no graph, whatever the estimator is."""
    if not isinstance(table, np.ndarray) or table.dtype.kind not in NUMERIC_DTYPE_KINDS:
        raise NotPublishable("A graph takes numbers only, and the estimator takes a table of other columns.")
    if table.dtype.kind in "iu" and not -MAX_EXACT_INTEGER <= int(table.min()) <= int(table.max()) <= MAX_EXACT_INTEGER:
        raise NotPublishable("A graph takes floats, and the sample has whole numbers that no float holds.")
    counter = _Counter()
    pickle.Pickler(counter, protocol=5).dump(estimator)
    if counter.bytes > MAX_ESTIMATOR_BYTES:
        raise NotPublishable(f"The estimator is larger than {MAX_ESTIMATOR_BYTES // 2**20} MiB, too large for a graph.")


class _Counter:
    """A file that keeps nothing but the number of bytes written."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        self.bytes += size
        return size


def time_calls(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds that each of the calls takes, of many turns the first quartile: disturbances only delay."""
    found: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + TIMING_SECONDS * len(calls)
    while len(found[0]) < MAX_TIMED_CALLS and (len(found[0]) < CALLS_PER_TURN or time.perf_counter() < end):
        for call, times in zip(calls, found, strict=True):
            call()  # The caches of the processor still hold what another one has used.
            for _ in range(CALLS_PER_TURN):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    return [round(float(np.quantile(times, 0.25)) * 1e6, 1) for times in found]
