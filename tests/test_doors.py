"""Every body format gives the answers of the estimator called directly, for every row of every sample table."""

import json
from contextlib import closing
from http.client import HTTPConnection

import pytest

from flaskml.training.columns import as_fitted
from flaskml.training.datasets import read_csv_dataset
from tests.support.answers import by_class, differs, largest, plain
from tests.support.body_formats import BATCH_FORMATS, SINGLE_ROW_FORMATS, rows_of
from tests.support.sample_tables import FORCED, HAS_GRAPHS, TABLES, Case, cases, name_of, server, tables_store  # noqa: F401 - fixtures
from tests.support.sampling import sampled
from tests.support.stores import load_active

BATCH_SIZES = (1, 7, 200)

FOREIGN_TOLERANCES = {"lightgbm_categoricals": 1e-6, "xgboost_categoricals": 1e-6}
"""The tolerance for estimators of other libraries, relative to the number or to the largest one in the answer."""

SKLEARN_TOLERANCE, ONNX_TOLERANCE = 1e-12, 1e-6
"""The tolerance of the scikit-learn runtime and of the ONNX runtime."""


@pytest.fixture
def ask(server):  # noqa: F811
    """Return a function that requests predictions over one keep-alive connection."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:

        def predictions(name, method, body, content_type):
            path, headers = f"/models/{name}/predict?method={method}", {"Content-Type": content_type}
            connection.request("POST", path, body.encode(), headers)
            response = connection.getresponse()
            answer = json.loads(response.read(), parse_constant=pytest.fail)
            assert response.status == 200, answer
            return answer["predictions"] if "predictions" in answer else [answer["prediction"]]

        yield predictions


def expected(case, method):
    """Return the expected JSON answer for each row, with probabilities by class."""
    answers = [plain(answer) for answer in case.answers(method)]
    if "proba" not in method:
        return answers
    classes = case.estimator.classes_
    if isinstance(classes, list):
        return [[by_class(c, part) for c, part in zip(classes, row, strict=True)] for row in answers]
    return [by_class(classes, row) for row in answers]


def compare(ask, case, name, tolerance, single_rows, sevens_rows):
    """Compare the answers to all rows in large batches, and to the first rows one by one and in batches of seven."""
    rows, names = rows_of(case), case.names
    limits = dict(zip(BATCH_SIZES, (single_rows, sevens_rows, len(rows)), strict=True))
    for method in case.methods:
        assert [ask(name, method, *encode(names, [])) for encode in BATCH_FORMATS] == [[]] * len(BATCH_FORMATS)
        all_expected = expected(case, method)
        scale = largest(all_expected)
        for size, limit in limits.items():
            for encode in (*BATCH_FORMATS, *SINGLE_ROW_FORMATS) if size == 1 else BATCH_FORMATS:
                for start in range(0, min(limit, len(rows)), size):
                    body, content_type = encode(names, rows[start : start + size])
                    actual = ask(name, method, body, content_type)
                    batch_expected = all_expected[start : start + size]
                    assert len(actual) == len(batch_expected)
                    for index, (one, other) in enumerate(zip(batch_expected, actual, strict=True)):
                        where = (name, method, encode.__name__, size, start + index)
                        assert not differs(one, other, tolerance, scale), (where, one, other)


SERVED = [(make.__name__, None) for make in TABLES] + list(FORCED)


@pytest.fixture
def tolerance(cases, tables_store, table, runtime):  # noqa: F811
    """Return the tolerance of the runtime that serves the table, after a check of the runtime itself."""
    assert cases[table]  # Skips the test if the library of the table is not installed.
    if runtime == "onnx" and not HAS_GRAPHS:
        pytest.skip("onnxruntime or skl2onnx is not installed")
    used = tables_store.manifest(name_of(table, runtime), "1").runtime
    assert runtime in (None, used)
    return ONNX_TOLERANCE if used == "onnx" else FOREIGN_TOLERANCES.get(table, SKLEARN_TOLERANCE)


@pytest.mark.parametrize(("table", "runtime"), sampled(SERVED, 4))
def test_every_answer_equals_the_estimators(ask, cases, table, runtime, tolerance):  # noqa: F811
    compare(ask, cases[table], name_of(table, runtime), tolerance, single_rows=10, sevens_rows=28)


@pytest.mark.gauntlet
@pytest.mark.parametrize(("table", "runtime"), SERVED)
def test_every_single_row_gets_the_estimators_answer(ask, cases, table, runtime, tolerance):  # noqa: F811
    compare(ask, cases[table], name_of(table, runtime), tolerance, single_rows=10**6, sevens_rows=10**6)


def test_a_trained_model_answers_as_its_estimator(homes, store, mixed_csv):
    _, table = as_fitted(read_csv_dataset(mixed_csv, "homes.csv", "sold").features, {})
    case = Case(load_active(store, "homes").estimator, table)
    rows = [dict(zip(case.names, row, strict=True)) for row in rows_of(case)]
    for method in case.methods:
        all_expected = expected(case, method)
        for document in (rows, {"instances": rows_of(case)}):
            actual = homes.post(f"/predict?method={method}", json=document).json["predictions"]
            assert not differs(all_expected, actual, 1e-12, largest(all_expected)), method
        single = [homes.post(f"/predict?method={method}", json=row).json["prediction"] for row in rows[:20]]
        assert not differs(all_expected[:20], single, 1e-12, largest(all_expected)), method


def test_the_comparison_finds_planted_differences():
    assert differs(1.0, 1.0 + 1e-11, 1e-12, 1.0) and not differs(1.0, 1.0 + 1e-13, 1e-12, 1.0)
    for one, other in ((True, 1), (1, 1.0), ("1", 1), (None, 0.0), ({"a": 1.0}, {"b": 1.0}), ([1.0], [1.0, 1.0])):
        assert differs(one, other, 1e-12, 1.0), (one, other)
