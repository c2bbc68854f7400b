"""A writer of the ONNX nodes that make a matrix of numbers of the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx import GRAPH_INPUT
from flaskml.schema.tables import json_value

OPSET = 17
"""The opset version of the nodes."""

MAX_OUTPUT_COLUMNS = 200_000
"""Columns of the matrix, at most: each row is computed in full, so a wider one is slower than the estimator."""


class Vocabularies:
    """The texts of each text column of the input, by position; the code of a text is its place."""

    def __init__(self) -> None:
        self.texts: dict[int, dict[str, int]] = {}

    def code(self, column: int, text: str) -> float:
        """Return the code of a text; a new text is added."""
        texts = self.texts.setdefault(column, {})
        return float(texts.setdefault(text, len(texts)))

    def as_lists(self) -> dict[int, list[str]]:
        """Return the texts of each column in the order of their codes."""
        return {column: list(texts) for column, texts in self.texts.items()}


@dataclass(frozen=True, slots=True)
class Block:
    """A tensor of doubles of shape (rows, columns)."""

    tensor: str
    columns: tuple[int | None, ...]
    """For each column of codes, the position of the text column whose vocabulary it uses; None for numbers."""

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.columns)

    @property
    def has_codes(self) -> bool:
        """True if a column holds codes of texts."""
        return any(column is not None for column in self.columns)


class ColumnWriter:
    """Adds nodes and constants to lists that become a graph."""

    def __init__(self, vocabularies: Vocabularies) -> None:
        self.vocabularies = vocabularies
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        output = f"columns_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.float64) -> str:
        """Add a constant, and return its name."""
        from onnx import numpy_helper

        name = f"columns_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def to_double(self, tensor: str) -> str:
        """Add a cast to double precision."""
        from onnx import TensorProto

        return self.add("Cast", [tensor], to=TensorProto.DOUBLE)

    def round_to_single(self, block: Block) -> Block:
        """Return the block rounded to single precision."""
        from onnx import TensorProto

        return Block(self.to_double(self.add("Cast", [block.tensor], to=TensorProto.FLOAT)), block.columns)

    def take(self, block: Block, positions: Sequence[int]) -> Block:
        """Return the columns of a block at these positions."""
        if list(positions) == list(range(block.width)):
            return block
        indices = self.constant(positions, np.int64)
        tensor = self.add("Gather", [block.tensor, indices], axis=1)
        return Block(tensor, tuple(block.columns[position] for position in positions))

    def numbers(self, tensor: str, width: int) -> Block:
        """Return a block of numbers."""
        if width > MAX_OUTPUT_COLUMNS:
            raise NotPublishable(f"The columns become more than {MAX_OUTPUT_COLUMNS:,} numbers, too many for a graph.")
        return Block(tensor, (None,) * width)

    def join(self, blocks: Sequence[Block]) -> Block:
        """Return the columns of all blocks, in order."""
        blocks = [block for block in blocks if block.width]
        if not blocks:
            raise NotPublishable("The columns become no numbers.")
        if len(blocks) == 1:
            return blocks[0]
        tensor = self.add("Concat", [block.tensor for block in blocks], axis=1)
        return Block(tensor, tuple(column for block in blocks for column in block.columns))

    def is_missing(self, block: Block) -> str:
        """Add the test for missing values, which are NaN."""
        return self.add("IsNaN", [block.tensor])

    def fill(self, block: Block, values: Sequence[float]) -> Block:
        """Return the block with its missing values replaced by one value for each column."""
        tensor = self.add("Where", [self.is_missing(block), self.constant(values), block.tensor])
        return Block(tensor, block.columns)

    def code(self, column: int | None, value: Any) -> float:
        """Return the double that stands for a value of a column: the code of a text, NaN for a missing value."""
        if json_value(value) is None:
            return float("nan")
        if column is not None:
            if not isinstance(value, str):
                raise NotPublishable("A column of texts has values that are not texts.")
            return self.vocabularies.code(column, value)
        if isinstance(value, str):
            raise NotPublishable("A column of numbers is compared with texts.")
        return float(value)

    def embed(self, model: Any, tensor: str) -> str:
        """Add the nodes of a model with one input, which `tensor` replaces, and return the name of its first output."""
        prefix = f"embedded_{len(self.nodes)}_"
        names = {model.graph.input[0].name: tensor, "": ""}
        for constant in model.graph.initializer:
            names[constant.name] = constant.name = prefix + constant.name
            self.constants.append(constant)
        for node in model.graph.node:
            names |= {output: prefix + output for output in node.output if output}
        for node in model.graph.node:
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
            node.name = prefix + node.name
            self.nodes.append(node)
        return names[model.graph.output[0].name]

    def model(self, width: int, outputs: Sequence[str]) -> Any:
        """Return the ONNX model of the nodes with an input of `width` columns."""
        from onnx import TensorProto, helper

        graph_input = helper.make_tensor_value_info(GRAPH_INPUT, TensorProto.DOUBLE, [None, width])
        graph_outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "columns", [graph_input], graph_outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
