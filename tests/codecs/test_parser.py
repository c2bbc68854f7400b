"""Request bodies to tables, and the reports of invalid bodies."""

import json

import numpy as np
import pandas as pd
import pytest

from flaskml.codecs import validation_report
from flaskml.codecs.parser import Parser
from flaskml.codecs.text_values import parse_text_value
from flaskml.codecs.validators import MAX_TEXT_CHARACTERS
from flaskml.errors import FlaskmlError, InvalidInput, NotParseable, TooManyRows
from flaskml.schema.features import Feature, Schema

FEATURES = (
    Feature(name="a", kind="float"),
    Feature(name="b", kind="integer", nullable=True),
    Feature(name="c", kind="category", categories=("red", "green")),
    Feature(name="d", kind="boolean"),
    Feature(name="e é", kind="text", nullable=True),
)
ROW = {"a": 1.5, "b": 2, "c": "red", "d": True, "e é": "text"}
VALUES = [1.5, 2, "red", True, "text"]


@pytest.fixture
def parser():
    return Parser(Schema(features=FEATURES, layout="frame"), max_rows=5)


def encode(value):
    return json.dumps(value).encode()


@pytest.mark.parametrize("value", [ROW, dict(reversed(ROW.items())), ROW | {"b": 2.0}])
def test_one_object_is_a_single_row(parser, value):
    rows = parser.parse_json(encode(value))
    assert rows.is_single and rows.table.columns.tolist() == list(ROW) and rows.table.iloc[0].tolist() == VALUES


@pytest.mark.parametrize(
    "body",
    [
        encode([ROW, ROW]),
        encode({"instances": [ROW, ROW]}),
        encode({"instances": [VALUES, VALUES]}),
        b'\n{ "instances" :\t[ ' + encode(VALUES) + b"," + encode(VALUES) + b"]}",
        encode({"instances": [ROW, VALUES]}),
        b'{"\\u0069nstances": [' + encode(VALUES) + b"," + encode(ROW) + b"]}",
    ],
)
def test_lists_of_rows_are_parsed(parser, body):
    rows = parser.parse_json(body)
    assert not rows.is_single and [row.tolist() for _, row in rows.table.iterrows()] == [VALUES, VALUES]


def test_a_feature_may_be_called_instances():
    parser = Parser(Schema(features=(Feature(name="instances", kind="float"),), layout="array"), max_rows=5)
    assert parser.parse_json(b'{"instances": 3}').table.tolist() == [[3.0]]
    assert parser.parse_json(b'{"instances": [[3], [4]]}').table.tolist() == [[3.0], [4.0]]


def problems(parser, body):
    """Return row, feature and detail of each problem that the parser reports."""
    with pytest.raises(InvalidInput) as caught:
        parser.parse_json(body if isinstance(body, bytes) else encode(body))
    return [(problem.row, problem.feature, problem.detail) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"a": "1.5"}, "quotes"),
        ({"a": True}, "true"),
        ({"a": None}, "null"),
        ({"a": [1]}, "list"),
        ({"b": 1.5}, "whole number"),
        ({"b": 2.000000001}, "whole number"),
        ({"b": 1_000_000_000.5}, "whole number"),
        ({"b": False}, "false"),
        ({"b": 2**70}, "whole number"),
        ({"b": 1e300}, "whole number"),
        ({"c": "rad"}, 'did you mean "red"'),
        ({"c": None}, "no training row"),
        ({"c": 1}, 'one of "red", "green"'),
        ({"d": 1}, "true or false"),
        ({"d": "true"}, "true or false"),
        ({"e é": 5}, "string"),
        ({"e é": "x" * (MAX_TEXT_CHARACTERS + 1)}, "string"),
    ],
)
def test_a_wrong_value_is_reported_with_row_and_feature(parser, change, fragment):
    assert problems(parser, ROW | change)[0][:2] == (0, next(iter(change)))
    ((row, feature, detail),) = problems(parser, [ROW, ROW | change])
    assert (row, feature) == (1, next(iter(change)))
    assert fragment in detail and f'"{feature}"' in detail and len(detail) < 300


@pytest.mark.parametrize(
    "token", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5_000, "-" + "9" * 5_000], ids=len
)
@pytest.mark.parametrize("feature", ["a", "b"])
def test_numbers_that_no_float_holds_are_rejected(parser, token, feature):
    body = encode(ROW | {feature: "?"}).replace(b'"?"', token.encode())
    assert [problem[:2] for problem in problems(parser, body)] == [(0, feature)]


def test_unknown_and_missing_features_are_reported(parser):
    row = {"A": 1, **{name: value for name, value in ROW.items() if name not in ("a", "c")}, "e e": 1}
    details = {feature: detail for _, feature, detail in problems(parser, row)}
    assert set(details) == {"a", "c", "A", "e e"}
    assert "missing" in details["a"] and 'did you mean "e é"' in details["e e"]


