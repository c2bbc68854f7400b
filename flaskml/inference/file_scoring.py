"""Scoring of files: their rows are predicted in chunks, so a file may be larger than memory."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flaskml.codecs.csv_tables import open_csv_rows
from flaskml.codecs.rows import Rows
from flaskml.codecs.validation_report import decode_json
from flaskml.errors import FlaskmlError, InvalidInput, MissingExtra, NotParseable, Problem
from flaskml.inference.predictor import Predictor

CHUNK_ROWS = 2_000
"""Rows that are read and predicted at once."""

MAX_IGNORED_COLUMNS = 1_000
"""The number of ignored columns that are reported at most."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """An open file of rows, read lazily."""

    rows: Iterator[Any]
    """The rows of the file; a `Problem` in place of each row that is unreadable."""

    parse: Callable[[Sequence[Any]], Rows]
    """The parser of rows from this iterator. Raises `InvalidInput`."""

    position: Callable[[], int]
    """The part of the file that has been read, in the unit of `size`."""

    size: int
    """Bytes of a text file; rows of a binary one."""

    ignored_columns: Collection[str] = ()
    """Columns read so far that are no feature of the model, such as its target."""


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The answers to consecutive rows."""

    values: list[Any]
    """One JSON value per row; None for a refused row."""

    problems: list[Problem]
    """The problems of the refused rows, each with the number of its row in the file."""


def score_rows(predictor: Predictor, table: RowFile, method: str) -> Iterator[ScoredChunk]:
    """Yield the answers of a file chunk by chunk. A refused row does not affect the other rows of its chunk."""
    start = 0
    while chunk := list(islice(table.rows, CHUNK_ROWS)):
        try:
            yield ScoredChunk(_predict_values(predictor, table.parse(chunk), method), [])
        except FlaskmlError:
            yield _score_one_by_one(predictor, table, chunk, method, start)
        start += len(chunk)


def _predict_values(predictor: Predictor, rows: Rows, method: str) -> list[Any]:
    return predictor.json_values(predictor.predict(rows, method), method)


def _score_one_by_one(
    predictor: Predictor, table: RowFile, chunk: Sequence[Any], method: str, start: int
) -> ScoredChunk:
    values: list[Any] = []
    problems: list[Problem] = []
    for number, row in enumerate(chunk, start):
        try:
            values += _predict_values(predictor, table.parse([row]), method)
        except InvalidInput as error:
            values.append(None)
            problems += [Problem(number, problem.feature, problem.detail) for problem in error.problems]
        except FlaskmlError as error:
            values.append(None)
            problems.append(Problem(number, None, error.detail))
    return ScoredChunk(values, problems)


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


def _open_csv(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    file = stack.enter_context(path.open("rb"))
    lines = stack.enter_context(io.TextIOWrapper(file, "utf-8-sig", newline=""))
    parser = predictor.parser
    header, rows = open_csv_rows(lines)
    ignored = _ignored_columns(predictor, header)
    return RowFile(_drop_columns(rows, ignored), parser.parse_records, file.tell, path.stat().st_size, ignored)


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
    return RowFile(rows, _table_parser(predictor), file.tell, path.stat().st_size, ignored)


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

    def rows() -> Iterator[Any]:
        for start in range(0, len(array), CHUNK_ROWS):
            position[0] = start
            yield from array[start : start + CHUNK_ROWS].tolist()

    return RowFile(rows(), _table_parser(predictor), lambda: position[0], len(array))


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
    position = [0]

    def rows() -> Iterator[Any]:
        try:
            for batch in content.iter_batches(CHUNK_ROWS, columns=list(predictor.schema.names)):
                yield from batch.to_pylist()
                position[0] += batch.num_rows
        except (ArrowException, OSError) as error:
            raise NotParseable(f"it is damaged after row {position[0]} ({error})") from None

    return RowFile(rows(), _table_parser(predictor), lambda: position[0], content.metadata.num_rows, ignored)


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
