"""Training over HTTP."""

import io
import re
from copy import deepcopy

import pytest

pytestmark = pytest.mark.contract("flask serve")


@pytest.fixture
def train(app, client):
    """Post a specification and return the answer. The fixture waits for the job at the end of the test.

    Unless it says otherwise, the model gets no graph: the export takes most of the time of a small job.
    """

    def post(**options):
        if isinstance(options.get("json"), dict):
            options["json"] = {"runtime": "sklearn", **options["json"]}
        return client.post("/train", **options)

    yield post
    app.extensions["jobs"].wait()


def test_a_job_is_accepted_immediately(train, app, client):
    answer = train(json={"data": "iris", "name": "flowers", "seed": 3})
    assert answer.status_code == 202 and answer.headers["Location"] == f"/jobs/{answer.json['id']}"
    assert answer.json["serving"] == {"model": "default", "version": "1"}
    app.extensions["jobs"].wait()
    job = client.get(answer.headers["Location"]).json
    assert (job["status"], job["model"], job["version"]) == ("succeeded", "flowers", "1")
    assert client.get("/jobs").json["jobs"] == [job]
    assert client.get("/readyz").json["model"] == "default"


def test_a_job_uses_the_requested_runtime(train, app, client):
    answer = train(json={"data": "iris", "name": "flowers", "runtime": "onnx"})
    app.extensions["jobs"].wait()
    assert client.get(answer.headers["Location"]).json["status"] == "succeeded"
    assert client.get("/models/flowers/versions/1").json["runtime"] == "onnx"


@pytest.mark.gauntlet
def test_training_fills_an_empty_store(make_app, tmp_path):
    app = make_app(INSTANCE_PATH=tmp_path / "new")
    client = app.test_client()
    assert client.post("/predict", json={"feature": 1}).status_code == 503
    assert client.post("/train", json={"runtime": "sklearn"}).status_code == 202
    app.extensions["jobs"].wait()
    assert client.post("/predict", json={"feature": 1}).json["version"] == "1"


@pytest.mark.parametrize(
    ("options", "status", "detail"),
    [
        ({"json": {"data": "titanic"}}, 422, "iris"),
        ({"json": {"data": "/etc/passwd"}}, 422, "built-in"),
        ({"json": {"data": "http://127.0.0.1/x.csv"}}, 422, "built-in"),
        ({"json": {"name": "../x"}}, 422, "name"),
        ({"json": {"estimator": "os.system"}}, 422, "estimator"),
        ({"json": {"runtime": "abacus"}}, 422, "runtime"),
        ({"json": {"seed": "1"}}, 422, "seed"),
        ({"json": {"seed": True}}, 422, "seed"),
        ({"json": {"data": None}}, 422, "CSV file"),
        ({"json": {f"key {i}": i for i in range(5_000)}}, 422, "more than 20"),
        ({"data": {"data": (io.BytesIO(b""), "")}}, 422, "CSV file"),
        ({"data": {"data": (io.BytesIO(b"a,y\n1,2"), "t.csv")}}, 422, "target"),
        ({"data": {"name": ["one", "two"]}}, 422, "more than once"),
        ({"json": {"seed": -1}}, 422, "seed"),
        ({"json": []}, 422, "object"),
        ({"data": b"{", "content_type": "application/json"}, 400, "JSON"),
        ({"data": b"x", "content_type": "text/csv"}, 415, "multipart"),
        ({"json": {}, "headers": {"Content-Encoding": "gzip"}}, 415, "unencoded"),
        ({"data": {"target": "y"}, "headers": {"Content-Encoding": "br"}}, 415, "unencoded"),
        ({"data": {"data": (io.BytesIO(b"a,y\n1,2"), "t.csv"), "extra": "1"}}, 422, "extra"),
    ],
)
def test_invalid_specifications_are_refused(train, client, options, status, detail):
    answer = train(**deepcopy(options))  # The parameters are shared between servers, and a file is read only once.
    assert answer.status_code == status
    assert detail in answer.text and client.get("/jobs").json["jobs"] == []


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
@pytest.mark.parametrize("body", [b"", b"--x--", b"garbage"])
def test_an_empty_form_trains_nothing(client, content_type, body):
    answer = client.post("/train", data=body, content_type=content_type)
    assert answer.status_code == 422 and client.get("/jobs").json["jobs"] == []


def test_uploads_have_their_own_limit(make_app):
    client = make_app(MAX_UPLOAD=1_000, MAX_BODY=10).test_client()
    upload = {"data": (io.BytesIO(b"a" * 2_000), "t.csv"), "target": "a"}
    answer = client.post("/train", data=upload)
    assert answer.status_code == 413 and "raise the setting MAX_UPLOAD" in answer.json["detail"]


@pytest.mark.gauntlet
def test_a_full_queue_refuses_jobs(make_app):
    app = make_app(TRAIN_QUEUE=1)
    client = app.test_client()
    answers = [client.post("/train", json={"runtime": "sklearn"}) for _ in range(4)]
    app.extensions["jobs"].wait()
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and all(int(answer.headers["Retry-After"]) > 0 for answer in refused)


def test_training_needs_the_right_to_change_state(client):
    assert client.post("/train", json={}, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 403
    assert client.post("/train", json={}, headers={"Origin": "http://evil.example"}).status_code == 403


def test_an_unknown_job_is_404(client):
    assert client.get("/jobs").json == {"jobs": []}
    assert client.get("/jobs/0").status_code == 404


@pytest.mark.thorough
@pytest.mark.parametrize(
    "schema",
    [
        {"features": [{"name": "bmi", "minimum": 0, "maximum": 0}], "out_of_range": "refuse"},
        {"features": [{"kind": "text"}]},
        {"features": 5},
    ],
)
def test_the_detail_of_a_failed_job_holds_no_value(app, client, schema):
    answer = client.post("/train", json={"data": "diabetes", "schema": schema, "runtime": "sklearn"})
    app.extensions["jobs"].wait()
    job = client.get(answer.headers["Location"]).json
    assert job["status"] == "failed" and "process died" not in job["detail"]
    assert not re.search(r"0\.0\d", job["detail"])
