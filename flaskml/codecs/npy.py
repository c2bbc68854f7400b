"""Arrays of numbers in NumPy's format (NPY) from untrusted clients: a header that NumPy would not write is rejected."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from flaskml.errors import NotParseable

_START = re.compile(rb"\x93NUMPY(?:\x01\x00(..)|\x02\x00(....))", re.DOTALL)
"""Versions 1.0 and 2.0 of numpy.lib.format. Version 3.0 differs only in field names, which these arrays do not have."""

_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), 'shape': \((\d{1,9}), (\d{1,9})\), \}\s*\Z"
)


def read_npy(body: bytes) -> NDArray[np.generic]:
    """Return a read-only array of shape (rows, columns), of booleans, integers or floats, without copying the body.

    Raises `NotParseable` for any other array, and if the size in the header is not the size of the data.
    """
    start = _START.match(body)
    if start is None:
        raise NotParseable("it is not an array in NumPy's format; send .npy of version 1.0 or 2.0")
    end = start.end() + int.from_bytes(start[1] or start[2], "little")
    header = _HEADER.match(body[start.end() : end])
    if header is None:
        raise NotParseable("it is not an array of numbers of shape (rows, features); write one with numpy.save")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError:
        raise NotParseable("NumPy does not have the dtype in its header; send booleans, integers or floats") from None
    rows, columns = int(header[3]), int(header[4])
    size, expected_size = len(body) - end, rows * columns * dtype.itemsize
    if size != expected_size:
        raise NotParseable(
            f"shape ({rows}, {columns}) of {dtype} needs {expected_size} bytes of data, and the body has {size}; "
            "send the complete array"
        )
    array = np.frombuffer(body, dtype, rows * columns, end)
    return array.reshape((rows, columns), order="F" if header[2] == b"True" else "C")
