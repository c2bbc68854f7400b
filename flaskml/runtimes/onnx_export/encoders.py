"""Converters of the encoders of categories to ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter

MAX_GROUPING_NUMBERS = 4_000_000
"""Numbers of the largest matrix that groups infrequent categories: it is multiplied for each row."""


def _category_codes(writer: ColumnWriter, encoder: Any, block: Block) -> list[list[float]]:
    """Return the doubles that stand for the categories of each column."""
    return [
        [writer.code(column, value) for value in categories.tolist()]
        for column, categories in zip(block.columns, encoder.categories_, strict=True)
    ]


def _infrequent_mapping(encoder: Any, index: int) -> Any:
    """Return the number of the group of each category of a column; None if it has no infrequent category."""
    mappings = getattr(encoder, "_default_to_infrequent_mappings", None)
    return None if mappings is None else mappings[index]


def _groups(encoder: Any, index: int, count: int) -> np.ndarray:
    """Return the number of the group of each category; infrequent categories share the last group."""
    mapping = _infrequent_mapping(encoder, index)
    if mapping is None:
        return np.arange(count)
    # An ordinal encoder groups no missing value; it comes last.
    return np.concatenate([mapping, np.full(count - len(mapping), np.max(mapping) + 1)]).astype(np.int64)


def _equals(writer: ColumnWriter, block: Block, codes: Sequence[Sequence[float]]) -> str:
    """Add a tensor of ones and zeros with a column for each code of each column: whether the value is the code."""
    positions = [index for index, column in enumerate(codes) for _ in column]
    flat = np.array([code for column in codes for code in column], dtype=np.float64)
    values = writer.numbers(block.tensor, len(positions)).tensor
    values = writer.add("Gather", [values, writer.constant(positions, np.int64)], axis=1)
    is_equal = writer.add("Equal", [values, writer.constant(flat)])
    if np.isnan(flat).any():
        both = writer.add("And", [writer.add("IsNaN", [values]), writer.constant(np.isnan(flat), np.bool_)])
        is_equal = writer.add("Or", [is_equal, both])
    return writer.to_double(is_equal)


def convert_one_hot(writer: ColumnWriter, encoder: Any, block: Block) -> Block:
    """Write a column of zeros and ones for each category, or group of infrequent ones, that is not dropped."""
    codes = _category_codes(writer, encoder, block)
    groups = [_groups(encoder, index, len(column)) for index, column in enumerate(codes)]
    dropped = getattr(encoder, "_drop_idx_after_grouping", encoder.drop_idx_)
    dropped = [None] * len(codes) if dropped is None else list(dropped)
    if all(_infrequent_mapping(encoder, index) is None for index in range(len(codes))):
        kept = [
            [code for code, group in zip(column, group_numbers, strict=True) if group != drop]
            for column, group_numbers, drop in zip(codes, groups, dropped, strict=True)
        ]
        return writer.numbers(_equals(writer, block, kept), sum(map(len, kept)))
    return _grouped_one_hot(writer, encoder, block, codes, groups, dropped)


def _grouped_one_hot(
    writer: ColumnWriter,
    encoder: Any,
    block: Block,
    codes: Sequence[Sequence[float]],
    groups: Sequence[np.ndarray],
    dropped: Sequence[Any],
) -> Block:
    """Write the sums of the columns of each group; an unknown category may be one of the infrequent ones."""
    rows, outputs = sum(map(len, codes)), sum(int(group.max()) + 1 for group in groups)
    if rows * outputs > MAX_GROUPING_NUMBERS:
        raise NotPublishable("The infrequent categories are too many for a graph.")
    sums, base, kept = np.zeros((rows, outputs)), np.zeros(outputs), []
    row = output = 0
    for index, (group, drop) in enumerate(zip(groups, dropped, strict=True)):
        count = int(group.max()) + 1
        has_infrequent = _infrequent_mapping(encoder, index) is not None
        for number in group:
            sums[row, output + number] = 1.0
            row += 1
        if has_infrequent and encoder.handle_unknown in ("infrequent_if_exist", "warn"):
            last = output + count - 1
            base[last] = 1.0
            sums[row - len(group) : row, last] = np.where(group == count - 1, 0.0, -1.0)
        kept += [output + number for number in range(count) if number != drop]
        output += count
    product = writer.add("MatMul", [_equals(writer, block, codes), writer.constant(sums[:, kept])])
    tensor = writer.add("Add", [product, writer.constant(base[kept])]) if base.any() else product
    return writer.numbers(tensor, len(kept))


def convert_ordinal(writer: ColumnWriter, encoder: Any, block: Block) -> Block:
    """Write the number of each category. A missing value that is NaN has a number of its own, None is a category."""
    has_unknown = encoder.handle_unknown == "use_encoded_value"
    codes = _category_codes(writer, encoder, block)
    values, defaults = [], []
    for index, categories in enumerate(encoder.categories_):
        groups = _groups(encoder, index, len(categories)).astype(np.float64)
        is_nan = [isinstance(value, float) and value != value for value in categories.tolist()]
        values.append(np.where(is_nan, float(encoder.encoded_missing_value), groups))
        defaults.append(float(encoder.unknown_value) if has_unknown else np.nan)
    return lookup(writer, block, codes, values, defaults)


def convert_target(writer: ColumnWriter, encoder: Any, block: Block) -> Block:
    """Write the mean of the target that was learnt for each category; of more than two classes, one mean for each."""
    codes, means = _category_codes(writer, encoder, block), np.ravel(encoder.target_mean_).tolist()
    positions = [index for index in range(block.width) for _ in means]
    columns = writer.take(block, positions)
    return lookup(writer, columns, [codes[index] for index in positions], encoder.encodings_, means * block.width)


def convert_bins(writer: ColumnWriter, transformer: Any, block: Block) -> Block:
    """Write the number of the interval of each value, or a column of zeros and ones for each interval."""
    if block.has_codes:
        raise NotPublishable("The step KBinsDiscretizer has no graph for texts.")
    edges = [column_edges[1:-1] for column_edges in transformer.bin_edges_]
    positions = [index for index, column_edges in enumerate(edges) for _ in column_edges]
    counts = np.array([[float(position == column) for column in range(block.width)] for position in positions])
    values = writer.add("Gather", [block.tensor, writer.constant(positions, np.int64)], axis=1)
    is_above = writer.add("GreaterOrEqual", [values, writer.constant(np.concatenate(edges))])
    numbers = writer.add("MatMul", [writer.to_double(is_above), writer.constant(counts)])
    bins = writer.numbers(numbers, block.width)
    if transformer.encode == "ordinal":
        return bins
    codes = [[float(number) for number in range(count)] for count in transformer.n_bins_]
    return writer.numbers(_equals(writer, bins, codes), sum(map(len, codes)))


def lookup(
    writer: ColumnWriter,
    block: Block,
    codes: Sequence[Sequence[float]],
    values: Sequence[Any],
    defaults: Sequence[float],
) -> Block:
    """Write the value of each code; unknown codes get the default of their column, missing values without a code too.

    `codes`, `values` and `defaults` have an item for each column. The columns of numbers have few codes, so each is
    compared with all of them.
    """
    parts: list[Block] = []
    texts = [index for index, column in enumerate(block.columns) if column is not None]
    if texts:
        own_codes, own_values = ([sequence[index] for index in texts] for sequence in (codes, values))
        own_defaults = [defaults[index] for index in texts]
        parts.append(_lookup_texts(writer, writer.take(block, texts), own_codes, own_values, own_defaults))
    for index in range(block.width):
        if index not in texts:
            parts.append(
                _lookup_numbers(writer, writer.take(block, [index]), codes[index], values[index], defaults[index])
            )
    order = [*texts, *(index for index in range(block.width) if index not in texts)]
    return writer.take(writer.join(parts), [order.index(index) for index in range(block.width)])


def _lookup_texts(
    writer: ColumnWriter,
    block: Block,
    codes: Sequence[Sequence[float]],
    values: Sequence[Any],
    defaults: Sequence[float],
) -> Block:
    """Write the lookup in one table: for each column the default, the value of each code, and that of a missing one."""
    table: list[float] = []
    offsets, missing_codes = [], []
    for column, own_codes, own_values, default in zip(block.columns, codes, values, defaults, strict=True):
        size = len(writer.vocabularies.texts.get(column or 0, {}))
        entries = np.full(size + 2, float(default))
        for code, value in zip(own_codes, own_values, strict=True):
            entries[size + 1 if code != code else int(code) + 1] = value
        offsets.append(len(table) + 1)
        missing_codes.append(float(size))
        table += entries.tolist()
    filled = writer.fill(block, missing_codes)
    places = writer.add("Cast", [writer.add("Add", [filled.tensor, writer.constant(offsets)])], to=7)
    return writer.numbers(writer.add("Gather", [writer.constant(table), places]), block.width)


def _lookup_numbers(writer: ColumnWriter, block: Block, codes: Sequence[float], values: Any, default: float) -> Block:
    """Write the lookup of one column of numbers."""
    if default != default or np.isnan(np.asarray(values, dtype=np.float64)).any():
        raise NotPublishable("An encoder of numbers has a graph only if each category becomes a number.")
    differences = np.asarray(values, dtype=np.float64).reshape(-1, 1) - default
    product = writer.add("MatMul", [_equals(writer, block, [codes]), writer.constant(differences)])
    return writer.numbers(writer.add("Add", [product, writer.constant([default])]), 1)
