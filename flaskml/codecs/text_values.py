"""Values that are written as text: the fields of forms and of CSV."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

from flaskml.errors import InvalidInput, NotParseable, Problem, TooManyRows
from flaskml.schema.features import Feature, Value

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_BOOLEANS = {"true": True, "false": False}


def as_browsers_write(name: str) -> Iterator[str]:
    """The name as forms may have it: with line ends as CR LF, and in multipart with these and quotes escaped.

    Source: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
    """
    for ends in (name, re.sub("\r\n|\r|\n", "\r\n", name)):
        yield ends
        yield ends.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def read_text(feature: Feature, text: str) -> Value:
    """The value that a text field stands for; a text that stands for none is returned as it is, to be refused."""
    if text == "":
        # Where training held no null, empty may be a text like others; as a category only if it is one of them.
        may_be_text = feature.kind == "text" or "" in (feature.categories or ())
        return text if may_be_text and not feature.nullable else None
    if feature.kind in ("category", "text") and not feature.is_whole:
        return text
    if feature.kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    if feature.is_whole and _INTEGER.fullmatch(text):
        return int(text)
    if feature.kind == "datetime":
        return text
    return float(text) if _NUMBER.fullmatch(text) else text


def read_csv(body: bytes, most: int) -> tuple[list[str], list[dict[str, str] | Problem]]:
    """The header of a table and its rows, at most so many, each with its texts by column.

    In a table of one column a blank line is a row, but at the end. A line with more or fewer fields than the header is
    a problem instead of a row. Raises `NotParseable`, `InvalidInput` or `TooManyRows`.
    """
    with _told_as_ours():
        header, records = open_csv(io.StringIO(body.decode("utf-8-sig"), newline=""))
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


def open_csv(lines: Iterable[str]) -> tuple[list[str], Iterator[dict[str, str] | Problem]]:
    """The same of a table of any length; its rows are read when asked for, and may raise `NotParseable` then."""
    reader = csv.reader(lines, strict=True)
    with _told_as_ours():
        header = next(reader, None)
    if not header:
        raise NotParseable("it is empty; send a header with the names of the features")
    twice = [name[:100] for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InvalidInput([Problem(None, name, f'"{name}" is in the header more than once') for name in twice])
    return header, _records(reader, header)


@contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise NotParseable(f"byte {error.start} is not UTF-8") from None
    except csv.Error as error:
        raise NotParseable(f"it is no CSV ({error})") from None


def _records(reader: Iterator[list[str]], header: list[str]) -> Iterator[dict[str, str] | Problem]:
    """The lines that are rows, with their texts by column."""
    number = -1
    try:
        for number, line in enumerate(_rows(reader, blank_is_row=len(header) == 1)):
            yield _record(number, header, line)
    except UnicodeDecodeError:  # Of a file, only that it is behind that row is known.
        raise NotParseable(f"what follows row {number} is not UTF-8") from None
    except csv.Error as error:
        raise NotParseable(f"it is no CSV behind row {number} ({error})") from None


def _rows(lines: Iterator[list[str]], *, blank_is_row: bool) -> Iterator[list[str]]:
    """The lines that are rows; blank ones are only if others follow."""
    blank = 0
    for line in lines:
        if line:
            yield from [[""]] * blank
            yield line
            blank = 0
        else:
            blank += blank_is_row


def _record(number: int, header: list[str], line: list[str]) -> dict[str, str] | Problem:
    if len(line) != len(header):
        return Problem(number, None, f"it has {len(line)} fields and the header {len(header)}")
    return dict(zip(header, line, strict=True))
