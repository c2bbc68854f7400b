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
from typing import Any, get_args

import numpy as np

from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes import sklearn
from flaskml.runtimes.equivalence import NUMERIC_DTYPE_KINDS, TIMED_BATCH_ROWS, Comparison, Compute, repeat_rows
from flaskml.runtimes.onnx import DERIVED_METHODS, PREDICT_GRAPH_FILE, OnnxRuntime, open_session
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.schema.features import MAX_EXACT_INTEGER, Table
from flaskml.store.manifest import Measurement, RuntimeName, VersionFacts

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

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
    """The fastest runtime that answers as the estimator does, or the `wanted` one if it does.

    `table` are rows as the estimator takes them. Raises `NotPublishable` if the wanted one cannot be.
    """
    from threadpoolctl import threadpool_limits

    if wanted is not None and wanted not in RUNTIMES:
        raise NotPublishable(f'There is no runtime "{wanted}"; there are {", ".join(RUNTIMES)}.')
    if isinstance(estimator, ImportedGraph):
        return _graph_alone(estimator, table, wanted)
    with sklearn.single_threaded(estimator), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        own = _of_estimator("sklearn", estimator, facts)
        others = [runtime for runtime in RUNTIMES if runtime != own.runtime and wanted in (None, runtime)]
        candidates, refused = _true_ones(others, own, estimator, facts, table)
        candidates = [own, *candidates]
        found = {measurement.runtime: measurement for measurement in _measured(candidates, facts.methods[0], table)}
    runtime = _fastest(list(found.values())) if wanted is None else _demanded(wanted, found | refused)
    chosen = next(candidate for candidate in candidates if candidate.runtime == runtime)
    return RuntimeChoice(runtime, tuple((found | refused).values()), chosen.graphs, chosen.methods)


def _true_ones(
    runtimes: Sequence[RuntimeName], own: Candidate, estimator: Any, facts: VersionFacts, table: Table
) -> tuple[list[Candidate], dict[RuntimeName, Measurement]]:
    """Of the runtimes those that may serve, and why the others may not."""
    candidates: list[Candidate] = []
    refused: dict[RuntimeName, Measurement] = {}
    if not runtimes:
        return candidates, refused
    comparison = Comparison(own.compute, facts.methods, facts.schema_, table)
    for runtime in runtimes:
        try:
            candidates.append(_candidate(runtime, estimator, facts, table, comparison))
        except (NotPublishable, MissingExtra) as error:
            refused[runtime] = Measurement(runtime=runtime, note=error.detail.rstrip("."), is_true=False)
    return candidates, refused


def _graph_alone(graph: ImportedGraph, table: Table, wanted: RuntimeName | None) -> RuntimeChoice:
    """The one choice that there is for a graph without an estimator."""
    if wanted not in (None, "onnx"):
        raise NotPublishable(f"A graph is computed by the runtime onnx, not by {wanted}.")
    itself = Candidate("onnx", lambda table, method: getattr(graph, method)(table), note="the graph itself")
    return RuntimeChoice("onnx", tuple(_measured([itself], "predict", table)), *_files({PREDICT_GRAPH_FILE: graph}))


def _files(graphs: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """The content of graphs, and the methods that they answer, by their file."""
    return {file: graph.content for file, graph in graphs.items()}, {f: graph.methods for f, graph in graphs.items()}


def _measured(candidates: Sequence[Candidate], method: str, table: Table) -> list[Measurement]:
    """What candidates take, called by turns: what else the machine does delays them alike."""
    one, many = (
        time_calls([partial(candidate.compute, repeat_rows(table, count), method) for candidate in candidates])
        for count in (1, TIMED_BATCH_ROWS)
    )
    return [
        Measurement(runtime=candidate.runtime, note=candidate.note, is_true=True, one_row=least, many_rows=most)
        for candidate, least, most in zip(candidates, one, many, strict=True)
    ]


def _fastest(measurements: Sequence[Measurement]) -> RuntimeName:
    """The one with the least time, one row and many taken alike, if it is worth leaving the estimator for."""
    times = {found.runtime: (found.one_row or 0) * (found.many_rows or 0) for found in measurements}
    best = min(times, key=lambda name: times[name])
    return best if times[best] <= MAX_TIME_SHARE**2 * times["sklearn"] else "sklearn"


def _demanded(runtime: RuntimeName, measurements: Mapping[RuntimeName, Measurement]) -> RuntimeName:
    measurement = measurements[runtime]
    if not measurement.is_true:
        raise NotPublishable(f"The runtime {runtime} cannot serve this estimator: {measurement.note}.")
    return runtime


def _candidate(
    runtime: RuntimeName, estimator: Any, facts: VersionFacts, table: Table, comparison: Comparison
) -> Candidate:
    """The runtime for the estimator. Raises `NotPublishable` with the reason, or `MissingExtra`, if there is none."""
    if runtime == "onnx":
        candidate = _of_graphs(estimator, facts, table, comparison)
    else:
        candidate = _of_estimator(runtime, estimator, facts)
    if difference := comparison.difference(candidate.compute, facts.methods):
        raise NotPublishable(f"{difference}.")
    return candidate


def _of_estimator(runtime: RuntimeName, estimator: Any, facts: VersionFacts) -> Candidate:
    """The estimator itself, with or without the checks of its library."""
    compute = sklearn.RUNTIMES[runtime](estimator, facts.methods, facts.schema_).compute
    return Candidate(runtime, compute, note="the estimator itself" if runtime == "sklearn" else EQUIVALENT_NOTE)


def _of_graphs(estimator: Any, facts: VersionFacts, table: Table, comparison: Comparison) -> Candidate:
    """Graphs for the methods that they answer as the estimator does, which answers the others."""
    from flaskml.runtimes.onnx_export.conversion import export_graphs

    _refuse_untakable(estimator, table)
    graphs = export_graphs(estimator, np.asarray(table[:TIMED_BATCH_ROWS]), facts.methods)
    if sum(len(graph.content) for graph in graphs.values()) > MAX_GRAPH_BYTES:
        raise NotPublishable(f"The graph is larger than {MAX_GRAPH_BYTES // 2**20} MiB.")
    sessions = {file: open_session(graph.content) for file, graph in graphs.items()}
    methods: dict[str, tuple[str, ...]] = {}
    for file, graph in graphs.items():
        compute = OnnxRuntime(dict.fromkeys(_offered(graph.methods), sessions[file]), facts.schema_).compute
        # A graph is believed as a whole: one that is wrong in its probabilities is so in a label near the boundary.
        difference = comparison.difference(compute, [method for method in facts.methods if method in graph.methods])
        if difference is None:
            asked = [method for method in _offered(graph.methods) if method in facts.methods]
            methods[file] = tuple(method for method in asked if comparison.difference(compute, [method]) is None)
        elif file == PREDICT_GRAPH_FILE:
            raise NotPublishable(f"Of the graph, {difference}.")
    by_method = {method: sessions[file] for file, answered in methods.items() for method in answered}
    own = sklearn.SklearnRuntime(estimator, facts.methods, facts.schema_)
    compute = OnnxRuntime(by_method, facts.schema_, own).compute
    return Candidate("onnx", compute, EQUIVALENT_NOTE, {file: graphs[file].content for file in methods}, methods)


def _offered(methods: Sequence[str]) -> list[str]:
    """The methods that a graph with outputs for these can be asked."""
    return [*methods, *(method for method, source in DERIVED_METHODS.items() if source in methods)]


def _refuse_untakable(estimator: Any, table: Table) -> None:
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
