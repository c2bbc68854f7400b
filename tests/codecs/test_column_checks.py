"""Whole columns have the values of single rows, or are left to them."""

import numpy as np
import pytest

from flaskml.codecs.column_checks import ColumnChecks
from flaskml.codecs.parser import Parser
from flaskml.errors import InvalidInput
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import as_values

FEATURES = {
    "float": Feature(name="a", kind="float", nullable=True),
    "bounded": Feature(name="a", kind="float", dtype="float32"),
    "integer": Feature(name="a", kind="integer", nullable=True),
    "small": Feature(name="a", kind="integer", dtype="int8"),
    "boolean": Feature(name="a", kind="boolean", nullable=True),
    "strict boolean": Feature(name="a", kind="boolean"),
    "text": Feature(name="a", kind="text"),
    "nullable text": Feature(name="a", kind="text", nullable=True),
    "category": Feature(name="a", kind="category", categories=("red", "")),
    "open category": Feature(name="a", kind="category", categories=("red",), unknown="accept", nullable=True),
    "whole category": Feature(name="a", kind="category", categories=(1, 2, 0)),
    "datetime": Feature(name="a", kind="datetime", nullable=True),
}
TEXTS = (
    "", "0", "-0", "-0.0", "1", "2", "3", "1.0", "1.5", "+2", ".5", "5.", "1e2", "127", "128", "-129", "1e400", "nan",
    "inf", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740992", "1" * 25, "1_0", " 1",
    "1\n", "٣", "true", "False", "yes", "red", "green", "2022-01-31", "2022-02-30", "3.5e38", "x" * 100_001,
    "--1", "1-2",
)  # fmt: skip


def exact(values):
    return [(type(value), repr(value)) for value in values]


@pytest.mark.parametrize("name", FEATURES)
def test_a_column_of_texts_has_the_values_of_its_rows(name):
    schema = Schema(features=(FEATURES[name],), layout="frame")
    parser, checks, by_column = Parser(schema, max_rows=9), ColumnChecks(schema), 0
    for text in TEXTS:
        columns = checks.from_texts([(text, text)])
        if columns is None or not checks.are_valid(columns):
            continue
        by_column += 1
        rows = parser.parse_records([{"a": text}] * 2)
        assert exact(as_values(columns[0], FEATURES[name])) == exact(row[0] for row in rows.values), text
    refused = 0
    for text in TEXTS:
        try:
            parser.parse_records([{"a": text}])
        except InvalidInput:
            refused += 1
    assert 0 < by_column <= len(TEXTS) - refused


def test_whole_numbers_have_no_negative_zero():
    schema = Schema(features=(FEATURES["integer"],), layout="array")
    (column,) = ColumnChecks(schema).from_texts([("-0", "-0.0", "0")])
    assert not np.signbit(column).any()
