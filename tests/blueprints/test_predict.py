"""The native prediction door: bodies, options, errors, CSV and pages."""

import csv
import gzip
import io
import json
import re
import zlib
from io import BytesIO

import pytest

from flaskml.errors import MAX_PROBLEMS
from flaskml.web.replies import MAX_PROBLEM_BYTES
from tests.support.stores import train_into

pytestmark = pytest.mark.contract

URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"feature": 0.5}', "application/json"),
        (b'{"feature": 0.5}', "application/json; charset=utf-8"),
        (b'{"feature": 0.5}', "application/vnd.example+json"),
        (b'{"feature": 0.5}', None),
        (b'{"feature": 0.5}', "text/plain"),
        (b'{"feature": 0.5}', URLENCODED),
        (b"feature=0.5", URLENCODED),
        (b"feature=%30.5", f"{URLENCODED}; charset=utf-8"),
        (
            b'--f\r\nContent-Disposition: form-data; name="feature"\r\n\r\n0.5\r\n--f--\r\n',
            "multipart/form-data; boundary=f",
        ),
    ],
)
def test_every_body_format_gives_the_same_prediction(client, body, content_type):
    answer = client.post("/predict", data=body, content_type=content_type)
    assert answer.status_code == 200 and answer.mimetype == "application/json"
    assert answer.json == {"prediction": pytest.approx(20.8956816), "model": "default", "version": "1"}


@pytest.mark.parametrize("value", [[], {"instances": []}])
def test_no_rows_give_no_predictions(client, value):
    assert client.post("/predict", json=value).json == {"predictions": [], "model": "default", "version": "1"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"", None, 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"{", URLENCODED, 400),
        (b'{"feature": "1"}', "application/json", 422),
        (b'{"feature": true}', "application/json", 422),
        (b'{"feature": null}', "application/json", 422),
        (b'{"feature": NaN}', "application/json", 422),
        (b'{"feature": Infinity}', "application/json", 422),
        (b'{"feature": ' + b"9" * 5_000 + b"}", "application/json", 422),
        (b'{"faeture": 1}', "application/json", 422),
        (b"{}", "application/json", 422),
        (b"", URLENCODED, 422),
        (b"feature=", URLENCODED, 422),
        (b"feature=1&feature=2", URLENCODED, 422),
        (b"feature=1&other=2", URLENCODED, 422),
        (b"nonsense", "multipart/form-data; boundary=x", 422),
        (b"nonsense", "multipart/form-data", 422),
        (b"feature,other\n1,2\n", "text/csv", 422),
        (b"", "text/csv", 400),
        (b"<x/>", "application/xml", 415),
        (b"\x80\x02", "application/octet-stream", 415),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_bad_input_gives_a_problem(client, body, content_type, status):
    answer = client.post("/predict", data=body, content_type=content_type)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    if status == 422:
        assert {error["row"] for error in answer.json["errors"]} == {0}
        assert all(error["feature"] and error["feature"] in error["detail"] for error in answer.json["errors"])


def test_an_uploaded_file_is_refused(homes, home):
    form = {name: str(value) for name, value in home.items()} | {"note": (BytesIO(b"good"), "x.csv")}
    answer = homes.post("/predict", data=form)
    assert answer.status_code == 422 and "is a file" in answer.json["detail"]


def test_numbers_beyond_float32_are_refused(make_app, instance):
    train_into(instance, data="iris", name="iris")
    client = make_app(MODEL_NAME="iris").test_client()
    row = dict.fromkeys(client.application.extensions["model"].current.schema.names, 1.7e308)
    answer = client.post("/predict", json=row)
    assert answer.status_code == 422 and "must be a number from -3.40" in answer.json["detail"]
    assert client.post("/predict", json=[row] * 3).status_code == 422


