"""Files of rows: CSV, JSON Lines, NumPy arrays and Parquet, read in parts, so a file may be larger than memory.

A part gives its values by column, if all of them are valid, or else its rows one by one.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from flaskml.codecs.column_checks import ColumnChecks, without_negative_zeros
from flaskml.codecs.csv_tables import csv_record, open_csv_lines
from flaskml.codecs.rows import Rows
from flaskml.codecs.validation_report import decode_json
from flaskml.errors import InvalidInput, MissingExtra, NotParseable, Problem
from flaskml.inference.predictor import Predictor
from flaskml.schema.columns import CodedColumn, Column, Columns
from flaskml.schema.features import Feature
from flaskml.schema.tables import json_value

PART_ROWS = 2_000
"""Rows that are read and predicted at once."""

MAX_IGNORED_COLUMNS = 1_000
"""The number of ignored columns that are reported at most."""


@dataclass(frozen=True, slots=True)
class RowPart:
    """Consecutive rows of a file."""

    row_count: int

    read_columns: Callable[[], Columns | None]
    """Returns the values of all rows by column; None if they are to be read one by one."""

    read_rows: Callable[[], Sequence[Any]]
    """Returns the rows for `RowFile.parse`."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """An open file of rows, read lazily."""

    parts: Iterator[RowPart]

    parse: Callable[[Sequence[Any]], Rows]
    """The parser of rows of a part. Raises `InvalidInput`."""

    position: Callable[[], int]
    """The amount of the file that has been read, in the unit of `size`."""

    size: int
    """Bytes of a text file; rows of a binary one."""

    ignored_columns: Collection[str] = ()
    """Columns read so far that are no feature of the model, such as its target."""


@contextmanager
def open_row_file(path: Path, predictor: Predictor) -> Iterator[RowFile]:
    """Open a file of rows by its suffix, one of `FILE_READERS`.

    Raises `NotParseable` for any other suffix or for damaged content, `InvalidInput` for columns or a width that do
    not fit the model, `MissingExtra` for Parquet without pyarrow.
    """
    open_file = FILE_READERS.get(path.suffix.lower())
    if open_file is None:
        raise NotParseable(f"{path.name} ends in none of {', '.join(FILE_READERS)}")
    with ExitStack() as stack:
        yield open_file(stack, path, predictor)


def _parts_of(rows: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield lists of consecutive rows."""
    while part := list(islice(rows, PART_ROWS)):
        yield part


def _no_columns() -> None:
    """Return None: the rows are read one by one."""


