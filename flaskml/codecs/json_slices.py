"""Long JSON arrays and objects, cut into slices that are valid JSON by themselves.

A JSON library holds the GIL for a whole call, up to a tenth of a second for the largest body. In slices, other threads
wait a few milliseconds at most. A cut is a guess: it may be inside of a nested value or a string. If so, a slice before
it is not valid JSON, and the caller must decode the text as a whole. If all slices are valid, so is the whole text, and
its elements are those of the slices: elements, a comma, and further elements are the elements of one array.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

SLICE_BYTES = 2**14
"""Bytes after which a slice ends with the next element. pydantic takes up to 0.2 microseconds for a byte of a row with
thousands of names, and 0.03 for a byte of another row."""

MIN_SLICED_BYTES = 2**16
"""Bytes of the shortest text that is cut into slices."""

_SPACE = rb"[ \t\n\r]*"
_ARRAY_START = re.compile(_SPACE + rb"\[" + _SPACE)
_ARRAY_END = re.compile(rb"\]" + _SPACE + rb"\Z")
_INSTANCES_START = re.compile(_SPACE + rb"\{" + _SPACE + rb'"instances"' + _SPACE + rb":" + _SPACE + rb"\[" + _SPACE)
_INSTANCES_END = re.compile(rb"\]" + _SPACE + rb"\}" + _SPACE + rb"\Z")
_OBJECT_START = re.compile(_SPACE + rb"\{")
_OBJECT_END = re.compile(rb"\}" + _SPACE + rb"\Z")
_STRUCTURE = re.compile(rb'["\[\]{},]')
_NESTED_START = re.compile(rb'(?:[ \t\n\r]*(?:[\[{]|"[^"]*"[ \t\n\r]*:)){100}')
"""The beginning of a hundred arrays and objects within each other."""

_NAME_END = re.compile(rb'"' + _SPACE + rb":")

_ENDS = {b"{": b"},", b"[": b"],", b'"': b'",'}
"""The end of an element with the comma behind it, by the first byte of the element."""


def slice_array(body: bytes) -> list[bytes] | None:
    """Return arrays with the elements of an array, in order; None if the body is no array that may be cut."""
    return _array_slices(body, _ARRAY_START, _ARRAY_END)


def slice_instances(body: bytes) -> list[bytes] | None:
    """Return the same for the array of a body `{"instances": [...]}`."""
    return _array_slices(body, _INSTANCES_START, _INSTANCES_END)


def slice_object(body: bytes) -> list[bytes] | None:
    """Return objects with the members of an object, in order; None if the body is no object that may be cut."""
    if (opened := _OBJECT_START.match(body)) and (closed := _OBJECT_END.search(body, _last(b"}", body))):
        return _slices(body, opened.end(), closed.start(), b",", b"{%b}")
    return None


def has_more_names(text: bytes, count: int) -> bool:
    """Return whether a JSON text has more than `count` names of members."""
    return text.count(b":") > count and next(islice(_NAME_END.finditer(text), count, None), None) is not None


def has_excess_structure(text: bytes, max_depth: int, max_values: int, max_rows: int) -> bool:
    """Return whether a JSON text has values within values, or an innermost array or object has too many values.

    The search ends at the first excess, or at another fault: too many rows, or a nesting that no decoder takes. It is a
    loop in Python, so that the GIL is free in between.
    """
    if text.count(b",") <= max_values and text.count(b"[") + text.count(b"{") <= max_values:
        return False  # Such a text is decoded quickly, whatever its structure.
    counts, position = [0], 0
    while sign := _STRUCTURE.search(text, position):
        position = sign.end()
        if sign[0] == b'"':
            position = _after_string(text, position)
        elif sign[0] in (b"[", b"{"):
            counts.append(0)
        elif sign[0] == b",":
            counts[-1] += 1
        elif len(counts) > 1:
            counts.pop()
        depth = len(counts) - 1
        if depth > max_depth:
            return _NESTED_START.match(text, position) is None
        if depth == max_depth and counts[-1] > max_values:
            return True
        if depth < max_depth and counts[-1] > max_rows:
            return False
    return False


def _after_string(text: bytes, position: int) -> int:
    """Return the position behind the string that is open at `position`."""
    while (end := text.find(b'"', position)) >= 0:
        before = text[position:end]
        position = end + 1
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return position
    return len(text)


def _array_slices(body: bytes, start: re.Pattern[bytes], end: re.Pattern[bytes]) -> list[bytes] | None:
    if (opened := start.match(body)) and (closed := end.search(body, _last(b"]", body))):
        element_end = _ENDS.get(body[opened.end() : opened.end() + 1], b",")
        return _slices(body, opened.end(), closed.start(), element_end, b"[%b]")
    return None


def _last(byte: bytes, body: bytes) -> int:
    """Return the last position of a byte, or the end of the body."""
    position = body.rfind(byte)
    return len(body) if position < 0 else position


def _slices(body: bytes, start: int, end: int, element_end: bytes, form: bytes) -> list[bytes] | None:
    parts = [body[first:last] for first, last in _cuts(body, start, end, element_end)]
    # An empty part would be a valid array, but two commas in a row are not.
    is_cut = len(parts) > 1 and not any(part.isspace() or not part for part in parts)
    return [form % part for part in parts] if is_cut else None


def _cuts(body: bytes, start: int, end: int, element_end: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each slice of `body[start:end]`, without the commas between them."""
    outside, position = start, start + SLICE_BYTES  # `outside` is a position that is in no string.
    while (found := body.find(element_end, position, end)) >= 0:
        cut = found + len(element_end) - 1
        if _is_in_string(body[outside:cut]):
            outside = position = _after_string(body, cut)
        else:
            yield start, cut
            start = outside = cut + 1
            position = start + SLICE_BYTES
    yield start, end


def _is_in_string(text: bytes) -> bool:
    """Return whether a text that begins outside of a string ends inside of one."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return text.count(b'"') % 2 == 1
