"""Long JSON bodies are read in slices, with the results and the errors of a whole read."""

import json
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import SchemaValidator, ValidationError

from flaskml.codecs import json_slices, parser, validation_report
from flaskml.codecs.parser import Parser
from flaskml.codecs.validation_report import decode_json
from flaskml.codecs.validators import row_core_schema
from flaskml.errors import FlaskmlError, InvalidInput, TooManyRows
from flaskml.schema.features import Feature, Schema

ROW = st.fixed_dictionaries(
    {"a": st.integers(-9, 9) | st.floats(-1, 1), "b": st.text('ab"\\}{][,: é', max_size=6)},
    optional={"c": st.recursive(st.none() | st.text("ab{},", max_size=3), lambda inner: st.lists(inner, max_size=3))},
)
LISTS = st.lists(st.tuples(st.integers(-9, 9), st.text('ab",]', max_size=4)).map(list), min_size=1, max_size=12)
ARRAYS = st.lists(ROW, min_size=1, max_size=12)
DOCUMENTS = (
    ARRAYS
    | LISTS
    | ARRAYS.map(lambda rows: {"instances": rows})
    | LISTS.map(lambda rows: {"instances": rows})
    | ROW
    | st.lists(st.integers() | st.text('a,"', max_size=3), max_size=20)
    | st.dictionaries(st.text('ab,"{', max_size=3), st.integers() | st.lists(ROW, max_size=2), max_size=12)
)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: "), ("\r\n,", ":")])


@st.composite
def bodies(draw):
    """Draw the text of a document, often with a fault: a character that is added, lost or replaced."""
    text = json.dumps(draw(DOCUMENTS), separators=draw(SEPARATORS), ensure_ascii=draw(st.booleans()))
    text = draw(st.sampled_from(["", " ", "\n"])) + text + draw(st.sampled_from(["", " ", "\n\n"]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        position = draw(st.integers(0, len(text)))
        text = (
            text[:position]
            + draw(st.sampled_from(["", ",", "}", "]", "{", "[", '"', "\\", "1", " "]))
            + text[position + draw(st.integers(0, 1)) :]
        )
    return text.encode()


@pytest.fixture(params=["refuse", "ignore"])
def make_parser(request):
    features = (Feature(name="a", kind="float"), Feature(name="b", kind="text"))
    return Parser(Schema(features=features, layout="frame", extra=request.param), max_rows=10)


@pytest.fixture
def tiny_slices(monkeypatch):
    """A function that switches slices of a few bytes on or off."""

    def switch(is_on):
        for module in (json_slices, parser, validation_report):
            monkeypatch.setattr(module, "MIN_SLICED_BYTES", 0 if is_on else 10**9)

    monkeypatch.setattr(json_slices, "SLICE_BYTES", 3)
    return switch


def outcome(function, body):
    """Return what a function returns or raises, as a text that tells -0.0 and 1.0 from 0 and 1."""
    try:
        result = function(body)
    except FlaskmlError as error:
        return type(error).__name__, error.detail
    return repr((result.values, result.is_single) if hasattr(result, "values") and hasattr(result, "table") else result)


def both(tiny_slices, function, body):
    tiny_slices(False)
    whole = outcome(function, body)
    tiny_slices(True)
    return whole, outcome(function, body)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies())
def test_slices_change_no_document_and_no_error(tiny_slices, body):
    whole, sliced = both(tiny_slices, decode_json, body)
    assert sliced == whole


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies())
def test_slices_change_no_rows_and_no_problems(tiny_slices, make_parser, body):
    whole, sliced = both(tiny_slices, make_parser.parse_json, body)
    assert sliced == whole
    whole, sliced = both(tiny_slices, make_parser.parse_valid_json, body)
    assert sliced == whole


@pytest.mark.parametrize(
    "body",
    [
        b'[{"a": 1, "b": ""},]',
        b'[{"a": 1, "b": ""},   ]',
        b'[{"a": 1, "b": ""},,{"a": 1, "b": ""}]',
        b'[{"a": 1, "b": ""}, , {"a": 1, "b": ""}]',
        b"[1,      , 2]",
        b"[1,2,3,4,]",
        b'{"a": 1, "b": "",}',
        b'{"a": 1,, "b": ""}',
        b'{"a": 1, "b": "", "a": 2}',
        b'{"instances": [[1, ""]], "instances": [[2, ""], [3, ""]]}',
        b'{"instances": [[1, ""], [2, ""]]]',
        b'[{"a": 1, "b": "},{"}, {"a": 1, "b": "\\\\"}, {"a": 2, "b": "\\""}]',
        b'[[{"a": 1, "b": ""}, {"a": 1, "b": ""}]]',
    ],
)
def test_cuts_in_doubtful_places(tiny_slices, make_parser, body):
    for function in (decode_json, make_parser.parse_json):
        whole, sliced = both(tiny_slices, function, body)
        assert sliced == whole
    whole, sliced = both(tiny_slices, make_parser.parse_valid_json, body)
    assert sliced in (whole, "None")


