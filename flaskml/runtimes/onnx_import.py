"""Imported ONNX graphs: normalized inputs and outputs, and the API of an estimator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes.onnx import GRAPH_INPUT, open_session
from flaskml.runtimes.onnx_export.conversion import answer_with_last_column, rename_values
from flaskml.store.manifest import Task

OUTPUT_METHODS = ("predict", "predict_proba")
"""The methods of the outputs of a graph, in their order."""

PROBE_ROWS = 3
"""Rows of the trial call that checks the outputs of a graph."""

CLASS_LABEL_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
"""The attributes in which classification operators hold the class labels."""


class ImportedGraph:
    """An imported ONNX graph with the API of a fitted estimator.

    The graph takes one array, and returns a prediction, or a label and probabilities. The object has a method for each
    output, `n_features_in_`, and `classes_` if the graph contains the class labels.
    """

    def __init__(self, content: bytes) -> None:
        """Parse and normalize a serialized graph. Raises `NotPublishable` if it is unsupported, and `MissingExtra`."""
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("fast", "A .onnx file") from error
        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # Other content may raise any error.
            raise NotPublishable(f"The file is not an ONNX graph ({type(error).__name__}); export it again.") from error
        _check_no_external_data(model)
        classes = list(_class_labels(model.graph))
        _replace_zip_maps(model.graph)
        self.n_features_in_ = _normalize_input(model.graph)
        self.methods = _normalize_outputs(model)
        self.content: bytes = model.SerializeToString()
        self._session = open_session(self.content)
        if "predict_proba" in self.methods and classes:
            self.classes_ = np.array(classes)

    @property
    def task(self) -> Task:
        """The task: classification if the graph has probabilities, else regression."""
        return "classification" if "predict_proba" in self.methods else "regression"

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("methods", ()):
            return partial(self._run, name)
        raise AttributeError(name)

    def __deepcopy__(self, _: object) -> ImportedGraph:
        return self  # The graph is immutable.

    def _run(self, method: str, table: Any) -> Any:
        return self._session.run([method], {GRAPH_INPUT: np.asarray(table, dtype=np.float64)})[0]


def _check_no_external_data(model: Any) -> None:
    """Raise `NotPublishable` for a graph with external data: onnxruntime would read any file that the graph names."""
    from onnx import TensorProto

    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _messages_of_type(model, TensorProto)):
        raise NotPublishable("The graph stores tensors in other files; save it as one file.")


def _messages_of_type(message: Any, kind: type) -> Iterator[Any]:
    """Yield every message of a type in a model, also in branches, in functions and in sparse tensors."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _messages_of_type(part, kind)


def _class_labels(graph: Any) -> Iterator[str | int]:
    """Yield the class labels of the first operator that has them."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in CLASS_LABEL_ATTRIBUTES and (attribute.strings or attribute.ints):
                yield from (text.decode() for text in attribute.strings)
                yield from attribute.ints
                return


def _replace_zip_maps(graph: Any) -> None:
    """Replace each ZipMap operator by Identity, so that probabilities are an array, not a mapping for each row."""
    from onnx import helper

    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        graph.node.remove(node)
        identity = helper.make_node("Identity", list(node.input), list(node.output))
        graph.node.append(identity)
        for output in graph.output:
            if output.name in node.output:
                output.ClearField("type")


def _normalize_input(graph: Any) -> int:
    """Give the graph one input `GRAPH_INPUT` in double precision, and return the number of its columns."""
    from onnx import TensorProto, helper

    constants = {constant.name for constant in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in kinds:
        raise NotPublishable("The graph must take one array of floats, of shape (rows, features).")
    original = inputs[0]
    kind, shape = original.type.tensor_type.elem_type, original.type.tensor_type.shape.dim
    if len(shape) != 2 or not shape[1].dim_value:
        raise NotPublishable("The graph must take an array of shape (rows, features) with a fixed number of features.")
    cast = f"{original.name}_cast_by_flaskml"
    rename_values(graph, {original.name: cast})
    graph.node.insert(0, helper.make_node("Cast", [GRAPH_INPUT], [cast], to=kind))
    graph.input.remove(original)
    graph.input.append(helper.make_tensor_value_info(GRAPH_INPUT, TensorProto.DOUBLE, [None, shape[1].dim_value]))
    return int(shape[1].dim_value)


def _normalize_outputs(model: Any) -> tuple[str, ...]:
    """Name the first output `predict` and a second one with probabilities `predict_proba`; drop other outputs."""
    graph = model.graph
    outputs = [output.name for output in graph.output][:2]
    if not outputs:
        raise NotPublishable("The graph has no output; export it with an output for the prediction.")
    rename_values(graph, dict(zip(outputs, OUTPUT_METHODS, strict=False)))
    _set_outputs(graph, OUTPUT_METHODS[: len(outputs)])
    first, *second = _trial_outputs(model)
    if len(second) == 1 and not _is_probability_array(second[0]):
        _set_outputs(graph, OUTPUT_METHODS[:1])
    if first.ndim == 2 and first.shape[1] == 1:
        answer_with_last_column(graph, "predict", 1)
    return tuple(output.name for output in graph.output)


def _set_outputs(graph: Any, methods: Sequence[str]) -> None:
    """Set the outputs of the graph to these methods; onnxruntime infers their types."""
    del graph.output[:]
    for method in methods:
        graph.output.add(name=method)


def _trial_outputs(model: Any) -> list[np.ndarray]:
    """Return the outputs for some rows. Raises `NotPublishable` unless every output has one item for each row."""
    width = model.graph.input[-1].type.tensor_type.shape.dim[1].dim_value
    session = open_session(model.SerializeToString())
    try:
        answers: list[np.ndarray] = session.run(None, {GRAPH_INPUT: np.zeros((PROBE_ROWS, width))})
    except Exception as error:  # An operator may raise any error.
        problem = f"The graph does not compute {PROBE_ROWS} rows of {width} numbers ({type(error).__name__})"
        raise NotPublishable(f"{problem}; export it with a variable number of rows.") from error
    if any(not isinstance(answer, np.ndarray) or answer.ndim == 0 or len(answer) != PROBE_ROWS for answer in answers):
        raise NotPublishable("The graph must return a prediction, or a label and probabilities, for each row.")
    return answers


def _is_probability_array(answer: np.ndarray) -> bool:
    """Return whether each row holds non-negative floats with the sum 1."""
    if answer.ndim != 2 or answer.dtype.kind != "f":
        return False
    return bool((answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3))