def test_names_with_lone_surrogates_are_reported(parser):
    for body in (b'{"\\ud800": 1}', encode(ROW)[:-1] + b', "\\ud800": 1}'):
        assert any("Unicode" in detail for _, _, detail in problems(parser, body))


def test_many_unknown_names_cost_few_searches(monkeypatch):
    parser = Parser(
        Schema(features=tuple(Feature(name=f"m{i}", kind="float") for i in range(100)), layout="array"), max_rows=5
    )
    searches = []
    monkeypatch.setattr(validation_report, "did_you_mean", lambda *words: searches.append(words) or "")
    assert len(problems(parser, {f"mm{i}": i for i in range(5_000)})) == 20
    assert len(searches) <= 21


def test_a_form_keeps_all_digits_of_an_integer(parser):
    fields = [(name, "1000000000000000007" if name == "b" else str(value)) for name, value in ROW.items()]
    assert parser.parse_form(fields).table["b"][0] == 1000000000000000007


@pytest.mark.parametrize("body", [b"5", b'"x"', b"null", b"[1]", b"[[1, 2]]", b'{"instances": [[1, 2]]}', b"[null]"])
def test_values_that_are_not_rows_are_reported(parser, body):
    assert problems(parser, body)


def test_lists_of_values_are_rows_only_under_instances(parser):
    assert "instances" in problems(parser, [VALUES])[0][2]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  \n",
        b"{",
        b"nonsense",
        b"{} {}",
        b"\xff\xfe{",
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"{'a': 1}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_not_json_are_not_parseable(parser, body):
    with pytest.raises(NotParseable):
        parser.parse_json(body)


def test_lone_surrogates_in_texts_are_rejected(parser):
    assert problems(parser, ROW | {"e é": "\ud800"})[0][1] == "e é"


def test_more_rows_than_the_limit_are_rejected_except_from_python(parser):
    for value in ([ROW] * 6, {"instances": [VALUES] * 6}, [1] * 6):
        with pytest.raises(TooManyRows):
            parser.parse_json(encode(value))
    assert len(parser.parse_json(encode([ROW] * 5)).table) == 5
    assert len(parser.parse_table([ROW] * 6).table) == 6


def test_at_most_twenty_problems_are_reported():
    parser = Parser(Schema(features=FEATURES, layout="frame"), max_rows=10_000)
    with pytest.raises(InvalidInput, match="more than 20") as caught:
        parser.parse_json(encode([{"a": "x"}] * 10_000))
    assert len(caught.value.problems) == 20


def test_a_form_is_a_single_row(parser):
    fields = [("a", "1.5"), ("b", ""), ("c", "red"), ("d", "True"), ("e é", "")]
    rows = parser.parse_form(fields)
    values = rows.table.iloc[0].tolist()
    assert rows.is_single and [value if value == value else None for value in values] == [1.5, None, "red", True, None]


@pytest.mark.parametrize("text", ["", " 1", "1_0", "٣", "nan", "inf", "0x1", "1e400", "1,5", "--1", "NaN"])
def test_texts_that_are_not_numbers_are_rejected(parser, text):
    fields = [(name, "" if value is None else str(value)) for name, value in ROW.items() if name != "a"]
    with pytest.raises(InvalidInput) as caught:
        parser.parse_form([*fields, ("a", text)])
    assert {problem.feature for problem in caught.value.problems} == {"a"}


@pytest.mark.parametrize("text", ["1", "-1.5", "+.5e3", "1.", "1e-300"])
def test_texts_that_are_numbers_are_converted(text):
    assert parse_text_value(FEATURES[0], text) == float(text)


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ({"kind": "text"}, ""),
        ({"kind": "text", "nullable": True}, None),
        ({"kind": "category", "categories": ("a", "b"), "unknown": "accept"}, None),
        ({"kind": "category", "categories": ("", "b")}, ""),
        ({"kind": "category", "categories": ("", "b"), "nullable": True}, None),
        ({"kind": "category", "categories": (1, 2)}, None),
        ({"kind": "float"}, None),
        ({"kind": "datetime"}, None),
        ({"kind": "boolean"}, None),
    ],
)
def test_an_empty_field_is_null_or_an_empty_text(feature, value):
    assert parse_text_value(Feature(name="a", **feature), "") == value


@pytest.mark.parametrize("row", [VALUES[:-1], [*VALUES, 1], []])
def test_a_list_of_the_wrong_length_is_reported_with_both_lengths(parser, row):
    ((index, feature, detail),) = problems(parser, {"instances": [VALUES, row]})
    assert (index, feature) == (1, None) and f"a list of {len(row)} values" in detail
    assert detail.endswith("all 5 values")


