"""Arrays of numbers in NumPy's format, from whoever sends them: a header that NumPy would not write is not read."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from flaskml.errors import NotParseable

_START = re.compile(rb"\x93NUMPY(?:\x01\x00(..)|\x02\x00(....))", re.DOTALL)
"""Versions 1.0 and 2.0 of numpy.lib.format; 3.0 differs in names of fields alone, and there are none here."""

_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), 'shape': \((\d{1,9}), (\d{1,9})\), \}\s*\Z"
)


def read_npy(body: bytes) -> NDArray[np.generic]:
    """A read-only array of shape (rows, columns), of booleans, integers or floats, over the very bytes of the body.

    Raises `NotParseable` for any other array, and where the header says another size than there is.
    """
    start = _START.match(body)
    if start is None:
        raise NotParseable("it is no array in NumPy's format (.npy, version 1.0 or 2.0)")
    end = start.end() + int.from_bytes(start[1] or start[2], "little")
    header = _HEADER.match(body[start.end() : end])
    if header is None:
        raise NotParseable("it is no array of numbers with 2 dimensions, rows and features")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError:
        raise NotParseable("its numbers are of a type that NumPy does not have") from None
    rows, columns = int(header[3]), int(header[4])
    if rows * columns * dtype.itemsize != len(body) - end:
        raise NotParseable(f"{len(body) - end} bytes are no array of shape ({rows}, {columns}) of {dtype}")
    array = np.frombuffer(body, dtype, rows * columns, end)
    return array.reshape((rows, columns), order="F" if header[2] == b"True" else "C")
