"""Arrays of numbers in NumPy's format: those that NumPy writes are read, every other body is rejected."""

import io

import numpy as np
import pytest

from flaskml.codecs.npy import read_npy
from flaskml.errors import NotParseable


def npy_bytes(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i4", ">i4", "<u8", "<f2", ">f4", "<f8"])
def test_numpy_arrays_are_read(dtype, order, version):
    for shape in ((3, 4), (1, 1), (0, 4)):
        array = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)
        result = read_npy(npy_bytes(array, version))
        np.testing.assert_array_equal(result, array, strict=True)
        assert not result.flags.writeable


GOOD = npy_bytes(np.ones((3, 4)))

HOSTILE = {
    "an empty body": b"",
    "half a magic string": GOOD[:7],
    "a header without data": GOOD[:128],
    "one byte less": GOOD[:-1],
    "one byte more": GOOD + b"x",
    "more rows than bytes": GOOD.replace(b"(3, 4)", b"(999999999, 999999999)"),
    "a negative shape": GOOD.replace(b"(3, 4)", b"(-3, -4)"),
    "a digit of another script": GOOD.replace(b"(3, 4)", "(٣, 4)".encode()),
    "a header longer than the body": GOOD[:8] + b"\xff\xff" + GOOD[10:],
    "a header with a function call": GOOD.replace(b"False", b"exit()"),
    "an unknown version": GOOD[:6] + b"\x09" + GOOD[7:],
    "one dimension": npy_bytes(np.ones(4)),
    "three dimensions": npy_bytes(np.ones((1, 1, 4))),
    "objects": npy_bytes(np.array([[object]])),
    "strings": npy_bytes(np.array([["a"]])),
    "complex numbers": npy_bytes(np.ones((1, 4), complex)),
    "a structured dtype": npy_bytes(np.ones((1, 4), [("a", "f8")])),
    "a dtype that does not exist": GOOD.replace(b"<f8", b"<f1"),
    "datetimes": npy_bytes(np.array([["2024-01-01"]], "M8[ns]")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_other_bodies_are_rejected(name):
    with pytest.raises(NotParseable):
        read_npy(HOSTILE[name])
