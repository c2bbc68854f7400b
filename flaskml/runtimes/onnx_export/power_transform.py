"""The converter of the Yeo-Johnson power transform to ONNX nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter

MAX_ZERO_EXPONENT = 1e-8
"""Exponents below which the logarithm is nearer to the power than the difference of two numbers near one."""


def write_power_transform(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write the power transform without its scaler.

    Box-Cox has no graph: scikit-learn raises an error for rows with numbers that are not positive, and a graph cannot.
    """
    if transformer.method != "yeo-johnson":
        raise NotPublishable("The step PowerTransformer has a graph with the method yeo-johnson only.")
    zero = writer.constant(0.0)
    exponents = np.asarray(transformer.lambdas_, dtype=np.float64)
    above = writer.add("Max", [block.tensor, zero])
    below = writer.add("Max", [writer.add("Neg", [block.tensor]), zero])
    # Of the two parts, the one on the other side of zero is exactly zero.
    parts = [_add_power(writer, above, exponents), _add_power(writer, below, 2.0 - exponents)]
    transformed = writer.add("Sub", parts)
    return Block(writer.add("Where", [writer.is_missing(block), block.tensor, transformed]), block.columns)


def _add_power(writer: ColumnWriter, tensor: str, exponents: np.ndarray) -> str:
    """Add ((1 + x) ** exponent - 1) / exponent, or log(1 + x) in columns whose exponent is zero."""
    one = writer.constant(1.0)
    shifted = writer.add("Add", [tensor, one])
    is_zero = np.abs(exponents) < MAX_ZERO_EXPONENT
    divisors = np.where(is_zero, 1.0, exponents)
    power = writer.add("Pow", [shifted, writer.constant(divisors)])
    power = writer.add("Div", [writer.add("Sub", [power, one]), writer.constant(divisors)])
    if not is_zero.any():
        return power
    return writer.add("Where", [writer.constant(is_zero, np.bool_), writer.add("Log", [shifted]), power])
