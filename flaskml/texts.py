"""Values that are written as text: the fields of forms and of CSV."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator

from flaskml.errors import InvalidInput, NotParseable, Problem, TooManyRows
from flaskml.schema import Feature, Value

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


def read_csv(body: bytes, most: int, *, blank_is_row: bool) -> tuple[list[str], list[dict[str, str] | Problem]]:
    """The header of a table and its rows, at most so many, each with its texts by column.

    In a table of one column a blank line is a row, but at the end. A line with more or fewer fields than the header is
    a problem instead of a row. Raises `NotParseable`, `InvalidInput` or `TooManyRows`.
    """
    try:
        lines = csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        header = next(lines, None)
        if not header:
            raise NotParseable("it is empty; send a header with the names of the features")
        twice = [name[:100] for name, count in Counter(header).items() if count > 1]
        if twice:
            raise InvalidInput([Problem(None, name, f'"{name}" is in the header more than once') for name in twice])
        rows = [_record(number, header, line) for number, line in _numbered(lines, most, blank_is_row)]
    except UnicodeDecodeError as error:
        raise NotParseable(f"byte {error.start} is not UTF-8") from None
    except csv.Error as error:
        raise NotParseable(f"it is no CSV ({error})") from None
    return header, rows


def _numbered(lines: Iterator[list[str]], most: int, blank_is_row: bool) -> Iterator[tuple[int, list[str]]]:
    """The lines that are rows, counted."""
    blank, count = 0, 0
    for line in lines:
        if not line:
            blank += blank_is_row
            continue
        for fields in [*([[""]] * blank), line]:
            if count == most:
                raise TooManyRows(most)
            yield count, fields
            count += 1
        blank = 0


def _record(number: int, header: list[str], line: list[str]) -> dict[str, str] | Problem:
    if len(line) != len(header):
        return Problem(number, None, f"it has {len(line)} fields and the header {len(header)}")
    return dict(zip(header, line, strict=True))
