"""Selection of a version's runtime: the fastest one that gives the estimator's own answers.

The speed is measured, because it depends on the estimator: an ONNX graph computes a row of a forest in a thousandth of
the estimator's time, and a row of a nearest-neighbor search in twenty times that time.
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
from flaskml.runtimes.equivalence import (
    MAX_COMPARED_ROWS,
    NUMERIC_DTYPE_KINDS,
    TIMED_BATCH_ROWS,
    Comparison,
    ComputeFunction,
    repeat_rows,
)
from flaskml.runtimes.mixed_rows import value_rows
from flaskml.runtimes.onnx import DERIVED_METHODS, PREDICT_GRAPH_FILE, OnnxRuntime, coded_rows_of, open_session
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.runtimes.sklearn import SklearnRuntime, single_threaded
from flaskml.schema.features import MAX_EXACT_INTEGER, Table
from flaskml.store.golden_rows import sample_rows
from flaskml.store.manifest import Measurement, RuntimeName, VersionFacts

MAX_TIMED_CALLS = 60
"""Timed calls of each candidate, at most."""

CALLS_PER_TURN = 4
"""Consecutive timed calls of one candidate."""

TIMING_SECONDS = 0.25
"""Seconds to time one candidate on one batch."""

MAX_COST_RATIO = 0.9
"""The largest ratio of a runtime's time to the estimator's own time with which the runtime is preferred."""

MAX_GRAPH_BYTES = 64 * 2**20
"""Bytes of all graphs of a version, at most: each process parses them at its start and shares no memory of them."""

MAX_ESTIMATOR_BYTES = 128 * 2**20
"""Bytes of a pickled estimator beyond which no graph is exported: the export takes seven times as many."""

EQUIVALENT_NOTE = "gives the same answers as the estimator"
"""The note on a runtime other than the estimator itself that passed the comparison."""


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The chosen runtime, its graphs, and the measurements of all candidates."""

    runtime: RuntimeName
    measurements: tuple[Measurement, ...]
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The methods that each graph computes."""

    def complete(self, facts: VersionFacts) -> VersionFacts:
        """Return the facts with the runtime, the methods of each graph, and the measurements filled in."""
        chosen = {"runtime": self.runtime, "graphs": self.methods, "measurements": self.measurements}
        return facts.model_copy(update=chosen)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runtime that gives the estimator's own answers and may be chosen."""

    runtime: RuntimeName
    compute: ComputeFunction
    note: str
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose_runtime(
    estimator: Any, facts: VersionFacts, table: Table, requested: RuntimeName | None = None
) -> RuntimeChoice:
    """Return the fastest runtime with the estimator's own answers, or the `requested` runtime if it has them.

    `table` holds sample rows as the estimator takes them. Raises `NotPublishable` if the requested runtime does not
    exist or cannot serve the estimator.
    """
    from threadpoolctl import threadpool_limits

    if requested is not None and requested not in RUNTIME_CLASSES:
        raise NotPublishable(f'There is no runtime "{requested}"; choose one of {", ".join(RUNTIME_CLASSES)}.')
    if isinstance(estimator, ImportedGraph):
        return _choose_imported_graph(estimator, table, requested)
    with single_threaded(estimator), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        reference = SklearnRuntime(estimator, facts.methods, facts.schema_)
        sample = table if _is_numeric(table) else value_rows(facts.schema_, sample_rows(table, MAX_COMPARED_ROWS))
        compute = reference.compute if _is_numeric(table) else _compute_of_values(reference)
        candidates = [Candidate("sklearn", compute, note="the estimator itself")]
        rejected: list[Measurement] = []
        if requested != "sklearn":
            try:
                comparison = Comparison(compute, facts.methods, facts.schema_, sample)
                candidates.append(_graph_candidate(reference, comparison, estimator, facts, table))
            except (NotPublishable, MissingExtra) as error:
                rejected.append(Measurement(runtime="onnx", note=error.detail.rstrip("."), matches=False))
        measurements = _measure(candidates, facts.methods[0], sample)
    if requested == "onnx" and rejected:
        reason = f"The runtime onnx cannot serve this estimator: {rejected[0].note}."
        raise NotPublishable(f"{reason} Choose the runtime sklearn, or name no runtime.")
    runtime = requested or _fastest(measurements)
    chosen = next(candidate for candidate in candidates if candidate.runtime == runtime)
    return RuntimeChoice(runtime, (*measurements, *rejected), chosen.graphs, chosen.methods)


def _choose_imported_graph(graph: ImportedGraph, table: Table, requested: RuntimeName | None) -> RuntimeChoice:
    """Return the only possible choice for an imported graph, which has no estimator: the runtime onnx."""
    if requested not in (None, "onnx"):
        raise NotPublishable(f"A graph is computed by the runtime onnx, not by {requested}; name no runtime.")
    candidate = Candidate("onnx", lambda table, method: getattr(graph, method)(table), note="the graph itself")
    measurements = tuple(_measure([candidate], "predict", table))
    return RuntimeChoice(
        "onnx", measurements, {PREDICT_GRAPH_FILE: graph.content}, {PREDICT_GRAPH_FILE: tuple(graph.methods)}
    )


