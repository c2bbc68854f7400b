"""The ONNX runtime: computes graphs that were exported from an estimator when it was published, or imported.

The outputs of a graph are named after methods. A version may have methods that no graph computes: its estimator is then
loaded too and computes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaskml.codecs.answers import Answer
from flaskml.codecs.rows import TableBuilder
from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes.base import Runtime
from flaskml.schema.codes import CodedRows
from flaskml.schema.columns import Columns
from flaskml.schema.features import Schema
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store.manifest import LoadedVersion

DERIVED_METHODS = {"predict_log_proba": "predict_proba"}
"""Each method that is the logarithm of another one, with that other one."""

PREDICT_GRAPH_FILE = "predict.onnx"
"""The file of the graph that computes the default method."""

GRAPH_INPUT = "rows"
"""The name of the only input of a graph: shape (rows, features)."""


VOCABULARIES_KEY = "flaskml.vocabularies"
"""The key of a graph's metadata with the texts of each text column, as JSON: such a graph takes `CodedRows`."""


@dataclass(frozen=True, slots=True)
class TableOfColumns:
    """The columns of rows that are not encoded yet."""

    columns: Columns


class RowsAsTable:
    """A table builder that returns the rows: a graph of mixed columns encodes them itself."""

    def build(self, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """Return the rows."""
        return rows

    def build_columns(self, columns: Columns) -> TableOfColumns:
        """Return the columns."""
        return TableOfColumns(columns)


class OnnxRuntime:
    """A runtime with an onnxruntime session for each method."""

    def __init__(
        self,
        sessions: Mapping[str, Any],
        schema: Schema,
        fallback: Runtime | None = None,
        coded_rows: CodedRows | None = None,
    ) -> None:
        """Prepare the methods of `sessions`, a session for each method; `fallback` computes all other methods.

        `coded_rows` encodes the rows for graphs of mixed columns.
        """
        self._coded_rows = coded_rows
        # Rows are built in the dtype of the estimator: if it was fitted in single precision, both round them alike.
        is_array = schema.layout == "array" and np.dtype(schema.dtype).kind in "biuf"
        as_doubles = {"layout": "array", "dtype": "float64"}
        self.table_builder: TableBuilder = (
            SchemaTableBuilder(schema if is_array else schema.model_copy(update=as_doubles))
            if self._coded_rows is None
            else RowsAsTable()
        )
        self._outputs = {method: (sessions[method].run, [DERIVED_METHODS.get(method, method)]) for method in sessions}
        self._fallback = fallback
        # Sessions are stateless, so threads may run one at once. An estimator may be unable to.
        self.is_thread_safe = fallback is None or fallback.is_thread_safe

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> OnnxRuntime:
        """Return the runtime of the version's graphs, and of its estimator for the methods that no graph computes."""
        fallback = None
        if loaded.estimator is not None:
            from flaskml.runtimes.sklearn import SklearnRuntime

            fallback = SklearnRuntime.from_version(loaded)
        sessions = open_sessions(loaded.graphs, loaded.manifest.graphs)
        schema = loaded.manifest.schema_
        return cls(sessions, schema, fallback, coded_rows_of(sessions.values(), schema))

    def compute(self, table: Any, method: str) -> Answer:
        """Return the output of the method's graph, computed in the calling thread."""
        if method not in self._outputs and self._fallback is not None:
            return self._fallback.compute(self._table_of_fallback(self._fallback, table), method)
        run, names = self._outputs[method]
        coded = self._coded_rows
        if coded is None:
            rows = np.asarray(table, dtype=np.float64)
        else:
            rows = coded.encode_columns(table.columns) if isinstance(table, TableOfColumns) else coded.encode(table)
        answer: np.ndarray = run(names, {GRAPH_INPUT: rows})[0]
        return _logarithm(answer) if method in DERIVED_METHODS else answer

    def _table_of_fallback(self, fallback: Runtime, table: Any) -> Any:
        """Return a table for the estimator."""
        if self._coded_rows is None:
            return table
        if isinstance(table, TableOfColumns):
            return fallback.table_builder.build_columns(table.columns)
        return fallback.table_builder.build(table)


def coded_rows_of(sessions: Iterable[Any], schema: Schema) -> CodedRows | None:
    """Return the encoder of rows for graphs of mixed columns; None for graphs of numbers."""
    for session in sessions:
        if text := session.get_modelmeta().custom_metadata_map.get(VOCABULARIES_KEY):
            return CodedRows(schema, {int(column): texts for column, texts in json.loads(text).items()})
    return None


def _logarithm(answer: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # The logarithm of zero is minus infinity, as in scikit-learn.
        logarithm: np.ndarray = np.log(answer)
    return logarithm


def open_session(graph: bytes) -> Any:
    """Return an onnxruntime session that computes the graph in the calling thread.

    Raises `NotPublishable` for bytes that are not a valid graph, and `MissingExtra` without onnxruntime.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # Telemetry starts a thread, which is lost in a forked worker.
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
    except Exception as error:  # The errors of onnxruntime have no other common base class.
        raise NotPublishable(f"The ONNX graph does not load ({type(error).__name__}); export it again.") from error


def open_sessions(graphs: Mapping[str, bytes], methods: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the session of each method; `graphs` and `methods` are the content and the methods of each file."""
    sessions = {file: open_session(graph) for file, graph in graphs.items()}
    return {method: sessions[file] for file in sessions for method in methods[file]}
