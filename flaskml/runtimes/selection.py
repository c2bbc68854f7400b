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
from flaskml.runtimes.equivalence import MANY, NUMERIC, Comparison, Compute, repeated
from flaskml.runtimes.onnx import DERIVED, GRAPH_FILE, OnnxRuntime, open_session
from flaskml.runtimes.onnx_import import ForeignGraph
from flaskml.schema.features import EXACT, Table
from flaskml.store.manifest import Facts, Measurement, RuntimeName

RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)

CALLS = 60
"""Calls that are timed at most."""

TURN = 4
"""Calls of one candidate in a row."""

SECONDS = 0.25
"""Seconds that timing one batch may take."""

GAIN = 0.9
"""The share of the estimator's own time that another runtime may take at most to be worth it."""

GRAPH_LIMIT = 64 * 2**20
"""Bytes that all graphs of a version may have together; a graph is parsed at each start, and is shared by nobody."""

ESTIMATOR_LIMIT = 128 * 2**20
"""Bytes of a pickled estimator beyond which no graph is tried: to write one takes seven times that."""

TRUE = "answers as the estimator"
"""What is noted of another runtime that may serve."""


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
    note: str
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose(estimator: Any, facts: Facts, table: Table, wanted: RuntimeName | None = None) -> Choice:
    """The fastest runtime that answers as the estimator does, or the `wanted` one if it does.

    `table` are rows as the estimator takes them. Raises `NotPublishable` if the wanted one cannot be.
    """
    from threadpoolctl import threadpool_limits

    if wanted is not None and wanted not in RUNTIMES:
        raise NotPublishable(f'There is no runtime "{wanted}"; there are {", ".join(RUNTIMES)}.')
    if isinstance(estimator, ForeignGraph):
        return _graph_alone(estimator, table, wanted)
    with sklearn.in_one_thread(estimator), threadpool_limits(1), warnings.catch_warnings(action="ignore"):
        own = _of_estimator("sklearn", estimator, facts)
        others = [runtime for runtime in RUNTIMES if runtime != own.runtime and wanted in (None, runtime)]
        candidates, refused = _true_ones(others, own, estimator, facts, table)
        candidates = [own, *candidates]
        found = {measurement.runtime: measurement for measurement in _measured(candidates, facts.methods[0], table)}
    runtime = _fastest(list(found.values())) if wanted is None else _demanded(wanted, found | refused)
    chosen = next(candidate for candidate in candidates if candidate.runtime == runtime)
    return Choice(runtime, tuple((found | refused).values()), chosen.graphs, chosen.methods)


def _true_ones(
    runtimes: Sequence[RuntimeName], own: Candidate, estimator: Any, facts: Facts, table: Table
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


def _graph_alone(graph: ForeignGraph, table: Table, wanted: RuntimeName | None) -> Choice:
    """The one choice that there is for a graph without an estimator."""
    if wanted not in (None, "onnx"):
        raise NotPublishable(f"A graph is computed by the runtime onnx, not by {wanted}.")
    itself = Candidate("onnx", lambda table, method: getattr(graph, method)(table), note="the graph itself")
    return Choice("onnx", tuple(_measured([itself], "predict", table)), *_files({GRAPH_FILE: graph}))


def _files(graphs: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, tuple[str, ...]]]:
    """The content of graphs, and the methods that they answer, by their file."""
    return {file: graph.content for file, graph in graphs.items()}, {f: graph.methods for f, graph in graphs.items()}


def _measured(candidates: Sequence[Candidate], method: str, table: Table) -> list[Measurement]:
    """What candidates take, called by turns: what else the machine does delays them alike."""
    one, many = (
        timed([partial(candidate.compute, repeated(table, count), method) for candidate in candidates])
        for count in (1, MANY)
    )
    return [
        Measurement(runtime=candidate.runtime, note=candidate.note, is_true=True, one_row=least, many_rows=most)
        for candidate, least, most in zip(candidates, one, many, strict=True)
    ]


def _fastest(measurements: Sequence[Measurement]) -> RuntimeName:
    """The one with the least time, one row and many taken alike, if it is worth leaving the estimator for."""
    times = {found.runtime: (found.one_row or 0) * (found.many_rows or 0) for found in measurements}
    best = min(times, key=lambda name: times[name])
    return best if times[best] <= GAIN**2 * times["sklearn"] else "sklearn"


