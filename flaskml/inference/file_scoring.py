"""Files of rows, predicted in chunks: a file may be larger than memory."""

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

from flaskml.codecs import validation_report as diagnosis
from flaskml.codecs.csv_tables import open_csv_rows
from flaskml.codecs.parser import Rows
from flaskml.errors import FlaskmlError, InvalidInput, MissingExtra, NotParseable, Problem
from flaskml.inference.predictor import Predictor

CHUNK_ROWS = 2_000
"""Rows that are read and predicted at once."""


MAX_IGNORED_COLUMNS = 1_000
"""Names beside the features that are told at most."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """The rows of a file, read as they are asked for, and what makes the model's rows of some of them."""

    rows: Iterator[Any]
    """A problem stands where there was no row to be read."""

    parse: Callable[[Sequence[Any]], Rows]

    position: Callable[[], int]
    """How much of the file has been read, in the unit of `size`."""

    size: int

    left_out: Collection[str] = ()
    """Columns of the file that the model does not know, of those that were read."""


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """What became of some rows that follow one another."""

    values: list[Any]
    """One a row, as in JSON; None for one that was refused."""

    refused: list[Problem]
    """Why, with the number of the row in the file."""


def score_rows(predictor: Predictor, table: RowFile, method: str) -> Iterator[ScoredChunk]:
    """Predicts a table chunk by chunk. A row that is refused loses nothing but itself."""
    start = 0
    while chunk := list(islice(table.rows, CHUNK_ROWS)):
        try:
            yield ScoredChunk(_predicted(predictor, table.parse(chunk), method), [])
        except FlaskmlError:
            yield _one_by_one(predictor, table, chunk, method, start)
        start += len(chunk)


def _predicted(predictor: Predictor, rows: Rows, method: str) -> list[Any]:
    return predictor.values(predictor.predict(rows, method), method)


def _one_by_one(predictor: Predictor, table: RowFile, chunk: Sequence[Any], method: str, start: int) -> ScoredChunk:
    values: list[Any] = []
    refused: list[Problem] = []
    for number, row in enumerate(chunk, start):
        try:
            values += _predicted(predictor, table.parse([row]), method)
        except InvalidInput as error:
            values.append(None)
            refused += [Problem(number, found.feature, found.detail) for found in error.problems]
        except FlaskmlError as error:
            values.append(None)
            refused.append(Problem(number, None, error.detail))
    return ScoredChunk(values, refused)


@contextmanager
def open_row_file(path: Path, predictor: Predictor) -> Iterator[RowFile]:
    """The rows of a file, by the end of its name. Raises `NotParseable` for one that is none of these."""
    opened = FILE_READERS.get(path.suffix.lower())
    if opened is None:
        raise NotParseable(f"{path.name} ends in none of {', '.join(FILE_READERS)}")
    with ExitStack() as stack:
        yield opened(stack, path, predictor)


def _open_csv(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    file = stack.enter_context(path.open("rb"))
    lines = stack.enter_context(io.TextIOWrapper(file, "utf-8-sig", newline=""))
    parser = predictor.parser
    header, rows = open_csv_rows(lines)
    left_out = _left_out(predictor, header)
    return RowFile(_without(rows, left_out), parser.parse_texts, file.tell, path.stat().st_size, left_out)


def _left_out(predictor: Predictor, columns: Sequence[str]) -> list[str]:
    """The columns that the model does not know, such as its target; those that it needs must be there."""
    predictor.parser.check_columns(columns)
    return [column for column in columns if column not in predictor.schema.names]


def _without(rows: Iterable[Any], columns: Sequence[str]) -> Iterator[Any]:
    for row in rows:
        if isinstance(row, dict):
            for column in columns:
                del row[column]
        yield row


def _open_jsonl(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    file = stack.enter_context(path.open("rb"))
    left_out: dict[str, None] = {}
    rows = _known(_documents(file), predictor.schema.names, left_out)
    return RowFile(rows, _parse_with(predictor), file.tell, path.stat().st_size, left_out)


def _documents(lines: Iterable[bytes]) -> Iterator[Any]:
    for number, line in enumerate(lines):
        content = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
        if content.strip():
            try:
                yield diagnosis.decode_json(content)
            except NotParseable as error:
                yield Problem(None, None, error.detail)


def _known(rows: Iterable[Any], names: Sequence[str], left_out: dict[str, None]) -> Iterator[Any]:
    """The rows without what the model does not know, the names of which are noted, up to a thousand."""
    known = frozenset(names)
    for row in rows:
        if isinstance(row, dict) and (more := row.keys() - known):
            left_out |= dict.fromkeys(sorted(more)[: MAX_IGNORED_COLUMNS - len(left_out)])
            yield {name: value for name, value in row.items() if name in known}
        else:
            yield row


def _open_npy(_: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise NotParseable(f"it is no array of numbers ({error})") from None
    if array.ndim != 2:
        raise NotParseable(f"it is an array of {array.ndim} dimensions, where 2 are needed: rows and features")
    predictor.parser.check_width(array.shape[1])
    read = [0]

    def rows() -> Iterator[Any]:
        for start in range(0, len(array), CHUNK_ROWS):
            read[0] = start
            yield from array[start : start + CHUNK_ROWS].tolist()

    return RowFile(rows(), _parse_with(predictor), lambda: read[0], len(array))


def _open_parquet(stack: ExitStack, path: Path, predictor: Predictor) -> RowFile:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("parquet", "Reading Parquet") from error
    try:
        content = stack.enter_context(ParquetFile(path))
    except ArrowException as error:
        raise NotParseable(f"it is no Parquet file ({error})") from None
    left_out = _left_out(predictor, content.schema_arrow.names)
    read = [0]

    def rows() -> Iterator[Any]:
        try:
            for batch in content.iter_batches(CHUNK_ROWS, columns=list(predictor.schema.names)):
                yield from batch.to_pylist()
                read[0] += batch.num_rows
        except (ArrowException, OSError) as error:
            raise NotParseable(f"it is damaged behind row {read[0]} ({error})") from None

    return RowFile(rows(), _parse_with(predictor), lambda: read[0], content.metadata.num_rows, left_out)


def _parse_with(predictor: Predictor) -> Callable[[Sequence[Any]], Rows]:
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
"""What reads a file, by the end of its name."""
