"""What converters of estimators write the nodes of their graphs with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class GraphWriter:
    """Adds nodes to the graph that skl2onnx makes."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope = scope
        self._container = container
        self.rows: str = operator.inputs[0].full_name

    def add(self, kind: str, inputs: Sequence[str], domain: str, **attributes: Any) -> str:
        """Adds a node of a domain of our own, and returns the name of its output."""
        output: str = self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(kind, list(inputs), [output], op_domain=domain, op_version=1, **attributes)
        return output

    def node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Adds a node of the standard operators, and returns the name of its output."""
        output = output or self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(kind, list(inputs), [output], op_version=13, **attributes)
        return output

    def doubles(self) -> str:
        """The rows in double precision, whatever the step before gives."""
        from onnx import TensorProto

        return self.node("Cast", [self.rows], to=TensorProto.DOUBLE)

    def constant(self, values: Any, kind: str = "DOUBLE") -> str:
        """Adds a constant, and returns its name."""
        from onnx import TensorProto

        name: str = self._scope.get_unique_variable_name("constant")
        array = np.asarray(values)
        items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        self._container.add_initializer(name, getattr(TensorProto, kind), list(array.shape), items)
        return name

    def best(self, scores: str, labels: np.ndarray, output: str) -> None:
        """Adds the label of the column with the largest score, the first of several."""
        self._label(self.node("ArgMax", [scores], axis=1, keepdims=0), labels, output)

    def above_zero(self, scores: str, labels: np.ndarray, output: str, *, or_zero: bool = False) -> None:
        """Adds the second of two labels where the one score of a row is above zero, or is zero and that suffices."""
        from onnx import TensorProto

        is_second = self.node("GreaterOrEqual" if or_zero else "Greater", [scores, self.constant([0.0])])
        column = self.node("Cast", [is_second], to=TensorProto.INT64)
        self._label(self.node("Reshape", [column, self.constant([-1], "INT64")]), labels, output)

    def _label(self, places: str, labels: np.ndarray, output: str) -> None:
        """Adds the labels at these places; booleans and floats as whole numbers."""
        if labels.dtype.kind in "iubf":
            self.node("Gather", [self.constant(labels.astype(np.int64), "INT64"), places], output)
        else:
            self.node("Gather", [self.constant(labels, "STRING"), places], output)

    def probabilities(self, scores: str, classes: int, output: str) -> None:
        """Adds the probabilities of log-odds: one of the second of two classes, or one for each class."""
        if classes > 2:
            self.node("Softmax", [scores], output, axis=1)
            return
        # The operator Sigmoid loses all but sixteen decimal places of a small probability, and its logarithm.
        one = self.constant([1.0])
        second = self.node("Div", [one, self.node("Add", [one, self.node("Exp", [self.node("Neg", [scores])])])])
        self.node("Concat", [self.node("Sub", [one, second]), second], output, axis=1)