def test_long_arrays_are_cut():
    rows = [{"a": number, "b": "},{" * 5} for number in range(5_000)]
    body = json.dumps(rows).encode()
    slices = json_slices.slice_array(body)
    assert len(slices) > 10 and max(map(len, slices)) < 2 * json_slices.SLICE_BYTES
    assert [row for part in slices for row in json.loads(part)] == rows
    assert json_slices.slice_instances(b'{"instances": %b}' % body) == slices
    assert json_slices.slice_array(b"1") is json_slices.slice_object(b"[1]") is None


def test_many_unknown_names_take_no_long_call(make_parser):
    """pydantic would hold the GIL for a tenth of a second to create an error for each name."""
    body = b'{"a": 1, "b": "", %b}' % b", ".join(b'"n%d" :1' % number for number in range(150_000))
    is_valid = make_parser.parse_valid_json(body) is not None
    assert is_valid == (make_parser.schema.extra == "ignore")
    if not is_valid:
        validator = SchemaValidator(row_core_schema(make_parser.schema, is_required=False))

        def read_unchecked():
            with pytest.raises(ValidationError):
                validator.validate_json(body)

        assert quickest(lambda: make_parser.parse_valid_json(body)) < quickest(read_unchecked) / 2
    rows = make_parser.parse_valid_json(b'[{"a": 1, "b": "%b"}]' % (b'\\"x\\": 1, ' * 9_000))
    assert len(rows.values) == 1, "a text may contain JSON"


def quickest(function):
    """Return the seconds of the quickest of a few calls."""
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        with suppress(ValidationError):
            function()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def test_the_time_to_cut_is_linear():
    """Commas in strings, in rows that cannot be cut."""
    body = b'[{"a": [' + b'{"b": "},{", "c": "\\"},{"}, ' * 70_000 + b"0]}]"
    begun = time.process_time()
    json_slices.slice_array(body)
    json_slices.slice_object(body[1:-1])
    assert time.process_time() - begun < 5


def excess(text, depth=2, values=3, rows=5):
    return json_slices.has_excess_structure(text, depth, values, rows)


def test_excess_structure_is_found():
    assert excess(b'[{"a": [[[[[[1]]]]]]}]') and excess(b'[{"a": {"b": {"c": {"d": 1}}}}]')
    assert excess(b'[{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}]')
    assert not excess(b'[{"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2}]')
    assert not excess(b'[{"a": "[[[[[[[[,,,,,,,,"}]') and not excess(b'[{"a": "\\\\\\"[[[[[[[[,,,,,,,,"}]')
    assert excess(b'[{"a": "\\\\", "b": [[1, 2, 3, 4]]}]') and not excess(b'[{"a": "[[[[[,,,,,')
    assert not excess(b"[1, 2, 3, 4, 5, 6, 7, [[[[[[[[1]]]]]]]]"), "too many rows are another fault"
    assert not excess(b"") and not excess(b"]]]]]},,,,") and not excess(b"no JSON, at all, or [ in, the { least,")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b'{"instances": [[%b1]]}' % (b"1.5," * 100_000), InvalidInput),
        (b'{"instances": [[%b1]]}' % (b'"a",' * 100_000), InvalidInput),
        (b'{"a": 1, "b": [%b1]}' % (b'["a"],' * 50_000), InvalidInput),
        (b'[{"a": 1, "b": "", "c": {%b"x": 1}}]' % (b'"y": 1,' * 50_000), InvalidInput),
        (b"[%b1]" % (b"1.5," * 100_000), TooManyRows),
        (b'{"a": 1, "b": "%b"}' % (b"[,{" * 30_000), None),
        (b" " * 100_000 + b'{"a": 1, "b": ""}' + b"\n" * 100_000, None),
    ],
)
def test_long_bodies_of_excess_structure_are_refused_before_they_are_decoded(make_parser, monkeypatch, text, error):
    if make_parser.schema.extra == "ignore":
        return
    if error is InvalidInput:
        monkeypatch.setattr(parser, "decode_json", lambda _: pytest.fail("it holds the GIL"))
    if error is None:
        assert make_parser.parse_json(text).is_single
    else:
        with pytest.raises(error):
            make_parser.parse_json(text)


def test_a_long_body_may_have_an_escaped_key_of_instances(make_parser):
    rows = [{"a": 1, "b": "," * 9_000}] * 9
    body = json.dumps({"instances": rows}).encode().replace(b"instances", b"inst\\u0061nces")
    assert len(make_parser.parse_json(body).values) == 9
