"""The columns of categories of tree ensembles, as whole numbers.

scikit-learn and LightGBM number the categories of a column, and their trees split by sets of these numbers. An unknown
or a missing category becomes -1 or NaN, which is in no set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter
from flaskml.runtimes.onnx_export.encoders import lookup
from flaskml.schema.tables import json_value

NO_NUMBER = -1.0
"""The number of an unknown or missing category."""


@dataclass(frozen=True, slots=True)
class Source:
    """The columns of a table that an estimator takes."""

    block: Block
    is_category: tuple[bool, ...]
    """True for each column of a frame that has the dtype category."""

    is_integer: bool = False
    """True for an array of integers."""


def write_categories(writer: ColumnWriter, estimator: Any, block: Block, source: Source | None) -> Block:
    """Return the columns as the trees of the estimator take them.

    `source` describes the columns if no step changed them. Raises `NotPublishable`.
    """
    if getattr(estimator, "is_categorical_", None) is not None:
        return _write_sklearn_categories(writer, estimator, block)
    if not hasattr(estimator, "booster_"):
        return block
    if categories := estimator.booster_.pandas_categorical:
        return _write_pandas_categories(writer, categories, block, source)
    # LightGBM rounds integers to single precision.
    return writer.round_to_single(block) if source is not None and source.is_integer else block


def _write_sklearn_categories(writer: ColumnWriter, estimator: Any, block: Block) -> Block:
    """Return the categories first, then the numbers: the order of histogram gradient boosting."""
    mask = np.asarray(estimator.is_categorical_, dtype=bool)
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    categories = writer.take(block, np.flatnonzero(mask).tolist())
    numbers = writer.take(block, np.flatnonzero(~mask).tolist())
    return writer.join([_number(writer, categories, encoder.categories_), numbers])


def _write_pandas_categories(
    writer: ColumnWriter, categories: Sequence[Sequence[Any]], block: Block, source: Source | None
) -> Block:
    """Return the columns in their order; an unknown category is missing, as LightGBM has it."""
    mask = np.array([column is not None for column in block.columns] if source is None else source.is_category)
    positions, others = np.flatnonzero(mask).tolist(), np.flatnonzero(~mask).tolist()
    if len(positions) != len(categories):
        raise NotPublishable("There is no graph of LightGBM for columns of categories that other steps return.")
    numbers = _number(writer, writer.take(block, positions), [np.array(part, dtype=object) for part in categories])
    is_unknown = writer.add("Less", [numbers.tensor, writer.constant([0.0])])
    known = Block(writer.add("Where", [is_unknown, writer.constant([np.nan]), numbers.tensor]), numbers.columns)
    joined = writer.join([known, writer.take(block, others)])
    return writer.take(joined, np.argsort([*positions, *others]).tolist())


def _number(writer: ColumnWriter, block: Block, categories: Sequence[np.ndarray]) -> Block:
    """Return the number of the category of each value."""
    lists = [column.tolist() for column in categories]
    codes = [
        [writer.code(column, value) for value in values] for column, values in zip(block.columns, lists, strict=True)
    ]
    numbers = [
        [NO_NUMBER if json_value(value) is None else float(index) for index, value in enumerate(values)]
        for values in lists
    ]
    is_text = all(column is not None for column in block.columns)
    if is_text and all(
        code == number or code != code
        for column_codes, column_numbers in zip(codes, numbers, strict=True)
        for code, number in zip(column_codes, column_numbers, strict=True)
    ):
        return writer.numbers(block.tensor, block.width)  # The codes of the vocabulary are the numbers.
    return lookup(writer, block, codes, numbers, [NO_NUMBER] * block.width)
