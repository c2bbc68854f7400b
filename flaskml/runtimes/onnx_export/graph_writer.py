"""A writer of ONNX nodes for the converters of estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class GraphWriter:
    """Adds the nodes of one estimator to the graph that skl2onnx builds."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        """Take the arguments that skl2onnx passes to a converter."""
        self._scope = scope
        self._container = container
        self.rows: str = operator.inputs[0].full_name
        self.has_category_numbers: bool = getattr(operator, "has_category_numbers", False)
        """True if the rows hold the numbers of categories (`categories`), not the categories themselves."""

    def add_custom_node(self, kind: str, inputs: Sequence[str], domain: str, **attributes: Any) -> str:
        """Add a node of a custom domain, and return the name of its output."""
        output: str = self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(kind, list(inputs), [output], op_domain=domain, op_version=1, **attributes)
        return output

    def add_node(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node of a standard operator, and return the name of its output."""
        output = output or self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(kind, list(inputs), [output], op_version=13, **attributes)
        return output

    def cast_rows_to_double(self) -> str:
        """Add a cast of the rows to double precision, and return the name of its output."""
        from onnx import TensorProto

        return self.add_node("Cast", [self.rows], to=TensorProto.DOUBLE)

    def add_constant(self, values: Any, kind: str = "DOUBLE") -> str:
        """Add a constant of an ONNX tensor type, and return its name."""
        from onnx import TensorProto

        name: str = self._scope.get_unique_variable_name("constant")
        array = np.asarray(values)
        items = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        self._container.add_initializer(name, getattr(TensorProto, kind), list(array.shape), items)
        return name

    def add_scalar(self, value: float) -> str:
        """Add a constant without dimensions, and return its name."""
        return self.add_constant(np.float64(value))

    def add_argmax_label(self, scores: str, labels: np.ndarray, output: str) -> None:
        """Add the label of the column with the largest score; the first column wins a tie."""
        self._add_label(self.add_node("ArgMax", [scores], axis=1, keepdims=0), labels, output)

    def add_binary_label(self, scores: str, labels: np.ndarray, output: str, *, or_zero: bool = False) -> None:
        """Add the second of two labels where a row's only score is above zero, with `or_zero` also where it is zero."""
        from onnx import TensorProto

        is_second = self.add_node("GreaterOrEqual" if or_zero else "Greater", [scores, self.add_constant([0.0])])
        column = self.add_node("Cast", [is_second], to=TensorProto.INT64)
        self._add_label(self.add_node("Reshape", [column, self.add_constant([-1], "INT64")]), labels, output)

    def _add_label(self, indices: str, labels: np.ndarray, output: str) -> None:
        """Add the labels at these indices; boolean and float labels are integers here."""
        if labels.dtype.kind in "iubf":
            self.add_node("Gather", [self.add_constant(labels.astype(np.int64), "INT64"), indices], output)
        else:
            self.add_node("Gather", [self.add_constant(labels, "STRING"), indices], output)

    def add_probabilities(self, log_odds: str, classes: int, output: str) -> None:
        """Add the probabilities of log-odds: the sigmoid for two classes, the softmax for more."""
        if classes > 2:
            self.add_node("Softmax", [log_odds], output, axis=1)
            return
        # The Sigmoid operator keeps only sixteen decimal places of a small probability, and so ruins its logarithm.
        one = self.add_constant([1.0])
        exponential = self.add_node("Exp", [self.add_node("Neg", [log_odds])])
        second = self.add_node("Div", [one, self.add_node("Add", [one, exponential])])
        self.add_node("Concat", [self.add_node("Sub", [one, second]), second], output, axis=1)
