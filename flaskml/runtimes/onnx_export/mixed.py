"""Conversion of a pipeline that takes columns of several types: a graph of the columns, then one of the last step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx import GRAPH_INPUT, VOCABULARIES_KEY
from flaskml.runtimes.onnx_export.categories import Source, write_categories
from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter, Vocabularies
from flaskml.runtimes.onnx_export.columns import convert_columns
from flaskml.runtimes.onnx_export.final_step import convert_final_step, has_own_graph
from flaskml.schema.codes import has_text_codes
from flaskml.schema.features import Schema


def convert_mixed(
    estimator: Any, schema: Schema, convert: Callable[..., Any], *, raw_scores: bool
) -> tuple[Any, Mapping[int, Sequence[str]]]:
    """Return the ONNX model of an estimator, and the vocabularies of its text columns.

    `convert` returns the model of an estimator of a matrix of numbers. Raises `NotPublishable`.
    """
    columns = tuple(index if has_text_codes(feature) else None for index, feature in enumerate(schema.features))
    is_category = tuple(feature.dtype.startswith("category[") for feature in schema.features)
    source = Source(Block(GRAPH_INPUT, columns), is_category)
    model, vocabularies = _convert(estimator, source, convert, raw_scores=raw_scores)
    texts = vocabularies.as_lists()
    entry = model.metadata_props.add()
    entry.key, entry.value = VOCABULARIES_KEY, json.dumps({str(column): values for column, values in texts.items()})
    return model, texts


def convert_numbers(estimator: Any, sample: Any, *, raw_scores: bool) -> Any:
    """Return the ONNX model of a pipeline of numbers whose last step flaskml converts itself.

    Raises `NotPublishable`.
    """
    is_integer = isinstance(sample, np.ndarray) and sample.dtype.kind in "biu"
    width = int(sample.shape[1])
    source = Source(Block(GRAPH_INPUT, (None,) * width), (False,) * width, is_integer=is_integer)
    model, _ = _convert(estimator, source, convert_final_step, raw_scores=raw_scores)
    return model


def _convert(
    estimator: Any, source: Source, convert: Callable[..., Any], *, raw_scores: bool
) -> tuple[Any, Vocabularies]:
    """Return the ONNX model of an estimator that takes the columns of the source, and the vocabularies."""
    transformers, final_step = split_final_step(estimator)
    vocabularies, width = Vocabularies(), source.block.width
    _write_columns(transformers, final_step, source, vocabularies)  # The second time, the vocabularies are complete.
    writer, block = _write_columns(transformers, final_step, source, vocabularies)
    if block.has_codes:
        step = "the last transformer" if final_step is None else f"the step {type(final_step).__name__}"
        raise NotPublishable(f"A graph has no texts, which {step} takes or returns.")
    if final_step is None:
        return writer.model(width, [writer.add("Identity", [block.tensor])]), vocabularies
    convert = convert_final_step if has_own_graph(final_step) else convert
    model = convert(final_step, block.width, raw_scores=raw_scores)
    _prepend(model, writer, block.tensor, width)
    return model, vocabularies


def split_final_step(estimator: Any) -> tuple[Sequence[Any], Any]:
    """Return the transformers of a pipeline and its final estimator, None if that is a transformer too."""
    steps = _steps(estimator)
    return (steps[:-1], steps[-1]) if hasattr(steps[-1], "predict") else (steps, None)


def _steps(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, those of nested ones in their place; an estimator alone is one step."""
    if not hasattr(estimator, "steps"):
        return [estimator]
    return [part for _, step in estimator.steps for part in _steps(step)]


def _write_columns(
    transformers: Sequence[Any], final_step: Any, source: Source, vocabularies: Vocabularies
) -> tuple[ColumnWriter, Block]:
    writer, block = ColumnWriter(vocabularies), source.block
    for transformer in transformers:
        block = convert_columns(writer, transformer, block)
    if final_step is not None and has_own_graph(final_step):
        block = write_categories(writer, final_step, block, None if transformers else source)
        if hasattr(final_step, "get_booster") and any(map(_returns_sparse, transformers)):
            raise NotPublishable("There is no graph of XGBoost for sparse rows, whose zeros are missing values to it.")
    return writer, block


def _returns_sparse(transformer: Any) -> bool:
    """Return whether a transformer returns a sparse matrix."""
    return bool(getattr(transformer, "sparse_output_", getattr(transformer, "sparse_output", False)))


def _prepend(model: Any, writer: ColumnWriter, output: str, width: int) -> None:
    """Put the nodes of the columns before those of a model, whose input becomes their output."""
    graph = model.graph
    for node in graph.node:
        node.input[:] = [output if name == GRAPH_INPUT else name for name in node.input]
    nodes = [*writer.nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.constants)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = width
    present = {opset.domain for opset in model.opset_import}
    if any(node.domain == "ai.onnx.ml" for node in writer.nodes) and "ai.onnx.ml" not in present:
        model.opset_import.add(domain="ai.onnx.ml", version=3)
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = 17
