"""Property tests: valid rows drawn from a schema are answered, and an invalid value is rejected by feature name."""

import json
import math
from contextlib import closing
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.sample_tables import TABLES, cases, server, tables_store  # noqa: F401 - fixtures

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ZONES = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-14 * 60, 14 * 60))

INVALID = {
    "float": ["1", "", True, [1], {"a": 1}, math.nan, math.inf, "1e400", 10**400],
    "integer": ["1", "", False, 1.5, [1], {}, math.nan, 1e300, 2**64, -(2**70)],
    "boolean": [0, 1, "true", "", 1.0, [], {}],
    "category": [True, None, 0.5, [], {}, math.nan],
    "text": [1, True, 0.5, [], ["a"], {}, "x" * 100_001],
    "datetime": [0, True, "", "2024-13-01", "2024-02-30T00:00:00", "31.01.2024", "now", "2024-01-31T25:00:00", [], {}],
}
"""Values that no feature of the kind accepts."""

ONE_SERVER = pytest.mark.parametrize("server", ["flask serve"], indirect=True)
"""One server is enough: these tests are for the parser, which both servers share."""


def datetimes(feature, low, high):
    zones = ZONES if feature.is_aware else st.none()
    drawn = st.datetimes(low, high) if not feature.is_aware else st.datetimes(low, high, timezones=zones)
    return drawn.map(lambda value: value.isoformat())


def numbers(feature, low, high):
    if feature.kind == "integer":
        return st.integers(low, high) | st.integers(max(low, -(2**53)), min(high, 2**53)).map(float)
    return st.floats(low, high, width=32 if feature.dtype == "float32" else 64) if low < high else st.just(low)


def values_in_range(schema, feature):
    """Return a strategy for values in the range of the training data."""
    if feature.kind == "datetime":
        low, high = (datetime.fromisoformat(text).replace(tzinfo=None) for text in (feature.minimum, feature.maximum))
        day = timedelta(days=1) if feature.is_aware else timedelta()
        return datetimes(feature, low + day, high - day)
    if feature.is_number:
        low, high = feature.minimum, feature.maximum
        if feature.kind == "integer" and not (abs(low) < 2**53 and abs(high) < 2**53):
            return st.integers(low, high)
        return numbers(feature, low, high)
    return st.sampled_from(feature.categories) if feature.kind == "category" else valid_values(schema, feature)


def valid_values(schema, feature):
    """Return a strategy for values that the schema accepts, in range or not."""
    if feature.kind == "datetime":
        return datetimes(feature, datetime(1700, 1, 2), datetime(2261, 12, 30))
    if feature.is_number:
        low, high = schema.bounds(feature)
        return st.integers(low, high) if feature.kind == "integer" else numbers(feature, low, high)
    if feature.kind == "category":
        categories = st.sampled_from(feature.categories)
        return categories | TEXTS if feature.unknown == "accept" else categories
    return st.booleans() if feature.kind == "boolean" else TEXTS


def rows(schema, values_of):
    """Return a strategy for rows, from a strategy for each feature; a nullable feature also draws null."""
    fields = {f.name: values_of(f) | st.none() if f.nullable else values_of(f) for f in schema.features}
    return st.fixed_dictionaries(fields)


def invalid_values(feature):
    """Return values that the feature rejects."""
    invalid = [value for value in INVALID[feature.kind] if not (value is None and feature.nullable)]
    if feature.kind == "category" and feature.unknown == "refuse":
        invalid += ["an unknown category", 2**60]
    if feature.kind == "datetime":
        invalid.append("2024-01-31T12:00:00" + ("" if feature.is_aware else "+01:00"))
    return invalid + ([] if feature.nullable else [None])


@pytest.fixture(scope="module")
def ask(server):  # noqa: F811
    """Return a function that sends rows to a model and returns the status and the answer, which must be strict JSON."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:

        def answer(name, rows):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/models/{name}/predict", json.dumps(rows).encode(), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read(), parse_constant=pytest.fail)

        yield answer


def run(test, examples):
    """Run a test with drawn examples, the same ones in each run."""
    configure = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    configure(given(st.data())(test))()


def check_rows(ask, store, case, name, examples):
    """Send rows in range, valid rows and rows with one fault to a model, and check the answers."""
    schema = store.manifest(name, "1").schema_
    assert list(schema.names) == case.names
    varied = schema.features[:8]  # Tables have up to 500 columns; more varied features would only cost time.

    def rows_of(values):
        return rows(schema, lambda feature: values(schema, feature) if feature in varied else st.just(feature.example))

    rows_in_range = st.lists(rows_of(values_in_range), min_size=1, max_size=5)

    def rows_in_range_are_answered_without_warnings(data):
        drawn = data.draw(rows_in_range)
        status, answer = ask(name, drawn)
        assert status == 200 and len(answer["predictions"]) == len(drawn), answer
        assert not answer.get("warnings"), answer

    def valid_rows_pass_the_parser(data):
        status, answer = ask(name, data.draw(st.lists(rows_of(valid_values), min_size=1, max_size=5)))
        assert status == 200 or (status == 422 and "errors" not in answer), answer

    def mutated_rows_are_rejected_by_name(data):
        drawn = data.draw(rows_in_range)
        index = data.draw(st.integers(0, len(drawn) - 1))
        feature = data.draw(st.sampled_from(varied))
        mutation = data.draw(st.sampled_from(["invalid", "missing", "renamed"]))
        value = drawn[index].pop(feature.name)
        name_sent = feature.name
        if mutation == "invalid":
            drawn[index][feature.name] = data.draw(st.sampled_from(invalid_values(feature)))
        if mutation == "renamed":
            name_sent = f"{feature.name}x"
            drawn[index][name_sent] = value
        status, answer = ask(name, drawn)
        if any(isinstance(value, float) and not math.isfinite(value) for value in drawn[index].values()):
            assert status in (400, 422), answer  # NaN and infinities are not JSON (RFC 8259, section 6).
            return
        assert status == 422, (feature, drawn[index], answer)
        reported = [(problem["row"], problem["feature"]) for problem in answer["errors"]]
        expected = {(index, feature.name), (index, name_sent)} if mutation == "renamed" else {(index, feature.name)}
        assert set(reported) == expected and len(reported) == len(expected), (feature, drawn[index], answer)

    for test in (
        rows_in_range_are_answered_without_warnings,
        valid_rows_pass_the_parser,
        mutated_rows_are_rejected_by_name,
    ):
        run(test, examples)


FEW = ("mixed", "dates", "nullable", "categoricals", "whole_numbers")
"""Tables that together have every kind of feature."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", FEW)
@ONE_SERVER
def test_mutated_rows_are_rejected_by_name(ask, tables_store, cases, name):  # noqa: F811
    check_rows(ask, tables_store, cases[name], name, 8)


@pytest.mark.gauntlet
@pytest.mark.parametrize("name", [make.__name__ for make in TABLES])
@ONE_SERVER
def test_many_mutated_rows_are_rejected_by_name(ask, tables_store, cases, name):  # noqa: F811
    check_rows(ask, tables_store, cases[name], name, 500)
