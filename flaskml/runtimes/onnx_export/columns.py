"""Converters of fitted preprocessing to ONNX nodes in double precision: columns in, a matrix of numbers out.

Each converter takes the writer, the fitted transformer and the block of its input columns, and returns the block of its
output columns. Selection compares every graph with the estimator, so a converter states what it knows, and raises
`NotPublishable` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter
from flaskml.runtimes.onnx_export.date_parts import write_date_parts
from flaskml.runtimes.onnx_export.encoders import convert_bins, convert_one_hot, convert_ordinal, convert_target
from flaskml.runtimes.onnx_export.power_transform import write_power_transform

Converter: TypeAlias = Callable[[ColumnWriter, Any, Block], Block]


def convert_columns(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write the nodes of a fitted transformer, or of a pipeline of them. Raises `NotPublishable`."""
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return block
    converter = _converters().get(type(transformer))
    if converter is not None:
        return converter(writer, transformer, block)
    if block.has_codes:
        raise NotPublishable(f"The step {type(transformer).__name__} has no graph for texts.")
    return _convert_by_library(writer, transformer, block)


def _converters() -> Mapping[type, Converter]:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import MissingIndicator, SimpleImputer
    from sklearn.pipeline import FeatureUnion, Pipeline
    from sklearn.preprocessing import (
        FunctionTransformer,
        KBinsDiscretizer,
        MaxAbsScaler,
        MinMaxScaler,
        OneHotEncoder,
        OrdinalEncoder,
        PolynomialFeatures,
        PowerTransformer,
        RobustScaler,
        StandardScaler,
        TargetEncoder,
    )

    return {
        ColumnTransformer: _convert_column_transformer,
        FeatureUnion: _convert_union,
        Pipeline: _convert_pipeline,
        SimpleImputer: _convert_imputer,
        MissingIndicator: _convert_indicator,
        StandardScaler: _convert_standard_scaler,
        MinMaxScaler: _convert_min_max_scaler,
        MaxAbsScaler: _convert_max_abs_scaler,
        RobustScaler: _convert_robust_scaler,
        FunctionTransformer: _convert_function,
        OneHotEncoder: convert_one_hot,
        OrdinalEncoder: convert_ordinal,
        TargetEncoder: convert_target,
        KBinsDiscretizer: convert_bins,
        PolynomialFeatures: _convert_polynomial,
        PowerTransformer: _convert_power,
    }


