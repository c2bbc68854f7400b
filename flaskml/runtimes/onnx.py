"""The ONNX runtime: computes graphs that were made from an estimator when it was published, or came from elsewhere.

The outputs of a graph are named after the methods that they answer. Where a version has methods that no graph answers,
its estimator is loaded too and answers these.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaskml.codecs.answers import Answer
from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes.base import Runtime
from flaskml.schema.features import Schema
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store.manifest import LoadedVersion

DERIVED_METHODS = {"predict_log_proba": "predict_proba"}
"""The method that is the logarithm of another."""

PREDICT_GRAPH_FILE = "predict.onnx"
"""The file of the graph that answers when no method is named."""

GRAPH_INPUT = "rows"
"""The name of the one input of a graph: shape (rows, features)."""


class OnnxRuntime:
    """Computes each method with the session whose graph has it as an output."""

    def __init__(self, sessions: Mapping[str, Any], schema: Schema, rest: Runtime | None = None) -> None:
        """`sessions` has one for each method; `rest` computes all others."""
        # A row is first what the estimator would take, rounded to single precision where it was fitted on such.
        is_array = schema.layout == "array" and np.dtype(schema.dtype).kind in "biuf"
        as_doubles = {"layout": "array", "dtype": "float64"}
        self.table_builder = SchemaTableBuilder(schema if is_array else schema.model_copy(update=as_doubles))
        self._outputs = {method: (sessions[method].run, [DERIVED_METHODS.get(method, method)]) for method in sessions}
        self._rest = rest

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> OnnxRuntime:
        """Return the runtime of the version's graphs, and of its estimator for the methods that no graph answers."""
        rest = None
        if loaded.estimator is not None:
            from flaskml.runtimes.sklearn import SklearnRuntime

            rest = SklearnRuntime.from_version(loaded)
        sessions = open_sessions(loaded.graphs, loaded.manifest.graphs)
        return cls(sessions, loaded.manifest.schema_, rest)

    def compute(self, table: Any, method: str) -> Answer:
        """What the graph of the method answers, computed in the thread that asks."""
        if method not in self._outputs and self._rest is not None:
            return self._rest.compute(table, method)
        run, names = self._outputs[method]
        answer: np.ndarray = run(names, {GRAPH_INPUT: np.asarray(table, dtype=np.float64)})[0]
        return _logarithm(answer) if method in DERIVED_METHODS else answer


def _logarithm(answer: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # Of nothing it is what scikit-learn answers too.
        found: np.ndarray = np.log(answer)
    return found


def open_session(graph: bytes) -> Any:
    """A session that computes a graph in the thread that asks. Raises `NotPublishable` or `MissingExtra`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # It would start a thread, which no forked worker has.
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("fast", "The ONNX runtime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # Its errors have no common root but this.
        raise NotPublishable(f"The graph does not load ({type(error).__name__}).") from error


def open_sessions(graphs: Mapping[str, bytes], methods: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The session of each method that the graphs answer; `methods` are those of each file."""
    sessions = {file: open_session(graph) for file, graph in graphs.items()}
    return {method: sessions[file] for file in sessions for method in methods[file]}
