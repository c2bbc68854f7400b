"""Conversion of a fitted pipeline, imputers included, to ONNX graphs in double precision, one output per method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaskml.errors import FlaskmlError, MissingExtra, NotPublishable
from flaskml.runtimes.onnx import DERIVED_METHODS, GRAPH_INPUT, PREDICT_GRAPH_FILE, open_session
from flaskml.runtimes.onnx_export import linear, tree_ensemble, trees
from flaskml.runtimes.onnx_export.final_step import has_own_graph
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter
from flaskml.runtimes.onnx_export.mixed import convert_mixed, convert_numbers, split_final_step
from flaskml.runtimes.sklearn import as_numpy
from flaskml.schema.codes import CodedRows
from flaskml.schema.features import Schema, Table
from flaskml.schema.tables import json_rows

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""The opset versions that skl2onnx writes; tree ensembles then get a newer one (`tree_ensemble`)."""


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A serialized graph, and the methods that its outputs are named after."""

    content: bytes
    methods: tuple[str, ...]


def export_graphs(
    estimator: Any, sample: Table, methods: Sequence[str], schema: Schema | None = None
) -> dict[str, ExportedGraph]:
    """Return graphs for those of the methods that ONNX supports, by file name.

    `sample` has the shape (rows, features); the estimator's answers to it determine the shapes of the outputs. A sample
    with other columns than numbers needs its schema. Raises `NotPublishable` if there is no graph for the first method,
    and `MissingExtra`.
    """
    if hasattr(estimator, "best_estimator_"):  # A search predicts with its best estimator.
        return export_graphs(estimator.best_estimator_, sample, methods, schema)
    predictions = [method for method in methods if method not in (*DERIVED_METHODS, "decision_function")]
    graphs = {PREDICT_GRAPH_FILE: _export_graph(estimator, sample, predictions, schema)}
    if "decision_function" in methods:
        with suppress(NotPublishable):  # The estimator computes the methods without a graph.
            graphs["decision_function.onnx"] = _export_graph(estimator, sample, ["decision_function"], schema)
    return graphs


def _export_graph(estimator: Any, sample: Table, methods: Sequence[str], schema: Schema | None) -> ExportedGraph:
    """Return a graph with an output for each method that the converter supports; it writes outputs in this order."""
    raw_scores = methods[0] == "decision_function"
    try:
        with warnings.catch_warnings(action="ignore"):
            if schema is None or (isinstance(sample, np.ndarray) and sample.dtype.kind in "biuf"):
                if has_own_graph(split_final_step(estimator)[1]):
                    model = convert_numbers(estimator, sample, raw_scores=raw_scores)
                else:
                    model = _convert(estimator, sample.shape[1], raw_scores=raw_scores)
                rows = np.asarray(sample, dtype=np.float64)
            else:
                model, vocabularies = convert_mixed(estimator, schema, _convert, raw_scores=raw_scores)
                rows = CodedRows(schema, vocabularies).encode(json_rows(schema, sample))
            outputs = _name_outputs(model.graph, methods)
            answers = {method: as_numpy(getattr(estimator, method)(sample)) for method in outputs}
            _match_outputs(model, answers, rows)
    except (FlaskmlError, MemoryError):
        raise
    except Exception as error:  # A converter may raise any error.
        raise NotPublishable(f"The estimator has no graph in double precision ({type(error).__name__}).") from error
    return ExportedGraph(model.SerializeToString(), outputs)


def _convert(estimator: Any, width: int, *, raw_scores: bool) -> Any:
    """Return the ONNX model of an estimator of `width` features."""
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType
    except ImportError as error:
        raise MissingExtra("fast", "The ONNX runtime") from error
    converters = {
        **trees.tree_converters(raw_scores=raw_scores),
        **linear.linear_converters(raw_scores=raw_scores),
        **imputer_converters(),
    }
    model = convert_sklearn(
        estimator,
        initial_types=[(GRAPH_INPUT, DoubleTensorType([None, width]))],
        options=_options(estimator, raw_scores=raw_scores and type(_final_step(estimator)) not in converters),
        target_opset=OPSETS,
        custom_conversion_functions=converters,
        custom_shape_calculators={kind: _shape_calculator(kind) for kind in converters},
    )
    tree_ensemble.finalize_tree_nodes(model)
    return model


def _final_step(estimator: Any) -> Any:
    """Return the final step of a pipeline, also of a nested one."""
    return _final_step(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _options(estimator: Any, *, raw_scores: bool) -> dict[int, dict[str, bool]] | None:
    """Return the options of skl2onnx: probabilities as an array, and raw scores if requested."""
    from sklearn.base import is_classifier

    final_step = _final_step(estimator)
    if not is_classifier(final_step) or type(final_step) in linear.without_probabilities():
        return None
    return {id(final_step): {"zipmap": False, **({"raw_scores": True} if raw_scores else {})}}


def imputer_converters() -> Mapping[type, Any]:
    """Return the converter of a numeric imputer by its class; the Imputer operator has single precision only."""
    from sklearn.impute import SimpleImputer

    return {SimpleImputer: _convert_imputer}


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    """Write the replacement of NaN by the fill value of each column."""
    writer, imputer = GraphWriter(scope, operator, container), operator.raw_operator
    fill = np.asarray(imputer.statistics_, dtype=np.float64)
    if imputer.add_indicator or imputer.missing_values == imputer.missing_values or np.isnan(fill).any():
        raise NotPublishable("A graph supports a SimpleImputer only if it does no more than replace NaN by a number.")
    is_missing = writer.add_node("IsNaN", [writer.rows])
    writer.add_node("Where", [is_missing, writer.add_constant(fill), writer.rows], operator.outputs[0].full_name)


def _shape_calculator(kind: type) -> Callable[[Any], None]:
    """Return the function that sets the output types of an estimator class for skl2onnx."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType
    from sklearn.base import ClassifierMixin

    def calculate(operator: Any) -> None:
        operator.outputs[-1].type = DoubleTensorType([None, operator.inputs[0].type.shape[1]])
        if issubclass(kind, ClassifierMixin):  # The first output of a classifier is the label.
            is_numeric = operator.raw_operator.classes_.dtype.kind in "iubf"
            operator.outputs[0].type = (Int64TensorType if is_numeric else StringTensorType)([None])

    return calculate


