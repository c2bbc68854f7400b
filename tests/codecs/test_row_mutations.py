"""Rows made from a schema are answered, rows with something wrong in them are refused by name, and nothing else is."""

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

WRONG = {
    "float": ["1", "", True, [1], {"a": 1}, math.nan, math.inf, "1e400", 10**400],
    "integer": ["1", "", False, 1.5, [1], {}, math.nan, 1e300, 2**64, -(2**70)],
    "boolean": [0, 1, "true", "", 1.0, [], {}],
    "category": [True, None, 0.5, [], {}, math.nan],
    "text": [1, True, 0.5, [], ["a"], {}, "x" * 100_001],
    "datetime": [0, True, "", "2024-13-01", "2024-02-30T00:00:00", "31.01.2024", "now", "2024-01-31T25:00:00", [], {}],
}
"""Values that no feature of the kind takes."""


ONE_SERVER = pytest.mark.parametrize("server", ["flask serve"], indirect=True)
"""All this is for the parser, which both have in common."""


def moments(feature, low, high):
    zones = ZONES if feature.is_aware else st.none()
    found = st.datetimes(low, high) if not feature.is_aware else st.datetimes(low, high, timezones=zones)
    return found.map(lambda moment: moment.isoformat())


def numbers(feature, low, high):
    if feature.kind == "integer":
        return st.integers(low, high) | st.integers(max(low, -(2**53)), min(high, 2**53)).map(float)
    return st.floats(low, high, width=32 if feature.dtype == "float32" else 64) if low < high else st.just(low)


def known(schema, feature):
    """Values as training had them."""
    if feature.kind == "datetime":
        low, high = (datetime.fromisoformat(text).replace(tzinfo=None) for text in (feature.minimum, feature.maximum))
        day = timedelta(days=1) if feature.is_aware else timedelta()
        return moments(feature, low + day, high - day)
    if feature.is_number:
        low, high = feature.minimum, feature.maximum
        if feature.kind == "integer" and not (abs(low) < 2**53 and abs(high) < 2**53):
            return st.integers(low, high)
        return numbers(feature, low, high)
    return st.sampled_from(feature.categories) if feature.kind == "category" else values(schema, feature)


def values(schema, feature):
    """Values that the schema takes, however odd."""
    if feature.kind == "datetime":
        return moments(feature, datetime(1700, 1, 2), datetime(2261, 12, 30))
    if feature.is_number:
        low, high = schema.bounds(feature)
        return st.integers(low, high) if feature.kind == "integer" else numbers(feature, low, high)
    if feature.kind == "category":
        told = st.sampled_from(feature.categories)
        return told | TEXTS if feature.unknown == "accept" else told
    return st.booleans() if feature.kind == "boolean" else TEXTS


def rows(schema, make):
    fields = {f.name: make(f) | st.none() if f.nullable else make(f) for f in schema.features}
    return st.fixed_dictionaries(fields)


def wrong(feature):
    """Values that the feature does not take."""
    found = [value for value in WRONG[feature.kind] if not (value is None and feature.nullable)]
    if feature.kind == "category" and feature.unknown == "refuse":
        found += ["no category of training", 2**60]
    if feature.kind == "datetime":
        found.append("2024-01-31T12:00:00" + ("" if feature.is_aware else "+01:00"))
    return found + ([] if feature.nullable else [None])


@pytest.fixture(scope="module")
def ask(server):  # noqa: F811
    """Sends rows to a model and gives the status and the answer, which has to be strict JSON."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:

        def answer(name, rows):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", f"/models/{name}/predict", json.dumps(rows).encode(), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read(), parse_constant=pytest.fail)

        yield answer


def run(test, examples):
    """Draws examples for a test, the same ones at each run."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    quiet(given(st.data())(test))()


def attack(ask, store, case, name, examples):
    schema = store.manifest(name, "1").schema_
    assert list(schema.names) == case.names
    some = schema.features[:8]  # Of 500 columns, the first tell as much as all.
    whole = rows(schema, lambda feature: known(schema, feature) if feature in some else st.just(feature.example))

    def known_rows_are_answered(data):
        drawn = data.draw(st.lists(whole, min_size=1, max_size=5))
        status, answer = ask(name, drawn)
        assert status == 200 and len(answer["predictions"]) == len(drawn), answer
        assert not answer.get("warnings"), answer

    def odd_rows_are_answered_or_refused(data):
        odd = rows(schema, lambda feature: values(schema, feature) if feature in some else st.just(feature.example))
        status, answer = ask(name, data.draw(st.lists(odd, min_size=1, max_size=5)))
        assert status == 200 or (status == 422 and "errors" not in answer), answer

    def mutants_are_refused_by_name(data):
        drawn = data.draw(st.lists(whole, min_size=1, max_size=5))
        place = data.draw(st.integers(0, len(drawn) - 1))
        feature = data.draw(st.sampled_from(some))
        kind = data.draw(st.sampled_from(["wrong", "missing", "renamed"]))
        value = drawn[place].pop(feature.name)
        named = feature.name
        if kind == "wrong":
            drawn[place][feature.name] = data.draw(st.sampled_from(wrong(feature)))
        if kind == "renamed":
            named = f"{feature.name}x"
            drawn[place][named] = value
        status, answer = ask(name, drawn)
        if any(isinstance(value, float) and not math.isfinite(value) for value in drawn[place].values()):
            assert status in (400, 422), answer  # NaN is no JSON at all.
            return
        assert status == 422, (feature, drawn[place], answer)
        told = [(problem["row"], problem["feature"]) for problem in answer["errors"]]
        expected = {(place, feature.name), (place, named)} if kind == "renamed" else {(place, feature.name)}
        assert set(told) == expected and len(told) == len(expected), (feature, drawn[place], answer)

    for test in (known_rows_are_answered, odd_rows_are_answered_or_refused, mutants_are_refused_by_name):
        run(test, examples)


FEW = ("mixed", "dates", "nullable", "categoricals", "whole_numbers")
"""Tables that have every kind of feature between them."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", FEW)
@ONE_SERVER
def test_rows_and_mutants(ask, tables_store, cases, name):  # noqa: F811
    attack(ask, tables_store, cases[name], name, 8)


@pytest.mark.gauntlet
@pytest.mark.parametrize("name", [make.__name__ for make in TABLES])
@ONE_SERVER
def test_many_rows_and_mutants(ask, tables_store, cases, name):  # noqa: F811
    attack(ask, tables_store, cases[name], name, 500)