def _measure(candidates: Sequence[Candidate], method: str, table: Table) -> list[Measurement]:
    """Return the times of the candidates. They take turns, so that other load on the machine delays all alike."""
    one_row_times, batch_times = (
        time_calls([partial(candidate.compute, repeat_rows(table, count), method) for candidate in candidates])
        for count in (1, TIMED_BATCH_ROWS)
    )
    return [
        Measurement(
            runtime=candidate.runtime,
            note=candidate.note,
            matches=True,
            one_row_microseconds=one_row_time,
            batch_microseconds=batch_time,
        )
        for candidate, one_row_time, batch_time in zip(candidates, one_row_times, batch_times, strict=True)
    ]


def _fastest(measurements: Sequence[Measurement]) -> RuntimeName:
    """Return the runtime with the smallest product of both times, or sklearn if none is clearly faster."""
    times = {
        measurement.runtime: (measurement.one_row_microseconds or 0) * (measurement.batch_microseconds or 0)
        for measurement in measurements
    }
    best = min(times, key=lambda name: times[name])
    return best if times[best] <= MAX_COST_RATIO**2 * times["sklearn"] else "sklearn"


def _is_numeric(table: Table) -> bool:
    """Return whether a table is an array of numbers."""
    return isinstance(table, np.ndarray) and table.dtype.kind in NUMERIC_DTYPE_KINDS


def _compute_of_values(reference: SklearnRuntime) -> ComputeFunction:
    """Return a function that computes rows of values as requests send them, as the served estimator does."""
    build = reference.table_builder.build
    return lambda table, method: reference.compute(build(list(table)), method)


def _graph_candidate(
    reference: SklearnRuntime, comparison: Comparison, estimator: Any, facts: VersionFacts, table: Table
) -> Candidate:
    """Return a candidate whose graphs compute the methods that passed the comparison, and the estimator the others.

    Raises `NotPublishable` with the reason if there is no such graph, and `MissingExtra`.
    """
    from flaskml.runtimes.onnx_export.conversion import export_graphs

    _check_exportable(estimator, table)
    graphs = export_graphs(estimator, table[:TIMED_BATCH_ROWS], facts.methods, facts.schema_)
    if sum(len(graph.content) for graph in graphs.values()) > MAX_GRAPH_BYTES:
        raise NotPublishable(f"The graph is larger than {MAX_GRAPH_BYTES // 2**20} MiB.")
    sessions = {file: open_session(graph.content) for file, graph in graphs.items()}
    coded_rows = coded_rows_of(sessions.values(), facts.schema_)
    methods: dict[str, tuple[str, ...]] = {}
    for file, graph in graphs.items():
        by_method = dict.fromkeys(_computable_methods(graph.methods), sessions[file])
        compute = OnnxRuntime(by_method, facts.schema_, coded_rows=coded_rows).compute
        # A graph is accepted or rejected as a whole: wrong probabilities mean a wrong label near a decision boundary.
        difference = comparison.find_difference(
            compute, [method for method in facts.methods if method in graph.methods]
        )
        if difference is None:
            offered = [method for method in _computable_methods(graph.methods) if method in facts.methods]
            methods[file] = tuple(method for method in offered if comparison.find_difference(compute, [method]) is None)
        elif file == PREDICT_GRAPH_FILE:
            raise NotPublishable(f"The graph is not equivalent: {difference}.")
    by_method = {method: sessions[file] for file, computed in methods.items() for method in computed}
    compute = OnnxRuntime(by_method, facts.schema_, reference, coded_rows).compute
    if difference := comparison.find_difference(compute, facts.methods):
        raise NotPublishable(f"The graphs and the estimator together are not equivalent: {difference}.")
    return Candidate("onnx", compute, EQUIVALENT_NOTE, {file: graphs[file].content for file in methods}, methods)


def _computable_methods(methods: Sequence[str]) -> list[str]:
    """Return the methods of a graph's outputs and the methods derived from them."""
    return [*methods, *(method for method, source in DERIVED_METHODS.items() if source in methods)]


def _check_exportable(estimator: Any, table: Table) -> None:
    """Raise `NotPublishable` for a table or an estimator that the export does not support, whatever its class."""
    columns = [table] if isinstance(table, np.ndarray) else [table[name] for name in table]
    for column in columns:
        if column.dtype.kind in "iu" and not -MAX_EXACT_INTEGER <= column.min() <= column.max() <= MAX_EXACT_INTEGER:
            raise NotPublishable(
                "A graph takes floats, and the sample has integers beyond 2**53, which a float cannot hold."
            )
    counter = _ByteCounter()
    pickle.Pickler(counter, protocol=5).dump(estimator)
    if counter.bytes > MAX_ESTIMATOR_BYTES:
        raise NotPublishable(f"The estimator is larger than {MAX_ESTIMATOR_BYTES // 2**20} MiB, too large for a graph.")


class _ByteCounter:
    """A file that counts the bytes written to it and stores none."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        self.bytes += size
        return size


def time_calls(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the microseconds of each call: the first quartile of its times, as disturbances only delay it."""
    seconds: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + TIMING_SECONDS * len(calls)
    while len(seconds[0]) < MAX_TIMED_CALLS and (len(seconds[0]) < CALLS_PER_TURN or time.perf_counter() < end):
        for call, times in zip(calls, seconds, strict=True):
            call()  # An untimed call fills the processor caches, which still hold the data of another candidate.
            for _ in range(CALLS_PER_TURN):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    return [round(float(np.quantile(times, 0.25)) * 1e6, 1) for times in seconds]