def test_repeated_form_fields_are_reported_with_other_problems(parser):
    with pytest.raises(InvalidInput) as caught:
        parser.parse_form([("a", "1"), ("a", "2"), ("z", "1"), ("z", "1"), ("b", "x"), ("c", "red"), ("d", "true")])
    reported = [(problem.feature, "more than once" in problem.detail) for problem in caught.value.problems]
    assert sorted(reported) == [("a", True), ("b", False), ("e é", False), ("z", False), ("z", True)]


def test_csv_lines_of_the_wrong_length_are_reported_with_other_problems(parser):
    lines = [",".join(ROW), "1,2", "1,2,red,true,x", "x,2,red,true,x", "1,2,red,true,x,y"]
    with pytest.raises(InvalidInput) as caught:
        parser.parse_csv("\n".join(lines).encode())
    reported = [(problem.row, problem.feature, problem.detail) for problem in caught.value.problems]
    assert [problem[:2] for problem in reported] == [(0, None), (2, "a"), (3, None)]
    assert (reported[0][2], reported[2][2]) == ("it has 2 fields and the header 5", "it has 6 fields and the header 5")


def test_every_duplicate_csv_column_is_reported(parser):
    with pytest.raises(InvalidInput) as caught:
        parser.parse_csv(b"a,b,a,c,c,d")
    assert [problem.feature for problem in caught.value.problems] == ["a", "c"]


@pytest.mark.parametrize("number", [0, 2**53 + 1, 2**64 - 1])
def test_integers_beyond_2_to_the_53_keep_their_last_digit(number):
    parser = Parser(Schema(features=(Feature(name="a", kind="integer", dtype="uint64"),), layout="frame"), max_rows=1)
    for rows in (
        parser.parse_json(encode({"a": number})),
        parser.parse_form([("a", str(number))]),
        parser.parse_csv(f"a\n{number}".encode()),
    ):
        assert rows.table["a"].dtype == np.uint64 and rows.table["a"][0] == number


def test_a_fractional_bound_applies_to_integers():
    feature = Feature(name="a", kind="integer", minimum=0.5, maximum=2.5)
    parser = Parser(Schema(features=(feature,), layout="frame", out_of_range="refuse"), max_rows=1)
    accepted = [parser.parse_json(encode({"a": number})).values for number in (1, 2)]
    assert accepted == [[(1,)], [(2,)]]
    for number in (0, 3):
        ((_, _, detail),) = problems(parser, {"a": number})
        assert "from 0.5 to 2.5" in detail


def test_an_integral_float_becomes_an_integer():
    parser = Parser(Schema(features=(Feature(name="a", kind="integer", dtype="object"),), layout="frame"), max_rows=1)
    assert type(parser.parse_json(b'{"a": 3.0}').table["a"][0]) is int


@pytest.mark.parametrize(
    "rows",
    [
        ROW,
        [ROW],
        [VALUES],
        (VALUES,),
        np.array([VALUES], dtype=object),
        pd.DataFrame([ROW]),
        pd.DataFrame([ROW])[["e é", "d", "c", "b", "a"]],
        {"a": np.float32(1.5), "b": np.int8(2), "c": np.str_("red"), "d": np.bool_(True), "e é": "text"},
    ],
    ids=str,
)
def test_python_values_are_parsed(parser, rows):
    assert parser.parse_table(rows).table.iloc[0].tolist() == VALUES


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT, float("nan")])
def test_missing_value_markers_from_python_are_null(parser, missing):
    assert np.isnan(parser.parse_table(ROW | {"b": missing}).table["b"][0])
    with pytest.raises(InvalidInput, match="null"):
        parser.parse_table(ROW | {"a": missing})


@pytest.mark.parametrize(
    "rows",
    [[1, 2], [[1, 2]], "text", [None], {"a": 1}, np.zeros((1, 2, 5)), ROW | {"a": np.array([1.0, 2.0])}],
    ids=repr,
)
def test_invalid_rows_from_python_are_rejected(parser, rows):
    with pytest.raises(FlaskmlError):
        parser.parse_table(rows)


def test_a_line_of_csv_has_a_limit_of_commas_above_those_of_valid_texts(parser):
    header = "a,b,c,d,e é\n".encode()
    for body in (b"," * 400_000 + b"\n", header + b"," * 400_000):
        with pytest.raises(NotParseable, match=r"a line has more than [0-9,]+ commas"):
            parser.parse_csv(body)
    text = "," * MAX_TEXT_CHARACTERS
    assert parser.parse_csv(header + f'1,2,red,true,"{text}"'.encode()).values[0][4] == text


def test_a_fault_in_the_first_row_of_csv_is_behind_the_header(parser):
    with pytest.raises(NotParseable, match="behind the header"):
        parser.parse_csv(b'a,b\n"x"y,1\n')