def _open_csv(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    file = stack.enter_context(path.open("rb"))
    lines = stack.enter_context(io.TextIOWrapper(file, "utf-8-sig", newline=""))
    header, rows = open_csv_lines(lines)
    ignored = _ignored_columns(predictor, header)
    checks, positions = ColumnChecks(predictor.schema), [header.index(name) for name in predictor.schema.names]
    starts = count(0, PART_ROWS)

    def part_of(start: int, fields: list[list[str]]) -> RowPart:
        def read_columns() -> Columns | None:
            if set(map(len, fields)) != {len(header)}:
                return None
            by_column = list(zip(*fields, strict=True))
            columns = checks.from_texts(by_column[position] for position in positions)
            return columns if columns is not None and checks.are_valid(columns) else None

        def read_rows() -> Sequence[Any]:
            return list(_drop_columns((csv_record(*line) for line in numbered()), ignored))

        def numbered() -> Iterator[tuple[int, list[str], list[str]]]:
            return ((number, header, line) for number, line in enumerate(fields, start))

        return RowPart(len(fields), read_columns, read_rows)

    parts = (part_of(start, fields) for start, fields in zip(starts, _parts_of(rows), strict=False))
    return RowFile(parts, predictor.parser.parse_records, file.tell, path.stat().st_size, ignored)


def _ignored_columns(predictor: Predictor, columns: Sequence[str]) -> list[str]:
    """Return the columns that are no feature. Raises `InvalidInput` if a feature has no column."""
    predictor.parser.check_columns(columns)
    return [column for column in columns if column not in predictor.schema.names]


def _drop_columns(rows: Iterable[Any], columns: Sequence[str]) -> Iterator[Any]:
    for row in rows:
        if isinstance(row, dict):
            for column in columns:
                del row[column]
        yield row


def _open_jsonl(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    file = stack.enter_context(path.open("rb"))
    ignored: dict[str, None] = {}
    rows = _drop_unknown_keys(_decode_lines(file), predictor.schema.names, ignored)
    return RowFile(_row_parts(rows), _table_parser(predictor), file.tell, path.stat().st_size, ignored)


def _row_parts(rows: Iterator[Any]) -> Iterator[RowPart]:
    """Yield parts of rows that are read one by one."""
    for part in _parts_of(rows):
        yield RowPart(len(part), _no_columns, part.copy)


def _decode_lines(lines: Iterable[bytes]) -> Iterator[Any]:
    for number, line in enumerate(lines):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        if content.strip():
            try:
                yield decode_json(content)
            except NotParseable as error:
                yield Problem(None, None, error.detail)


def _drop_unknown_keys(rows: Iterable[Any], names: Sequence[str], ignored: dict[str, None]) -> Iterator[Any]:
    """Yield the rows without unknown keys, and collect up to `MAX_IGNORED_COLUMNS` of these keys in `ignored`."""
    known = frozenset(names)
    for row in rows:
        if isinstance(row, dict) and (unknown := row.keys() - known):
            ignored |= dict.fromkeys(sorted(unknown)[: MAX_IGNORED_COLUMNS - len(ignored)])
            yield {name: value for name, value in row.items() if name in known}
        else:
            yield row


def _open_npy(_: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise NotParseable(f"it is not an array of numbers ({error})") from None
    if array.ndim != 2:
        raise NotParseable(f"the array has {array.ndim} dimensions; it needs 2, rows and features")
    predictor.parser.check_width(array.shape[1])
    position = [0]

    def parts() -> Iterator[RowPart]:
        for start in range(0, len(array), PART_ROWS):
            position[0] = start
            part = array[start : start + PART_ROWS]
            yield RowPart(len(part), _no_columns, part.tolist)

    return RowFile(parts(), _table_parser(predictor), lambda: position[0], len(array))


def _open_parquet(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("parquet", "Reading Parquet") from error
    try:
        content = stack.enter_context(ParquetFile(path))
    except ArrowException as error:
        raise NotParseable(f"it is not a Parquet file ({error})") from None
    ignored = _ignored_columns(predictor, content.schema_arrow.names)
    checks, position = ColumnChecks(predictor.schema), [0]

    def read_columns(batch: Any) -> Columns | None:
        columns: list[Column] = []
        for feature in predictor.schema.features:
            column = _arrow_column(feature, batch.column(feature.name))
            if column is None:
                return None
            columns.append(column)
        return columns if checks.are_valid(columns) else None

    def parts() -> Iterator[RowPart]:
        try:
            for batch in content.iter_batches(PART_ROWS, columns=list(predictor.schema.names)):
                yield RowPart(batch.num_rows, partial(read_columns, batch), partial(_rows_of_batch, batch))
                position[0] += batch.num_rows
        except (ArrowException, OSError) as error:
            raise NotParseable(f"it is damaged after row {position[0]} ({error})") from None

    return RowFile(parts(), _table_parser(predictor), lambda: position[0], content.metadata.num_rows, ignored)


def _rows_of_batch(batch: Any) -> Sequence[Any]:
    """Return the rows of a batch. Raises `NotParseable` for a value that Python does not have."""
    try:
        rows: list[Any] = batch.to_pylist()
    except (ValueError, OverflowError) as error:
        raise NotParseable(f"a value cannot be read ({error})") from None
    return rows


def _arrow_column(feature: Feature, array: Any) -> Column | None:
    """Return an Arrow array as a column of a feature; None if its values are of another kind."""
    import pyarrow as pa

    kind = array.type
    numbers = ("is_boolean",) if feature.kind == "boolean" else _NUMBER_TYPES
    if feature.is_numeric or feature.kind == "boolean":
        is_number = any(getattr(pa.types, name)(kind) for name in numbers)
        if not is_number:
            return None
        column = np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)
        return without_negative_zeros(column) if feature.is_whole else column
    is_coded = pa.types.is_dictionary(kind)
    if not any(getattr(pa.types, name)(kind.value_type if is_coded else kind) for name in _CODED_TYPES):
        return None
    coded = array if is_coded else array.dictionary_encode()  # Few values are different.
    values = np.empty(len(coded.dictionary) + 1, dtype=object)
    try:
        values[:-1] = [json_value(value) for value in coded.dictionary.to_pylist()]
    except (ValueError, OverflowError):  # Python has no such value: a year of five digits, or bytes that are not UTF-8.
        return None
    codes = coded.indices.fill_null(len(coded.dictionary)).to_numpy(zero_copy_only=False)
    return CodedColumn(values, codes)


_NUMBER_TYPES = ("is_integer", "is_float32", "is_float64")
"""The predicates of pyarrow for the types of numbers."""

_CODED_TYPES = ("is_string", "is_large_string", "is_timestamp", "is_date32")
"""The predicates for the types of texts, categories, and datetimes, whose different values are few."""


def _table_parser(predictor: Predictor) -> Callable[[Sequence[Any]], Rows]:
    def parse(rows: Sequence[Any]) -> Rows:
        problems = [row for row in rows if isinstance(row, Problem)]
        if problems:
            raise InvalidInput(problems)
        return predictor.parser.parse_table(rows)

    return parse


FILE_READERS: Mapping[str, Callable[[ExitStack, Path, Predictor], RowFile]] = {
    ".csv": _open_csv,
    ".jsonl": _open_jsonl,
    ".npy": _open_npy,
    ".parquet": _open_parquet,
}
"""The function that opens a file, by its suffix."""