def _convert_column_transformer(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write each transformer on its columns, which may be used several times or not at all."""
    weights, parts = transformer.transformer_weights or {}, []
    for name, part, _ in transformer.transformers_:
        positions = transformer._transformer_to_input_indices[name]
        if len(positions) and not (isinstance(part, str) and part == "drop"):
            columns = writer.take(block, [int(position) for position in positions])
            parts.append(_weighted(writer, convert_columns(writer, part, columns), weights.get(name)))
    return writer.join(parts)


def _convert_union(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    weights = transformer.transformer_weights or {}
    kept = [(name, part) for name, part in transformer.transformer_list if not isinstance(part, str) or part != "drop"]
    parts = [_weighted(writer, convert_columns(writer, part, block), weights.get(name)) for name, part in kept]
    return writer.join(parts)


def _weighted(writer: ColumnWriter, block: Block, weight: float | None) -> Block:
    if weight is None:
        return block
    _require_numbers(block, "A transformer weight")
    return Block(writer.add("Mul", [block.tensor, writer.constant([weight])]), block.columns)


def _convert_pipeline(writer: ColumnWriter, pipeline: Any, block: Block) -> Block:
    for _, step in pipeline.steps:
        block = convert_columns(writer, step, block)
    return block


def _require_numbers(block: Block, step: str) -> None:
    if block.has_codes:
        raise NotPublishable(f"{step} has no graph for texts.")


def _convert_imputer(writer: ColumnWriter, imputer: Any, block: Block) -> Block:
    """Write the replacement of missing values; a column without a fill value is dropped, as scikit-learn does."""
    filled = [writer.code(column, value) for column, value in zip(block.columns, imputer.statistics_, strict=True)]
    missing = _missing_mask(writer, imputer.missing_values, block)
    kept = [index for index, value in enumerate(filled) if value == value]
    values = [value if value == value else 0.0 for value in filled]
    output = Block(writer.add("Where", [missing, writer.constant(values), block.tensor]), block.columns)
    parts = [writer.take(output, kept)]
    if imputer.add_indicator:
        parts.append(_indicator_columns(writer, imputer.indicator_.features_, missing))
    return writer.join(parts)


def _convert_indicator(writer: ColumnWriter, indicator: Any, block: Block) -> Block:
    missing = _missing_mask(writer, indicator.missing_values, block)
    return _indicator_columns(writer, indicator.features_, missing)


def _indicator_columns(writer: ColumnWriter, positions: Sequence[int], missing: str) -> Block:
    """Return a block of ones where the columns at these positions are missing, and zeros elsewhere."""
    numbers = writer.numbers(writer.to_double(missing), int(max(positions, default=-1)) + 1)
    return writer.take(numbers, list(map(int, positions))) if len(positions) < numbers.width else numbers


def _missing_mask(writer: ColumnWriter, marker: Any, block: Block) -> str:
    """Add the test for the value that marks missing ones."""
    codes = [writer.code(column, marker) for column in block.columns]
    if all(code != code for code in codes):
        return writer.is_missing(block)
    return writer.add("Equal", [block.tensor, writer.constant(codes)])


def _convert_standard_scaler(writer: ColumnWriter, scaler: Any, block: Block) -> Block:
    _require_numbers(block, "The step StandardScaler")
    tensor = block.tensor
    if scaler.with_mean:
        tensor = writer.add("Sub", [tensor, writer.constant(scaler.mean_)])
    if scaler.with_std:
        tensor = writer.add("Div", [tensor, writer.constant(scaler.scale_)])
    return Block(tensor, block.columns)


def _convert_min_max_scaler(writer: ColumnWriter, scaler: Any, block: Block) -> Block:
    _require_numbers(block, "The step MinMaxScaler")
    tensor = writer.add("Mul", [block.tensor, writer.constant(scaler.scale_)])
    tensor = writer.add("Add", [tensor, writer.constant(scaler.min_)])
    if scaler.clip:
        low, high = (writer.constant(bound, np.float64) for bound in scaler.feature_range)
        tensor = writer.add("Clip", [tensor, low, high])
    return Block(tensor, block.columns)


def _convert_max_abs_scaler(writer: ColumnWriter, scaler: Any, block: Block) -> Block:
    _require_numbers(block, "The step MaxAbsScaler")
    return Block(writer.add("Div", [block.tensor, writer.constant(scaler.scale_)]), block.columns)


def _convert_robust_scaler(writer: ColumnWriter, scaler: Any, block: Block) -> Block:
    _require_numbers(block, "The step RobustScaler")
    tensor = block.tensor
    if scaler.with_centering:
        tensor = writer.add("Sub", [tensor, writer.constant(scaler.center_)])
    if scaler.with_scaling:
        tensor = writer.add("Div", [tensor, writer.constant(scaler.scale_)])
    return Block(tensor, block.columns)


def _convert_power(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    _require_numbers(block, "The step PowerTransformer")
    transformed = write_power_transform(writer, transformer, block)
    return (
        _convert_standard_scaler(writer, transformer._scaler, transformed) if transformer.standardize else transformed
    )


def _convert_polynomial(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write the products of columns, factor by factor; a term of fewer factors is filled with ones."""
    _require_numbers(block, "The step PolynomialFeatures")
    factors = [np.repeat(np.arange(block.width), powers).tolist() for powers in transformer.powers_]
    zeros = writer.add("Mul", [writer.take(block, [0]).tensor, writer.constant([0.0])])
    ones = writer.numbers(writer.add("Add", [zeros, writer.constant([1.0])]), 1)
    columns = writer.join([block, ones])
    product = ""
    for place in range(max(map(len, factors))):
        positions = [term[place] if place < len(term) else block.width for term in factors]
        factor = writer.take(columns, positions).tensor
        product = writer.add("Mul", [product, factor]) if product else factor
    return writer.numbers(product, len(factors))


def _add_log1p(writer: ColumnWriter, tensor: str) -> str:
    return writer.add("Log", [writer.add("Add", [tensor, writer.constant([1.0])])])


FUNCTIONS: Mapping[Any, Callable[[ColumnWriter, str], str]] = {
    np.abs: lambda writer, tensor: writer.add("Abs", [tensor]),
    np.ceil: lambda writer, tensor: writer.add("Ceil", [tensor]),
    np.exp: lambda writer, tensor: writer.add("Exp", [tensor]),
    np.floor: lambda writer, tensor: writer.add("Floor", [tensor]),
    np.log: lambda writer, tensor: writer.add("Log", [tensor]),
    np.log1p: _add_log1p,
    np.negative: lambda writer, tensor: writer.add("Neg", [tensor]),
    np.reciprocal: lambda writer, tensor: writer.add("Reciprocal", [tensor]),
    np.sign: lambda writer, tensor: writer.add("Sign", [tensor]),
    np.sqrt: lambda writer, tensor: writer.add("Sqrt", [tensor]),
    np.square: lambda writer, tensor: writer.add("Mul", [tensor, tensor]),
    np.tanh: lambda writer, tensor: writer.add("Tanh", [tensor]),
}
"""The nodes of the functions of numpy that a FunctionTransformer may call."""


def _convert_function(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    function = transformer.func
    if function is None:
        return block
    name = getattr(function, "__qualname__", getattr(function, "__name__", type(function).__name__))
    if transformer.kw_args:
        raise NotPublishable(f"The step FunctionTransformer({name}) has arguments, and no graph.")
    if f"{getattr(function, '__module__', '')}.{name}" == "flaskml.training.transformers.date_parts":
        return write_date_parts(writer, block)
    if function not in FUNCTIONS:
        raise NotPublishable(f"The step FunctionTransformer({name}) has no graph.")
    _require_numbers(block, f"The step FunctionTransformer({name})")
    return Block(FUNCTIONS[function](writer, block.tensor), block.columns)


def _convert_by_library(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write the nodes that skl2onnx makes of a transformer of numbers."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType

    name = type(transformer).__name__
    try:
        width = int(np.shape(transformer.transform(np.zeros((1, block.width))))[1])
        model = convert_sklearn(
            transformer, initial_types=[("x", DoubleTensorType([None, block.width]))], target_opset=17
        )
    except Exception as error:  # A converter may raise any error.
        raise NotPublishable(f"The step {name} has no graph.") from error
    if any(opset.domain not in ("", "ai.onnx.ml") for opset in model.opset_import):
        raise NotPublishable(f"The step {name} has no graph of standard operators.")
    return writer.numbers(writer.to_double(writer.embed(model, block.tensor)), width)
