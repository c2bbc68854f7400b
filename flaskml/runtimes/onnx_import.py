"""ONNX graphs that somebody else made: their inputs and outputs under our names, and asked like an estimator."""

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
"""What outputs answer, by their order."""

PROBE_ROWS = 3
"""Rows that a graph is tried with."""

CLASS_LABEL_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
"""The attributes in which operators that classify hold the names of classes."""


class ImportedGraph:
    """A graph of one array in, and a prediction, or a label and probabilities, out.

    It has the methods of an estimator that it answers, `n_features_in_`, and `classes_` if the graph names them.
    """

    def __init__(self, content: bytes) -> None:
        """Raises `NotPublishable` for what is no such graph, and `MissingExtra`."""
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("fast", "A .onnx file") from error
        try:
            model = onnx.load_model_from_string(content)
        except Exception as error:  # What is no graph may fail in any way.
            raise NotPublishable(f"It is no ONNX file ({type(error).__name__}).") from error
        _refuse_other_files(model)
        classes = list(_labels(model.graph))
        _drop_zip_maps(model.graph)
        self.n_features_in_ = _settle_input(model.graph)
        self.methods = _settle_outputs(model)
        self.content: bytes = model.SerializeToString()
        self._session = open_session(self.content)
        if "predict_proba" in self.methods and classes:
            self.classes_ = np.array(classes)

    @property
    def task(self) -> Task:
        """What kind of question it answers, by its outputs."""
        return "classification" if "predict_proba" in self.methods else "regression"

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("methods", ()):
            return partial(self._ask, name)
        raise AttributeError(name)

    def __deepcopy__(self, _: object) -> ImportedGraph:
        return self  # Nothing in it ever changes.

    def _ask(self, method: str, table: Any) -> Any:
        return self._session.run([method], {GRAPH_INPUT: np.asarray(table, dtype=np.float64)})[0]


def _refuse_other_files(model: Any) -> None:
    """A graph may keep its numbers in other files, and then names what is read when it is loaded."""
    from onnx import TensorProto

    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _parts(model, TensorProto)):
        raise NotPublishable("The graph keeps a part of itself in other files; save it as one file.")


def _parts(message: Any, kind: type) -> Iterator[Any]:
    """Every part of a kind in a model, wherever it is: in branches, in functions, in sparse tensors."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _parts(part, kind)


def _labels(graph: Any) -> Iterator[str | int]:
    """The names of the classes, from the first operator that holds them."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in CLASS_LABEL_ATTRIBUTES and (attribute.strings or attribute.ints):
                yield from (text.decode() for text in attribute.strings)
                yield from attribute.ints
                return


def _drop_zip_maps(graph: Any) -> None:
    """Has the graph answer probabilities as an array, not as a mapping for each row."""
    from onnx import helper

    for node in [node for node in graph.node if node.op_type == "ZipMap"]:
        graph.node.remove(node)
        identity = helper.make_node("Identity", list(node.input), list(node.output))
        graph.node.append(identity)
        for output in graph.output:
            if output.name in node.output:
                output.ClearField("type")


def _settle_input(graph: Any) -> int:
    """Has the graph take an array in double precision under our name; the number of its columns."""
    from onnx import TensorProto, helper

    constants = {constant.name for constant in graph.initializer}
    inputs = [given for given in graph.input if given.name not in constants]
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in kinds:
        raise NotPublishable("The graph must take one array of floats, of shape (rows, features).")
    given = inputs[0]
    kind, shape = given.type.tensor_type.elem_type, given.type.tensor_type.shape.dim
    if len(shape) != 2 or not shape[1].dim_value:
        raise NotPublishable("The graph must take an array of shape (rows, features), with the features counted.")
    taken = f"{given.name}_taken"
    rename_values(graph, {given.name: taken})
    graph.node.insert(0, helper.make_node("Cast", [GRAPH_INPUT], [taken], to=kind))
    graph.input.remove(given)
    graph.input.append(helper.make_tensor_value_info(GRAPH_INPUT, TensorProto.DOUBLE, [None, shape[1].dim_value]))
    return int(shape[1].dim_value)


def _settle_outputs(model: Any) -> tuple[str, ...]:
    """Names the outputs after the methods that they answer, and drops others; a second one may be probabilities."""
    graph = model.graph
    outputs = [output.name for output in graph.output][:2]
    if not outputs:
        raise NotPublishable("The graph answers nothing.")
    rename_values(graph, dict(zip(outputs, OUTPUT_METHODS, strict=False)))
    _keep(graph, OUTPUT_METHODS[: len(outputs)])
    first, *second = _tried(model)
    if len(second) == 1 and not _are_probabilities(second[0]):
        _keep(graph, OUTPUT_METHODS[:1])
    if first.ndim == 2 and first.shape[1] == 1:
        answer_with_last_column(graph, "predict", 1)
    return tuple(output.name for output in graph.output)


def _keep(graph: Any, methods: Sequence[str]) -> None:
    """Has the graph answer these methods and nothing else; the types follow from where they come from."""
    del graph.output[:]
    for method in methods:
        graph.output.add(name=method)


def _tried(model: Any) -> list[np.ndarray]:
    """What the graph answers to some rows. Raises `NotPublishable` for what is no answer for each of them."""
    width = model.graph.input[-1].type.tensor_type.shape.dim[1].dim_value
    session = open_session(model.SerializeToString())
    try:
        answers: list[np.ndarray] = session.run(None, {GRAPH_INPUT: np.zeros((PROBE_ROWS, width))})
    except Exception as error:  # Whatever it raises, it does not answer.
        raise NotPublishable(f"The graph does not compute rows of {width} numbers ({type(error).__name__}).") from error
    if any(not isinstance(answer, np.ndarray) or answer.ndim == 0 or len(answer) != PROBE_ROWS for answer in answers):
        raise NotPublishable("The graph must answer each row with a prediction, or with a label and probabilities.")
    return answers


def _are_probabilities(answer: np.ndarray) -> bool:
    """Whether each row holds shares of one."""
    if answer.ndim != 2 or answer.dtype.kind != "f":
        return False
    return bool((answer >= 0).all() and np.allclose(answer.sum(axis=1), 1, atol=1e-3))
