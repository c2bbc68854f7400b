"""CSV tables: the readers of requests and files, and the writer of examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaskml.errors import InvalidTraining

if TYPE_CHECKING:
    import pandas as pd


import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from operator import itemgetter

from flaskml.errors import InvalidInput, NotParseable, Problem, TooManyRows
from flaskml.schema.features import Value


def read_csv_rows(body: bytes, most: int, max_commas: int) -> tuple[list[str], list[dict[str, str] | Problem]]:
    """The header of a table and its rows, at most so many, each with its texts by column.

    In a table of one column a blank line is a row, but at the end. A line with more or fewer fields than the header is
    a problem instead of a row. Raises `NotParseable`, `InvalidInput` or `TooManyRows`.
    """
    with _told_as_ours():
        lines = io.StringIO(body.decode("utf-8-sig"), newline="")
        header, records = open_csv_rows(_with_few_commas(lines, max_commas))
        rows = list(islice(records, most + 1))
    if len(rows) > most:
        raise TooManyRows(most)
    return header, rows


def write_csv(rows: Sequence[Mapping[str, Value]]) -> str:
    """A table of such rows, all of the same columns."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(rows[0])
    writer.writerows([_written(value) for value in row.values()] for row in rows)
    return file.getvalue()


def _written(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value


def open_csv_rows(lines: Iterable[str]) -> tuple[list[str], Iterator[dict[str, str] | Problem]]:
    """Return the same for a table of any length. Its rows are read lazily, and may raise `NotParseable`."""
    header, rows = open_csv_lines(lines)
    return header, (csv_record(number, header, line) for number, line in enumerate(rows))


def open_csv_lines(lines: Iterable[str]) -> tuple[list[str], Iterator[list[str]]]:
    """Return the header and the fields of each row, also of rows with more or fewer fields than the header."""
    reader = csv.reader(lines, strict=True)
    with _told_as_ours():
        header = next(reader, None)
    if not header:
        raise NotParseable("it is empty; send a header with the names of the features")
    twice = [name[:100] for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InvalidInput([Problem(None, name, f'"{name}" is in the header more than once') for name in twice])
    return header, _lines(reader, header)


@contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise NotParseable(f"byte {error.start} is not UTF-8") from None
    except csv.Error as error:
        raise NotParseable(f"it is no CSV ({error})") from None


def _with_few_commas(lines: Iterable[str], max_commas: int) -> Iterator[str]:
    """Yield the lines of a request. The library holds the GIL for one line at a time, because this is Python."""
    for line in lines:
        if len(line) > max_commas and line.count(",") > max_commas:
            raise NotParseable(f"a line has more than {max_commas:,} commas")
        yield line


def _lines(reader: Iterator[list[str]], header: list[str]) -> Iterator[list[str]]:
    """Yield the fields of each row."""
    rows = _rows(reader) if len(header) == 1 else filter(None, reader)
    numbers = count()
    try:
        yield from map(itemgetter(1), zip(numbers, rows, strict=False))
    except UnicodeDecodeError:  # Of a file, only that it is behind that row is known.
        raise NotParseable(f"what follows {_line_name(next(numbers) - 2)} is not UTF-8") from None
    except csv.Error as error:
        raise NotParseable(f"it is no CSV behind {_line_name(next(numbers) - 2)} ({error})") from None


def _line_name(row: int) -> str:
    return "the header" if row < 0 else f"row {row}"


def _rows(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the rows of a table of one column: a blank line is one if others follow."""
    blank = 0
    for line in lines:
        if line:
            yield from [[""]] * blank
            yield line
            blank = 0
        else:
            blank += 1


def csv_record(number: int, header: list[str], line: list[str]) -> dict[str, str] | Problem:
    """Return the texts of a row by column; a problem if it has more or fewer fields than the header."""
    if len(line) != len(header):
        return Problem(number, None, f"it has {len(line)} fields and the header {len(header)}")
    return dict(zip(header, line, strict=True))


_READING: dict[str, Any] = {
    "encoding": "utf-8-sig",
    "compression": None,  # Not inferred from a name: a small file must not become a large table.
    "on_bad_lines": "error",
    "keep_default_na": False,
}


MISSING_VALUE_WORDS = frozenset({"NA", "N/A", "NaN", "nan", "NULL", "null", "None", "#N/A"})
"""Words that stand for a gap in a column of numbers. Only nothing stands for one in a column of texts."""


def read_csv_frame(source: Path, name: str) -> pd.DataFrame:
    """The table of a CSV file with a header, in UTF-8. Raises `InvalidTraining` saying what is wrong with it."""
    import pandas as pd

    try:
        # A first row with more fields than the header is an error here; below it would move every column by one.
        head = pd.read_csv(source, header=None, nrows=2, dtype=str, **_READING)
        table = pd.read_csv(source, low_memory=False, na_values=[""], **_READING)
    except OSError as error:
        raise InvalidTraining(f"{name} cannot be read ({error.strerror}).") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise InvalidTraining(f"{name} is not a CSV table in UTF-8 ({str(error).strip()[:200]}).") from error
    _refuse_equal_names(head.iloc[0].tolist(), name)
    table.columns = table.columns.map(str)
    mended: pd.DataFrame = table.apply(_numbers_with_gaps)
    return mended


def _refuse_equal_names(header: list[str], name: str) -> None:
    """Of two columns with one name, the second would be read under another and hide what it is."""
    twice = {column for column in header if column and header.count(column) > 1}
    if twice:
        raise InvalidTraining(f'{name} has more than one column called "{min(twice)[:40]}".')


def _numbers_with_gaps(column: pd.Series) -> pd.Series:
    """A column of numbers in which gaps are written in words; in a column of texts such a word is a text."""
    import pandas as pd

    if column.dtype.kind in "biuf" or not column.isin(MISSING_VALUE_WORDS).any():
        return column
    try:
        return pd.to_numeric(column.mask(column.isin(MISSING_VALUE_WORDS)))
    except (ValueError, TypeError):
        return column
