"""Every row of every table gets over HTTP what the estimator answers when it is called itself."""

import csv
import io
import json
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest

from flaskml.training.columns import as_fitted
from flaskml.training.datasets import read_csv_dataset
from tests.support.answers import by_class, differs, largest, plain
from tests.support.sample_tables import FORCED, HAS_GRAPHS, TABLES, Case, cases, name_of, server, tables_store  # noqa: F401 - fixtures
from tests.support.stores import load_active

BATCHES = (1, 7, 200)


NEAR = {"lightgbm_categoricals": 1e-6, "xgboost_categoricals": 1e-6}
"""How far a number may be off as a share of itself or of the largest beside it, where it is not `EXACT`."""


EXACT, BY_GRAPH = 1e-12, 1e-6
"""The same where the estimator answers, and where a graph does."""


def in_json(value):
    """A value of a table as a client would write it in JSON."""
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def in_text(value):
    """A value of JSON as a client would write it in a form."""
    return "" if value is None else str(value)


def rows_of(case):
    """The rows as lists of what JSON has for their values."""
    columns = [case.X.iloc[:, i] for i in range(case.X.shape[1])] if hasattr(case.X, "iloc") else list(case.X.T)
    return [list(row) for row in zip(*[[in_json(value) for value in column] for column in columns], strict=True)]


def as_object(names, rows):
    return json.dumps(dict(zip(names, rows[0], strict=True))), "application/json"


def as_array(names, rows):
    return json.dumps([dict(zip(reversed(names), reversed(row), strict=True)) for row in rows]), "application/json"


def as_instances(names, rows):
    return json.dumps({"instances": [dict(zip(names, row, strict=True)) for row in rows]}), "application/json"


def as_lists(names, rows):
    return json.dumps({"instances": rows}), "application/json"


def as_csv(names, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *([in_text(value) for value in row] for row in rows)])
    return "\ufeff" + text.getvalue(), "text/csv"


def as_form(names, rows):
    texts = [in_text(value) for value in rows[0]]
    return urlencode(list(zip(names, texts, strict=True))), "application/x-www-form-urlencoded"


def as_multipart(names, rows):
    # As browsers do: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
    escaped = [name.replace("\n", "%0A").replace('"', "%22") for name in names]
    parts = [
        f'--part\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{in_text(value)}\r\n'
        for name, value in zip(escaped, rows[0], strict=True)
    ]
    return "".join(parts) + "--part--\r\n", "multipart/form-data; boundary=part"


MANY = (as_array, as_instances, as_lists, as_csv)


ALONE = (as_object, as_form, as_multipart)


@pytest.fixture
def ask(server):  # noqa: F811
    """Asks for predictions over one connection."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:

        def answers(name, method, body, content_type):
            path, headers = f"/models/{name}/predict?method={method}", {"Content-Type": content_type}
            connection.request("POST", path, body.encode(), headers)
            response = connection.getresponse()
            answer = json.loads(response.read(), parse_constant=pytest.fail)
            assert response.status == 200, answer
            return answer["predictions"] if "predictions" in answer else [answer["prediction"]]

        yield answers


def expected(case, method):
    """What has to come: for each row a value for JSON, probabilities by class."""
    answers = [plain(answer) for answer in case.answers(method)]
    if "proba" not in method:
        return answers
    classes = case.estimator.classes_
    if isinstance(classes, list):
        return [[by_class(c, part) for c, part in zip(classes, row, strict=True)] for row in answers]
    return [by_class(classes, row) for row in answers]


def compare(ask, case, name, near, alone, sevens):
    """Asks for all rows in batches, for the first `sevens` of them by sevens, and for the first `alone` one by one."""
    rows, names = rows_of(case), case.names
    limits = dict(zip(BATCHES, (alone, sevens, len(rows)), strict=True))
    for method in case.methods:
        assert [ask(name, method, *form(names, [])) for form in MANY] == [[]] * len(MANY)
        wanted = expected(case, method)
        scale = largest(wanted)
        for size, limit in limits.items():
            for form in (*MANY, *ALONE) if size == 1 else MANY:
                for start in range(0, min(limit, len(rows)), size):
                    body, content_type = form(names, rows[start : start + size])
                    got = ask(name, method, body, content_type)
                    here = wanted[start : start + size]
                    assert len(got) == len(here)
                    for index, (one, other) in enumerate(zip(here, got, strict=True)):
                        where = (name, method, form.__name__, size, start + index)
                        assert not differs(one, other, near, scale), (where, one, other)


EACH = [(make.__name__, None) for make in TABLES] + list(FORCED)


@pytest.fixture
def near(cases, tables_store, table, runtime):  # noqa: F811
    """How far a number may be off, by what computes; that is checked where it was asked for."""
    assert cases[table]  # Or it is skipped, for want of its library.
    if runtime == "onnx" and not HAS_GRAPHS:
        pytest.skip("graphs need a library that is not installed")
    found = tables_store.manifest(name_of(table, runtime), "1").runtime
    assert runtime in (None, found)
    return BY_GRAPH if found == "onnx" else NEAR.get(table, EXACT)


@pytest.mark.parametrize(("table", "runtime"), EACH)
def test_every_answer_is_the_estimators_own(ask, cases, table, runtime, near):  # noqa: F811
    compare(ask, cases[table], name_of(table, runtime), near, alone=10, sevens=28)


@pytest.mark.gauntlet
@pytest.mark.parametrize(("table", "runtime"), EACH)
def test_every_answer_to_every_row_alone(ask, cases, table, runtime, near):  # noqa: F811
    compare(ask, cases[table], name_of(table, runtime), near, alone=10**6, sevens=10**6)


def test_a_model_that_was_trained_answers_as_its_estimator(homes, store, mixed_csv):
    _, table = as_fitted(read_csv_dataset(mixed_csv, "homes.csv", "sold").features, {})
    case = Case(load_active(store, "homes").estimator, table)
    rows = [dict(zip(case.names, row, strict=True)) for row in rows_of(case)]
    for method in case.methods:
        wanted = expected(case, method)
        for form in (rows, {"instances": rows_of(case)}):
            got = homes.post(f"/predict?method={method}", json=form).json["predictions"]
            assert not differs(wanted, got, 1e-12, largest(wanted)), method
        alone = [homes.post(f"/predict?method={method}", json=row).json["prediction"] for row in rows[:20]]
        assert not differs(wanted[:20], alone, 1e-12, largest(wanted)), method


def test_the_comparison_finds_what_it_looks_for():
    assert differs(1.0, 1.0 + 1e-11, 1e-12, 1.0) and not differs(1.0, 1.0 + 1e-13, 1e-12, 1.0)
    for wanted, got in ((True, 1), (1, 1.0), ("1", 1), (None, 0.0), ({"a": 1.0}, {"b": 1.0}), ([1.0], [1.0, 1.0])):
        assert differs(wanted, got, 1e-12, 1.0), (wanted, got)
