"""Arrays in NumPy's format: what NumPy writes is read as NumPy reads it, and nothing else is."""

import io

import numpy as np
import pytest

from flaskml.codecs.npy import read_npy
from flaskml.errors import NotParseable


def saved(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i4", ">i4", "<u8", "<f2", ">f4", "<f8"])
def test_what_numpy_writes(dtype, order, version):
    for shape in ((3, 4), (1, 1), (0, 4)):
        array = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)
        got = read_npy(saved(array, version))
        np.testing.assert_array_equal(got, array, strict=True)
        assert not got.flags.writeable


GOOD = saved(np.ones((3, 4)))

HOSTILE = {
    "nothing": b"",
    "half a start": GOOD[:7],
    "a header without data": GOOD[:128],
    "one byte less": GOOD[:-1],
    "one byte more": GOOD + b"x",
    "more rows than bytes": GOOD.replace(b"(3, 4)", b"(999999999, 999999999)"),
    "a negative shape": GOOD.replace(b"(3, 4)", b"(-3, -4)"),
    "a digit of another script": GOOD.replace(b"(3, 4)", "(٣, 4)".encode()),
    "a header that is beyond the end": GOOD[:8] + b"\xff\xff" + GOOD[10:],
    "a header that calls": GOOD.replace(b"False", b"exit()"),
    "another version": GOOD[:6] + b"\x09" + GOOD[7:],
    "one dimension": saved(np.ones(4)),
    "three dimensions": saved(np.ones((1, 1, 4))),
    "objects": saved(np.array([[object]])),
    "texts": saved(np.array([["a"]])),
    "complex numbers": saved(np.ones((1, 4), complex)),
    "records": saved(np.ones((1, 4), [("a", "f8")])),
    "a type that is none": GOOD.replace(b"<f8", b"<f1"),
    "moments": saved(np.array([["2024-01-01"]], "M8[ns]")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_numpy_does_not_write_of_numbers(name):
    with pytest.raises(NotParseable):
        read_npy(HOSTILE[name])