def _name_outputs(graph: Any, methods: Sequence[str]) -> tuple[str, ...]:
    """Name the outputs after the methods, and drop all other outputs; a graph of scores has its labels first."""
    outputs = list(graph.output)
    retained = outputs[1:2] if methods[0] == "decision_function" else outputs[: len(methods)]
    new_names = {output.name: method for output, method in zip(retained, methods, strict=False)}
    rename_values(graph, new_names)
    del graph.output[:]
    for output in retained:
        output.name = new_names[output.name]
        graph.output.append(output)
    return tuple(new_names.values())


def rename_values(graph: Any, new_names: Mapping[str, str]) -> None:
    """Rename values, given as old name to new name, in the inputs and the outputs of all nodes."""
    for node in graph.node:
        node.input[:] = [new_names.get(name, name) for name in node.input]
        node.output[:] = [new_names.get(name, name) for name in node.output]


def _match_outputs(model: Any, expected: Mapping[str, Any], rows: np.ndarray) -> None:
    """Give each output the shape and the type of the estimator's own answer.

    A single column becomes one dimension, and of the scores of two classes the second column remains. Integers that
    encode booleans or floats are cast to them.
    """
    from onnx import TensorProto, helper

    answers = open_session(model.SerializeToString()).run(list(expected), {GRAPH_INPUT: rows})
    for (method, own), answer in zip(expected.items(), answers, strict=True):
        if own.ndim == 1 and answer.ndim == 2:
            answer_with_last_column(model.graph, method, answer.shape[1])
        elif answer.dtype == np.int64 and own.dtype.kind in "bf":
            rename_values(model.graph, {method: f"{method}_integers"})
            kind = TensorProto.BOOL if own.dtype.kind == "b" else TensorProto.DOUBLE
            model.graph.node.append(helper.make_node("Cast", [f"{method}_integers"], [method], to=kind))
    for output in model.graph.output:  # onnxruntime infers the type from the node.
        output.ClearField("type")


def answer_with_last_column(graph: Any, method: str, columns: int) -> None:
    """Reduce the output of a method, which has `columns` columns, to its last column, as one dimension."""
    from onnx import TensorProto, helper

    rename_values(graph, {method: f"{method}_columns"})
    inputs = [f"{method}_columns", f"{method}_column"]
    if columns == 1:  # Reshape does not copy the values.
        dims, value, node = [1], -1, helper.make_node("Reshape", inputs, [method])
    else:
        dims, value, node = [], columns - 1, helper.make_node("Gather", inputs, [method], axis=1)
    graph.initializer.append(helper.make_tensor(inputs[1], TensorProto.INT64, dims, [value]))
    graph.node.append(node)