def _demanded(runtime: RuntimeName, measurements: Mapping[RuntimeName, Measurement]) -> RuntimeName:
    measurement = measurements[runtime]
    if not measurement.is_true:
        raise NotPublishable(f"The runtime {runtime} cannot serve this estimator: {measurement.note}.")
    return runtime


def _candidate(runtime: RuntimeName, estimator: Any, facts: Facts, table: Table, comparison: Comparison) -> Candidate:
    """The runtime for the estimator. Raises `NotPublishable` with the reason, or `MissingExtra`, if there is none."""
    if runtime == "onnx":
        candidate = _of_graphs(estimator, facts, table, comparison)
    else:
        candidate = _of_estimator(runtime, estimator, facts)
    if difference := comparison.difference(candidate.compute, facts.methods):
        raise NotPublishable(f"{difference}.")
    return candidate


def _of_estimator(runtime: RuntimeName, estimator: Any, facts: Facts) -> Candidate:
    """The estimator itself, with or without the checks of its library."""
    compute = sklearn.RUNTIMES[runtime](estimator, facts.methods, facts.schema_).compute
    return Candidate(runtime, compute, note="the estimator itself" if runtime == "sklearn" else TRUE)


def _of_graphs(estimator: Any, facts: Facts, table: Table, comparison: Comparison) -> Candidate:
    """Graphs for the methods that they answer as the estimator does, which answers the others."""
    from flaskml.runtimes.onnx_export.conversion import graphs_of

    _refuse_untakable(estimator, table)
    graphs = graphs_of(estimator, np.asarray(table[:MANY]), facts.methods)
    if sum(len(graph.content) for graph in graphs.values()) > GRAPH_LIMIT:
        raise NotPublishable(f"The graph is larger than {GRAPH_LIMIT // 2**20} MiB.")
    sessions = {file: open_session(graph.content) for file, graph in graphs.items()}
    methods: dict[str, tuple[str, ...]] = {}
    for file, graph in graphs.items():
        compute = OnnxRuntime(dict.fromkeys(_offered(graph.methods), sessions[file]), facts.schema_).compute
        # A graph is believed as a whole: one that is wrong in its probabilities is so in a label near the boundary.
        difference = comparison.difference(compute, [method for method in facts.methods if method in graph.methods])
        if difference is None:
            asked = [method for method in _offered(graph.methods) if method in facts.methods]
            methods[file] = tuple(method for method in asked if comparison.difference(compute, [method]) is None)
        elif file == GRAPH_FILE:
            raise NotPublishable(f"Of the graph, {difference}.")
    by_method = {method: sessions[file] for file, answered in methods.items() for method in answered}
    own = sklearn.SklearnRuntime(estimator, facts.methods, facts.schema_)
    compute = OnnxRuntime(by_method, facts.schema_, own).compute
    return Candidate("onnx", compute, TRUE, {file: graphs[file].content for file in methods}, methods)


def _offered(methods: Sequence[str]) -> list[str]:
    """The methods that a graph with outputs for these can be asked."""
    return [*methods, *(method for method, source in DERIVED.items() if source in methods)]


def _refuse_untakable(estimator: Any, table: Table) -> None:
    """Raises `NotPublishable` for what has no graph, whatever the estimator is."""
    if not isinstance(table, np.ndarray) or table.dtype.kind not in NUMERIC:
        raise NotPublishable("A graph takes numbers only, and the estimator takes a table of other columns.")
    if table.dtype.kind in "iu" and not -EXACT <= int(table.min()) <= int(table.max()) <= EXACT:
        raise NotPublishable("A graph takes floats, and the sample has whole numbers that no float holds.")
    counter = _Counter()
    pickle.Pickler(counter, protocol=5).dump(estimator)
    if counter.bytes > ESTIMATOR_LIMIT:
        raise NotPublishable(f"The estimator is larger than {ESTIMATOR_LIMIT // 2**20} MiB, too large for a graph.")


class _Counter:
    """A file that keeps nothing but the number of bytes written."""

    def __init__(self) -> None:
        self.bytes = 0

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        self.bytes += size
        return size


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Microseconds that each of the calls takes, of many turns the first quartile: disturbances only delay."""
    found: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + SECONDS * len(calls)
    while len(found[0]) < CALLS and (len(found[0]) < TURN or time.perf_counter() < end):
        for call, times in zip(calls, found, strict=True):
            call()  # The caches of the processor still hold what another one has used.
            for _ in range(TURN):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
    return [round(float(np.quantile(times, 0.25)) * 1e6, 1) for times in found]
