"""The native contract on real servers, `waitress-serve wsgi:app` and `flask serve`."""

import json
import time
from contextlib import ExitStack

import pytest

from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import COMMANDS
from tests.support.server_processes import server_of_a_copy
from tests.support.stores import load_active, train_into
from tests.support.tables import HOME

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def served(trained):
    """An instance folder with a model of a mixed table beside the default one."""
    return trained


@pytest.fixture(scope="module")
def running(trained, tmp_path_factory):
    """Yield each server by its name, for tests that change no state."""
    with ExitStack() as stack:
        folders = {name: tmp_path_factory.mktemp("running") for name in COMMANDS}
        yield {name: stack.enter_context(server_of_a_copy(trained, folders[name], name)) for name in COMMANDS}


@pytest.fixture
def server(running, server_name):
    return running[server_name]


def test_the_startup_log_names_model_version_score_and_address(server):
    assert f"Serving default version 1 (r2 1.0000) on http://127.0.0.1:{server.port}" in server.log


@pytest.mark.parametrize(
    "body",
    [b'{"feature": 0.5}', b"feature=0.5", b' \n{"feature": 0.5}'],
    ids=["JSON from curl -d", "form", "JSON after white space"],
)
def test_a_form_content_type_accepts_json_and_forms(server, body):
    status, headers, content = server.request(
        "POST", "/predict", body, {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert int(headers["Content-Length"]) == len(content)
    answer = json.loads(content)
    assert answer["prediction"] == pytest.approx(20.8956816, rel=1e-8)
    assert {"model": "default", "version": "1"}.items() <= answer.items()


def test_several_rows_get_several_predictions(server):
    for body in ([{"feature": 0.5}, {"feature": 1}], {"instances": [[0.5], [1]]}):
        status, answer = server.json("POST", "/predict", body)
        assert status == 200 and len(answer["predictions"]) == 2 and list(answer) == ["predictions", "model", "version"]
    assert server.json("POST", "/predict", [])[1]["predictions"] == []


def test_mixed_rows_get_the_estimators_predictions(server, store):
    rows = [HOME, HOME | {"age": None, "home city": None}, HOME | {"note": None, "member": False, "rooms": 7.0}]
    loaded = load_active(store, "homes")
    table = SchemaTableBuilder(loaded.manifest.schema_).build([tuple(row.values()) for row in rows])
    expected = loaded.estimator.predict(table).tolist()
    assert server.json("POST", "/models/homes/predict", rows)[1]["predictions"] == expected
    assert [server.json("POST", "/models/homes/predict", row)[1]["prediction"] for row in rows] == expected


@pytest.mark.contract("waitress-serve")
def test_training_activates_the_new_version(serve):
    server = serve()
    status, headers, content = server.request(
        "POST", "/train", b'{"data": "diabetes", "runtime": "sklearn"}', {"Content-Type": "application/json"}
    )
    assert status == 202
    assert headers["Location"] == f"/jobs/{json.loads(content)['id']}"
    job = wait_for(server, headers["Location"])
    assert (job["status"], job["version"], job["model"], job["metric"]) == ("succeeded", "2", "default", "r2")
    assert server.json("GET", "/readyz") == (200, {"status": "ready", "model": "default", "version": "2"})
    assert server.json("POST", "/predict", {"feature": 1})[0] == 422


@pytest.mark.thorough
@pytest.mark.contract("flask serve")
def test_training_accepts_an_uploaded_file(serve, mixed_csv):
    server = serve()
    boundary = "frontier"
    body = b"".join(
        [
            part(boundary, 'name="runtime"', b"sklearn"),
            part(boundary, 'name="target"', b"sold"),
            part(boundary, 'name="name"', b"uploaded"),
            part(boundary, 'name="data"; filename="../../homes.csv"', mixed_csv.read_bytes()),
            f"--{boundary}--\r\n".encode(),
        ]
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, headers, _ = server.request("POST", "/train", body, headers)
    assert status == 202
    assert wait_for(server, headers["Location"])["status"] == "succeeded"
    assert server.json("GET", "/models/uploaded")[1]["active"] == "1"
    assert server.json("GET", "/readyz")[1]["model"] == "default"


def part(boundary, disposition, content):
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def wait_for(server, path):
    """Poll a job until it has ended; return it."""
    while True:
        job = server.json("GET", path)[1]
        if job["status"] not in ("queued", "running"):
            return job
        time.sleep(0.1)


@pytest.mark.contract("waitress-serve")
def test_a_job_of_a_killed_server_is_interrupted(serve, tmp_path):
    slow = tmp_path / "slow.csv"
    slow.write_text("a,b\n" + "".join(f"{i % 97},{i % 89}.5\n" for i in range(400_000)))
    first = serve()
    body = part("f", 'name="target"', b"b") + part("f", 'name="data"; filename="slow.csv"', slow.read_bytes())
    status, headers, _ = first.request(
        "POST", "/train", body + b"--f--\r\n", {"Content-Type": "multipart/form-data; boundary=f"}
    )
    assert status == 202
    while first.json("GET", headers["Location"])[1]["status"] == "queued":
        pass
    first.process.kill()
    first.process.wait()
    job = serve().json("GET", headers["Location"])[1]
    assert job["status"] == "interrupted" and "send it again" in job["detail"]


@pytest.mark.gauntlet
@pytest.mark.contract("waitress-serve")
def test_a_version_published_by_another_process_is_served_after_a_restart(serve, instance):
    assert serve().json("POST", "/predict", {"feature": 0})[1]["version"] == "1"
    train_into(instance)
    assert serve().json("POST", "/predict", {"feature": 0})[1]["version"] == "2"


@pytest.mark.contract("waitress-serve")
@pytest.mark.parametrize(
    "damage",
    [
        "altered",
        "missing",
        *(pytest.param(name, marks=pytest.mark.gauntlet) for name in ("truncated", "foreign")),
    ],
)
def test_a_damaged_store_answers_503_and_names_the_file(serve, instance, damage):
    model = instance / "models/default/1/model.joblib"
    content = model.read_bytes()
    damaged = {"truncated": content[:-9], "altered": content[:50] + b"!" + content[51:], "foreign": b"PK\x03\x04"}
    if damage == "missing":
        model.unlink()
    else:
        model.write_bytes(damaged[damage])
    server = serve()
    for method, path, value in (("GET", "/readyz", None), ("POST", "/predict", {"feature": 1})):
        status, problem = server.json(method, path, value)
        assert status == 503
        assert "models/default/1/model.joblib" in problem["detail"] and "flask train" in problem["detail"]
        assert str(instance) not in problem["detail"]
    assert server.json("GET", "/livez")[0] == 200


@pytest.mark.contract("flask serve")
def test_a_store_without_the_default_model_answers_503(serve, instance):
    (instance / "models/default").rename(instance / "models/other")
    server = serve()
    status, problem = server.json("POST", "/predict", {"feature": 1})
    assert status == 503
    assert "flask train" in problem["detail"] and "homes, other" in problem["detail"]
    assert server.request("GET", "/")[0] == 503
