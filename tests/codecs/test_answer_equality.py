"""Tolerant equality of answers, as arrays and as JSON."""

import math

import numpy as np
import pytest

from flaskml.codecs.answer_equality import answers_equal, largest_absolute_number


def array(*values):
    return np.array(values)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (array(1.0, 2.0), array(1.0 + 1e-10, 2.0)),
        (array(0.0), array(1e-10)),
        (array(np.nan, np.inf), array(np.nan, np.inf)),
        (array(1, 2), np.array([1, 2], dtype=np.int32)),
        (array("a"), np.array(["a"], dtype=object)),
        (np.array([1.5], dtype=np.float32), array(1.5)),
        ([array(1.0), array([1.0, 2.0])], [array(1.0), array([1.0, 2.0])]),
    ],
)
def test_arrays_within_the_tolerance_are_equal(one, other):
    assert answers_equal(one, other, relative=1e-8, absolute=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (array(1.0), array(1.0 + 1e-7)),
        (array(0.0), array(1e-8)),
        (array(np.nan), array(1.0)),
        (array(np.inf), array(-np.inf)),
        (array(1.0), array([1.0])),
        (array(1.0), array(1.0, 1.0)),
        (array(1), array(1.0)),
        (array(True), array(1)),
        (array("1"), array(1)),
        (array("a"), array("b")),
        (array(1), array(2)),
        ([array(1.0)], [array(1.0), array(1.0)]),
        ([array(1.0), array(2.0)], [array(1.0), array(3.0)]),
        ([array(1.0)], array([1.0])),
    ],
)
def test_arrays_of_other_values_shapes_or_types_differ(one, other):
    assert not answers_equal(one, other, relative=1e-8, absolute=1e-9) and not answers_equal(
        other, one, relative=1e-8, absolute=1e-9
    )


def test_the_largest_magnitude_ignores_infinities_and_nan():
    assert largest_absolute_number(array(-3.0, np.inf, np.nan, 2.0)) == 3.0
    assert largest_absolute_number([array(1.0), array(-7.0)]) == 7.0
    assert (
        largest_absolute_number(array("a"))
        == largest_absolute_number(array(5))
        == largest_absolute_number(np.empty(0))
        == 0.0
    )


@pytest.mark.parametrize(
    ("expected", "answered", "is_equal"),
    [
        (1.0, 1.0, True),
        (1.0, 1.0 + 5e-7, True),
        (1.0, 1.0 + 5e-6, False),
        (1e-12, 0.0, False),
        (1e-6, 0.0, False),
        (1e12, 1e12 + 1e5, True),
        (1.0, 1, True),
        (1.0, True, False),
        (1.0, None, False),
        (1.0, math.nan, False),
        (None, None, True),
        (None, 1.0, False),
        (1, 1, True),
        (1, 2, False),
        (1, 1.0, False),
        (True, True, True),
        (True, 1, False),
        ("yes", "yes", True),
        ("yes", "no", False),
        ("yes", "yes ", False),
        ("1", 1, False),
        ([1.0, "a"], [1.0, "a"], True),
        ([1.0, 2.0], [1.0], False),
        ([1.0], [1.0, 2.0], False),
        ([1.0], 1.0, False),
        ([[1.0]], [[1.5]], False),
    ],
)
def test_json_values_are_equal_within_the_tolerance(expected, answered, is_equal):
    assert answers_equal(expected, answered, relative=1e-6) is is_equal