def test_the_error_of_a_missing_model_keeps_no_traceback(make_app):
    client = make_app(MODEL_NAME="absent").test_client()
    depths = set()
    for _ in range(5):
        client.post("/predict", json={})
        trace, frames = client.application.extensions["model"].current.reason.__traceback__, 0
        while trace:
            trace, frames = trace.tb_next, frames + 1
        depths.add(frames)
    assert len(depths) == 1


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"feature": 1}', "application/json"),
        (b"feature\n1\n", "text/csv"),
        (b"feature=1", "application/x-www-form-urlencoded"),
        (b'{"feature": 1}', "application/x-www-form-urlencoded"),
        (
            b'--x\r\nContent-Disposition: form-data; name="feature"\r\n\r\n1\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_encoded_bodies_get_the_same_answers(client, body, content_type):
    def send(data, **headers):
        answer = client.post("/predict", data=data, headers={"Content-Type": content_type, **headers})
        return answer.status_code, answer.data

    expected = send(body)
    assert expected[0] == 200
    assert send(gzip.compress(body), **{"Content-Encoding": "gzip"}) == expected
    assert send(zlib.compress(body), **{"Content-Encoding": "Deflate"}) == expected


def test_an_encoded_body_has_at_most_max_body_bytes(make_app):
    client = make_app(MAX_BODY=10_000).test_client()
    for size, status in ((10_000, 200), (10_001, 413), (10_000_000, 413)):
        body = gzip.compress(b'{"feature": 1}'.ljust(size))
        answer = client.post("/predict", data=body, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == status, size
    assert "MAX_BODY" in answer.json["detail"]


@pytest.mark.parametrize("coding", ["identity", "Identity", "identity ", "", "\tIDENTITY", "identity, Identity", ","])
@pytest.mark.parametrize("body", [{"json": {"feature": 1}}, {"data": {"feature": "1"}}])
def test_identity_is_no_content_coding(client, coding, body):
    for _ in range(3):
        assert client.post("/predict", headers={"Content-Encoding": coding}, **body).status_code == 200


def test_methods_that_the_estimator_lacks_are_refused(client):
    assert client.post("/predict?method=predict", json={"feature": 1}).status_code == 200
    for method in ("predict_proba", "__init__", ""):
        answer = client.post(f"/predict?method={method}", json={"feature": 1})
        assert answer.status_code == 422 and answer.json["detail"].endswith("available methods: predict.")


def test_max_body_and_max_rows_limit_a_request(make_app):
    body = json.dumps({"instances": [[1.5]] * 3}).encode()
    client = make_app(MAX_BODY=len(body), MAX_ROWS=3).test_client()
    assert client.post("/predict", data=body).status_code == 200
    answer = client.post("/predict", data=body + b" ")
    assert answer.status_code == 413 and "MAX_BODY" in answer.json["detail"]
    answer = client.post("/predict", json=[{}] * 4)
    assert answer.status_code == 413 and "MAX_ROWS" in answer.json["detail"]


def test_a_body_without_content_length_is_limited(make_app):
    client = make_app(MAX_BODY=100).test_client()
    stream = {"input_stream": BytesIO(b" " * 200), "environ_overrides": {"wsgi.input_terminated": True}}
    assert client.post("/predict", **stream, content_type="application/json").status_code == 413


def test_many_bad_values_get_a_small_answer(make_app):
    client = make_app(MAX_ROWS=200_000, MAX_BODY=10**7).test_client()
    answer = client.post("/predict", data=b"[" + b'{"feature":"x"},' * 99_999 + b'{"feature":"x"}]')
    assert answer.status_code == 422 and len(answer.data) < MAX_PROBLEM_BYTES
    assert len(answer.json["errors"]) == MAX_PROBLEMS and "more than 20" in answer.json["detail"]


def test_rows_of_mixed_types_are_predicted(homes, home):
    rows = [home, home | {"age": None}, home | {"home city": None, "note": None}]
    answer = homes.post("/predict", json=rows)
    assert answer.status_code == 200 and set(answer.json["predictions"]) <= {"yes", "no"}
    assert [homes.post("/predict", json=row).json["prediction"] for row in rows] == answer.json["predictions"]
    form = {name: "" if value is None else str(value) for name, value in rows[1].items()}
    assert homes.post("/predict", data=form).json["prediction"] == answer.json["predictions"][1]


def test_nulls_are_accepted_only_where_training_had_them(homes, home):
    answer = homes.post("/predict", json=home | {"rooms": None, "age": None})
    assert [error["feature"] for error in answer.json["errors"]] == ["rooms"]


def test_a_browser_gets_the_page(homes, home):
    form = {name: str(value) for name, value in home.items()}
    answer = homes.post("/predict", data=form, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert "<output>" in answer.text and 'value="33.5"' in answer.text


def test_a_browser_gets_the_error_beside_the_field(homes, home):
    form = {name: str(value) for name, value in home.items()} | {"rooms": "<b>many", "age": "50.5"}
    answer = homes.post("/predict", data=form, headers={"Accept": "text/html"})
    assert answer.status_code == 422 and "<output>" not in answer.text
    assert answer.text.count("aria-invalid") == 1 and 'value="50.5"' in answer.text
    assert "<b>many" not in answer.text and "&lt;b&gt;many" in answer.text


def test_without_a_model_a_browser_gets_503(make_app):
    client = make_app(MODEL_NAME="absent").test_client()
    answer = client.post("/predict", data={"a": "1"}, headers={"Accept": "text/html"})
    assert answer.status_code == 503 and "flask train --name absent" in answer.text


def test_input_is_never_rendered_as_a_template(homes, home):
    form = {name: str(value) for name, value in home.items()} | {"note": "{{7*7777777}}"}
    answer = homes.post("/predict", data=form, headers={"Accept": "text/html"})
    assert "{{7*7777777}}" in answer.text and "54444439" not in answer.text


def test_probabilities_are_objects_by_class(homes, home):
    probabilities = homes.post("/predict?method=predict_proba", json=home).json["prediction"]
    assert list(probabilities) == ["no", "yes"] and sum(probabilities.values()) == pytest.approx(1)
    label = homes.post("/predict", json=home).json["prediction"]
    best = homes.post("/predict?method=predict_proba&top_k=1", json=[home]).json["predictions"]
    assert best == [{label: max(probabilities.values())}]


@pytest.mark.parametrize("query", ["top_k=1", "method=decision_function&top_k=1", "method=predict_proba&top_k=0",
                                   "method=predict_proba&top_k=x", "method=predict_proba&top_k=-1",
                                   "method=predict_proba&top_k=", "method=predict_proba&top_k=1.0",
                                   "method=predict_proba&top_k=١"])  # fmt: skip
def test_invalid_top_k_is_refused(homes, home, query):
    answer = homes.post(f"/predict?{query}", json=home)
    assert answer.status_code == 422 and "top_k" in answer.json["detail"]


def test_the_error_for_an_unknown_method_lists_the_methods(homes, home):
    answer = homes.post("/predict?method=transform", json=home)
    assert answer.status_code == 422
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert method in answer.json["detail"]


def test_csv_is_accepted_and_returned(homes, home):
    rows = [home, {**home, "age": None, "note": 'good, "quoted"\nand broken', "member": False}]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(home))
    table.writeheader()
    table.writerows(rows)
    expected = homes.post("/predict", json=rows).json["predictions"]
    for bom, booleans in (("", str), ("\ufeff", str.upper)):
        body = (bom + text.getvalue()).replace("True", booleans("true")).replace("False", booleans("false"))
        answer = homes.post("/predict", data=body.encode(), content_type="text/csv")
        assert answer.json["predictions"] == expected
    answer = homes.post("/predict", json=rows, headers={"Accept": "text/csv"})
    assert (answer.mimetype, answer.headers["Model"], answer.headers["Model-Version"]) == ("text/csv", "homes", "1")
    assert answer.text.split("\r\n") == ["prediction", *expected, ""]
    both = homes.post("/predict?method=predict_proba", data=body.encode(), content_type="text/csv; charset=utf-8",
                      headers={"Accept": "text/csv; header=present"})  # fmt: skip
    assert both.text.startswith("prediction:no,prediction:yes\r\n") and both.text.count("\r\n") == 3


def test_csv_errors_name_row_and_feature(homes, home):
    header = ",".join(home)
    good = ",".join(str(value) for value in home.values())
    body = f"{header}\n{good}\n{good.replace('4', 'four')}\n\n{good.replace('33.5', '1e')}\n".encode()
    answer = homes.post("/predict", data=body, content_type="text/csv")
    assert answer.status_code == 422
    assert [(error["row"], error["feature"]) for error in answer.json["errors"]] == [(1, "rooms"), (2, "age")]


def test_csv_without_a_header_is_refused(homes, home):
    header, row = ",".join(home), ",".join(map(str, home.values()))
    answer = homes.post("/predict", data=row.encode(), content_type="text/csv")
    assert answer.status_code == 422 and [error["feature"] for error in answer.json["errors"]] == list(home)
    assert homes.post("/predict", data=header.encode(), content_type="text/csv").json["predictions"] == []


def test_values_outside_the_training_data_give_warnings(homes, home):
    answer = homes.post("/predict", json=[home, {**home, "age": 400, "home city": "Bern"}])
    assert answer.status_code == 200 and len(answer.json["predictions"]) == 2
    warnings = [(warning["row"], warning["feature"]) for warning in answer.json["warnings"]]
    assert warnings == [(1, "age"), (1, "home city")]
    assert "warnings" not in homes.post("/predict", json=home).json


def test_terse_warnings_name_nothing(make_app, home):
    client = make_app(MODEL_NAME="homes", ERROR_DETAIL="terse").test_client()
    answer = client.post("/predict", json={**home, "age": 400, "home city": "Bern"})
    assert answer.status_code == 200 and {warning["row"] for warning in answer.json["warnings"]} == {0}
    assert not any(word in json.dumps(answer.json["warnings"]) for word in ("age", "city", "400", "Bern", "80"))


@pytest.mark.parametrize("query", ["mehtod=predict", "method=predict&x=1"])
def test_unknown_query_options_are_refused(client, query):
    answer = client.post(f"/predict?{query}", json={"feature": 1})
    assert answer.status_code == 422 and "unknown option" in answer.json["detail"]


def test_trailing_newlines_of_a_one_column_csv_are_ignored(client):
    for end, count in (("", 2), ("\n", 2), ("\n\n", 2)):
        answer = client.post("/predict", data=f"feature\n1\n2{end}".encode(), content_type="text/csv")
        assert len(answer.json["predictions"]) == count
    answer = client.post("/predict", data=b"feature\n1\n\n2\n", content_type="text/csv")
    assert answer.status_code == 422 and answer.json["errors"][0]["row"] == 1


def test_csv_answers_count_the_warnings_in_a_header(homes, home):
    answer = homes.post("/predict", json=[home, {**home, "age": 400}], headers={"Accept": "text/csv"})
    assert answer.headers["Model-Warnings"] == "1"


def test_terse_pages_name_nothing_beside_the_form(make_app, home):
    client = make_app(MODEL_NAME="homes", ERROR_DETAIL="terse").test_client()
    form = {name: str(value) for name, value in home.items()}
    for feature in ("home city", "rooms"):  # An unknown category gives a warning, a text for a number an error.
        page = client.post("/predict", data={**form, feature: "Secret"}, headers={"Accept": "text/html"}).text
        alert = re.search(r'role="alert">(.*?)</p>|class="hint">(.*?)</p>', page)[0]
        assert not any(word in alert for word in ("rooms", "city", "Secret"))
