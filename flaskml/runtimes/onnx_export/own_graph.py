"""A graph of one estimator whose class skl2onnx does not know, or whose input it does not know."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

from flaskml.runtimes.onnx import GRAPH_INPUT
from flaskml.runtimes.onnx_export.column_writer import OPSET
from flaskml.runtimes.onnx_export.tree_ensemble import finalize_tree_nodes

IR_VERSION = 10
"""The version of the file format, which all releases of onnxruntime read that have the TreeEnsemble operator."""


class OwnGraph:
    """The scope, the container and the operator of skl2onnx in one object, as far as `GraphWriter` uses them."""

    def __init__(self, estimator: Any, outputs: Sequence[str]) -> None:
        self.raw_operator = estimator
        self.has_category_numbers = True
        self.inputs = [SimpleNamespace(full_name=GRAPH_INPUT)]
        self.outputs = [SimpleNamespace(full_name=name) for name in outputs]
        self._numbers = count()
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def get_unique_variable_name(self, seed: str) -> str:
        """Return a new name."""
        return f"{seed}_{next(self._numbers)}"

    def add_node(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        op_domain: str = "",
        op_version: int = 0,
        **attributes: Any,
    ) -> None:
        """Add a node; its version is that of the graph, whatever `op_version` is."""
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=op_domain, **attributes))

    def add_initializer(self, name: str, kind: int, shape: Sequence[int], values: Sequence[Any]) -> None:
        """Add a constant."""
        from onnx import helper

        self._constants.append(helper.make_tensor(name, kind, shape, values))

    def model(self, width: int) -> Any:
        """Return the ONNX model, whose input has `width` columns; onnxruntime infers the types of the outputs."""
        from onnx import TensorProto, ValueInfoProto, helper

        graph_input = helper.make_tensor_value_info(GRAPH_INPUT, TensorProto.DOUBLE, [None, width])
        outputs = [ValueInfoProto(name=output.full_name) for output in self.outputs]
        graph = helper.make_graph(self._nodes, "estimator", [graph_input], outputs, self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        finalize_tree_nodes(model)
        return model
