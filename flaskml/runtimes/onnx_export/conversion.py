"""From a fitted estimator to ONNX graphs in double precision, one output for each method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaskml.errors import FlaskmlError, MissingExtra, NotPublishable
from flaskml.runtimes.onnx import DERIVED_METHODS, GRAPH_INPUT, PREDICT_GRAPH_FILE, open_session
from flaskml.runtimes.onnx_export import linear, trees
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""The versions of the operators that skl2onnx writes; those of trees are newer (`trees`)."""


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A graph, and the methods that its outputs are named after."""

    content: bytes
    methods: tuple[str, ...]


def export_graphs(estimator: Any, some: np.ndarray, methods: Sequence[str]) -> dict[str, ExportedGraph]:
    """The graphs that answer the methods which can be had as graphs, by their file's name.

    `some` are rows, shape (rows, features), by whose answers the shape of each output is found. Raises
    `NotPublishable` where there is no graph for the first method, and `MissingExtra`.
    """
    if hasattr(estimator, "best_estimator_"):  # A search answers as what it has found.
        return export_graphs(estimator.best_estimator_, some, methods)
    wanted = [method for method in methods if method not in (*DERIVED_METHODS, "decision_function")]
    graphs = {PREDICT_GRAPH_FILE: _graph(estimator, some, wanted)}
    if "decision_function" in methods:
        with suppress(NotPublishable):  # The estimator itself answers what has no graph.
            graphs["decision_function.onnx"] = _graph(estimator, some, ["decision_function"])
    return graphs


def _graph(estimator: Any, some: np.ndarray, methods: Sequence[str]) -> ExportedGraph:
    """A graph with an output for each of the methods that it has, which the converter gives in this order."""
    try:
        with warnings.catch_warnings(action="ignore"):
            model = _converted(estimator, some.shape[1], raw=methods[0] == "decision_function")
            named = _name(model.graph, methods)
            _fit(model, {method: np.asarray(getattr(estimator, method)(some)) for method in named}, some)
    except (FlaskmlError, MemoryError):
        raise
    except Exception as error:  # Whatever the converter raises, there is no graph.
        raise NotPublishable(f"It has no graph in double precision ({type(error).__name__}).") from error
    return ExportedGraph(model.SerializeToString(), named)


def _converted(estimator: Any, width: int, *, raw: bool) -> Any:
    try:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType
    except ImportError as error:
        raise MissingExtra("fast", "The ONNX runtime") from error
    converters = {**trees.tree_converters(raw=raw), **linear.linear_converters(raw=raw), **imputer_converters()}
    model = convert_sklearn(
        estimator,
        initial_types=[(GRAPH_INPUT, DoubleTensorType([None, width]))],
        options=_options(estimator, raw=raw and type(_last(estimator)) not in converters),
        target_opset=OPSETS,
        custom_conversion_functions=converters,
        custom_shape_calculators={kind: _shape_calculator(kind) for kind in converters},
    )
    trees.finalize_tree_nodes(model)
    return model


def _last(estimator: Any) -> Any:
    """The step of a pipeline, or of one inside it, that answers."""
    return _last(estimator.steps[-1][1]) if hasattr(estimator, "steps") else estimator


def _options(estimator: Any, *, raw: bool) -> dict[int, dict[str, bool]] | None:
    """Probabilities as an array, and scores before the link where they are asked for."""
    from sklearn.base import is_classifier

    last = _last(estimator)
    if not is_classifier(last):
        return None
    return {id(last): {"zipmap": False, **({"raw_scores": True} if raw else {})}}


def imputer_converters() -> Mapping[type, Any]:
    """What converts an imputer of numbers; the operator that there is for it knows single precision only."""
    from sklearn.impute import SimpleImputer

    return {SimpleImputer: _impute}


def _impute(scope: Any, operator: Any, container: Any) -> None:
    write, imputer = GraphWriter(scope, operator, container), operator.raw_operator
    fill = np.asarray(imputer.statistics_, dtype=np.float64)
    if imputer.add_indicator or imputer.missing_values == imputer.missing_values or np.isnan(fill).any():
        raise NotPublishable("There is no graph of an imputer that does more than fill gaps in numbers.")
    missing = write.node("IsNaN", [write.rows])
    write.node("Where", [missing, write.constant(fill), write.rows], operator.outputs[0].full_name)


def _shape_calculator(kind: type) -> Any:
    """What tells the converter the types of what a tree ensemble answers."""
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType
    from sklearn.base import ClassifierMixin

    def calculate(operator: Any) -> None:
        operator.outputs[-1].type = DoubleTensorType([None, operator.inputs[0].type.shape[1]])
        if issubclass(kind, ClassifierMixin):  # It answers labels before probabilities.
            whole = operator.raw_operator.classes_.dtype.kind in "iubf"
            operator.outputs[0].type = (Int64TensorType if whole else StringTensorType)([None])

    return calculate


def _name(graph: Any, methods: Sequence[str]) -> tuple[str, ...]:
    """Names the outputs after the methods, and drops the others: a graph of scores has its labels first."""
    outputs = list(graph.output)
    kept = outputs[1:2] if methods[0] == "decision_function" else outputs[: len(methods)]
    new = {output.name: method for output, method in zip(kept, methods, strict=False)}
    rename_values(graph, new)
    del graph.output[:]
    for output in kept:
        output.name = new[output.name]
        graph.output.append(output)
    return tuple(new.values())


def rename_values(graph: Any, new: Mapping[str, str]) -> None:
    """Gives values new names, wherever the graph mentions them."""
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


def _fit(model: Any, samples: Mapping[str, np.ndarray], some: np.ndarray) -> None:
    """Gives outputs the shape and the type of what the estimator answers.

    A column becomes one dimension, and of the scores of two classes the second remains; whole numbers that stand for
    booleans or floats become these.
    """
    from onnx import TensorProto, helper

    answers = open_session(model.SerializeToString()).run(list(samples), {GRAPH_INPUT: some.astype(np.float64)})
    for (method, wanted), answer in zip(samples.items(), answers, strict=True):
        if wanted.ndim == 1 and answer.ndim == 2:
            answer_with_last_column(model.graph, method, answer.shape[1])
        elif answer.dtype == np.int64 and wanted.dtype.kind in "bf":
            rename_values(model.graph, {method: f"{method}_whole"})
            kind = TensorProto.BOOL if wanted.dtype.kind == "b" else TensorProto.DOUBLE
            model.graph.node.append(helper.make_node("Cast", [f"{method}_whole"], [method], to=kind))
    for output in model.graph.output:  # Its type follows from the node that it comes from.
        output.ClearField("type")


def answer_with_last_column(graph: Any, method: str, columns: int) -> None:
    """Has the last column of an output answer the method, as one dimension."""
    from onnx import TensorProto, helper

    rename_values(graph, {method: f"{method}_columns"})
    inputs = [f"{method}_columns", f"{method}_column"]
    if columns == 1:  # The values of the only one need no copy.
        dims, value, node = [1], -1, helper.make_node("Reshape", inputs, [method])
    else:
        dims, value, node = [], columns - 1, helper.make_node("Gather", inputs, [method], axis=1)
    graph.initializer.append(helper.make_tensor(inputs[1], TensorProto.INT64, dims, [value]))
    graph.node.append(node)
