"""Who may change state, the one shape of errors, and the headers."""

import base64
import hashlib
import json

import pytest
from flask import Blueprint, Request, Response

from flaskml.errors import InvalidInput, Problem
from flaskml.web.access import changes_no_state
from flaskml.web.lean import LeanRequest
from flaskml.web.replies import MAX_PROBLEM_BYTES

pytestmark = pytest.mark.contract

TOKEN = "an example of a token ü"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
def guarded(make_app):
    """A client of an app with one open and one guarded route, for any configuration."""

    def build(**config):
        bp = Blueprint("sample", __name__)
        bp.post("/change", endpoint="change")(lambda: {"changed": True})
        bp.post("/ask", endpoint="ask")(changes_no_state(lambda: {"changed": False}))
        app = make_app(**config)
        app.register_blueprint(bp)
        return app.test_client()

    return build


@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        ({}, "127.0.0.1", 200),
        ({}, "::1", 200),
        ({"Host": "localhost:8080"}, "127.0.0.1", 200),
        ({"Host": "[::1]:8080"}, "127.0.0.1", 200),
        ({"Origin": "http://localhost"}, "127.0.0.1", 200),
        ({"Sec-Fetch-Site": "same-origin"}, "127.0.0.1", 200),
        ({"Sec-Fetch-Site": "none"}, "127.0.0.1", 200),
        ({}, "192.0.2.1", 403),
        ({"Host": "rebound.example"}, "127.0.0.1", 403),
        ({"Host": "127.0.0.1.example"}, "127.0.0.1", 403),
        ({"Origin": "http://evil.example"}, "127.0.0.1", 403),
        ({"Origin": "null"}, "127.0.0.1", 403),
        ({"Origin": "http://["}, "127.0.0.1", 403),
        ({"Host": "["}, "127.0.0.1", 403),
        ({"Origin": "http://localhost:9"}, "127.0.0.1", 403),
        ({"Sec-Fetch-Site": "cross-site"}, "127.0.0.1", 403),
        ({"Sec-Fetch-Site": "same-site"}, "127.0.0.1", 403),
        ({"Authorization": f"Bearer {TOKEN}"}, "192.0.2.1", 403),
    ],
)
def test_without_tokens_only_this_machine_changes_state(guarded, headers, peer, status):
    client = guarded()
    environ = {"REMOTE_ADDR": peer}
    answer = client.post("/change", headers={"Host": "localhost", **headers}, environ_base=environ)
    assert answer.status_code == status
    assert client.post("/ask", headers=headers, environ_base=environ).status_code == 200


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(token):
    return {"Authorization": "Basic " + base64.b64encode(f"anyone:{token}".encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(TOKEN), 200),
        (basic(TOKEN), 200),
        ({}, 401),
        (bearer("wrong"), 401),
        (bearer(""), 401),
        (bearer("\xff\xfe"), 401),
        (bearer(DIGEST), 401),
        (basic("wrong"), 401),
        ({"Authorization": "Basic !"}, 401),
        ({"Authorization": "Digest x"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({**basic(TOKEN), "Origin": "http://evil.example"}, 403),
    ],
    ids=str,
)
def test_with_tokens_one_of_them_changes_state(guarded, headers, status):
    client = guarded(ADMIN_TOKEN_SHA256=("0" * 64, DIGEST))
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}  # As WSGI has them.
    answer = client.post("/change", headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert TOKEN not in answer.text and DIGEST not in answer.text


def test_errors_stay_small(make_app):
    app = make_app()
    problems = [Problem(row, "\x01" * 100, "\x01" * 1_000) for row in range(20)]

    @app.get("/fail")
    def fail():
        raise InvalidInput(problems)

    answer = app.test_client().get("/fail")
    assert answer.status_code == 422 and len(answer.data) <= MAX_PROBLEM_BYTES
    assert 0 < len(answer.json["errors"]) < 20


def test_a_bug_is_a_500_without_its_text(make_app, caplog):
    app = make_app()

    @app.get("/fail")
    def fail():
        raise RuntimeError("secret path /etc")

    answer = app.test_client().get("/fail")
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert "secret" not in answer.text and "secret" in caplog.text


def test_no_request_sets_a_cookie_and_all_say_nosniff(client):
    for path in ("/", "/livez", "/nowhere", "/static/style.css"):
        with client.get(path) as answer:
            headers = answer.headers
        assert "Set-Cookie" not in headers and headers["X-Content-Type-Options"] == "nosniff"


def test_pages_load_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.text.replace(json.dumps("http"), "") and "<script" not in answer.text


def test_what_an_app_changes_in_an_answer_is_sent(make_app):
    app = make_app()

    @app.after_request
    def add(response):
        response.headers["X-Own"] = "yes"
        response.set_cookie("own", "1")
        return response

    answer = app.test_client().post("/predict", json={"feature": 0.5})
    assert answer.status_code == 200 and answer.headers["X-Own"] == "yes" and "own=1" in answer.headers["Set-Cookie"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.json["model"] == "default"


def test_an_app_may_have_a_class_of_answers_of_its_own(make_app):
    class Own(Response):
        default_mimetype = "text/plain"

    app = make_app()
    app.response_class = Own
    assert app.test_client().post("/predict", json={"feature": 0.5}).json["model"] == "default"


@pytest.mark.parametrize(
    ("environ", "length"),
    [
        ({}, None),
        ({"CONTENT_LENGTH": ""}, None),
        ({"CONTENT_LENGTH": "12"}, 12),
        ({"CONTENT_LENGTH": "1e3"}, 0),
        ({"CONTENT_LENGTH": "9" * 5_000}, 0),
        ({"CONTENT_LENGTH": "12", "HTTP_TRANSFER_ENCODING": "chunked"}, None),
    ],
)
def test_a_length_is_what_werkzeug_says(environ, length):
    assert LeanRequest(environ).content_length == Request(environ).content_length
    assert length is None or LeanRequest(environ).content_length == length
