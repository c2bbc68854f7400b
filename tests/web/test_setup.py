"""The hooks of every app: errors of Flask as problem details, and security headers."""

import json

import pytest
from flask import Blueprint, Response, abort

pytestmark = pytest.mark.contract


def test_an_unexpected_error_is_a_500_without_its_text(make_app, caplog):
    app = make_app()

    @app.get("/fail")
    def fail():
        raise RuntimeError("secret path /etc")

    answer = app.test_client().get("/fail")
    assert (answer.status_code, answer.mimetype) == (500, "application/problem+json")
    assert "secret" not in answer.text and "secret" in caplog.text


def test_no_answer_sets_a_cookie_and_all_have_nosniff(client):
    for path in ("/", "/livez", "/nowhere", "/static/style.css"):
        with client.get(path) as answer:
            headers = answer.headers
        assert "Set-Cookie" not in headers and headers["X-Content-Type-Options"] == "nosniff"


BROWSER = {"Accept": "text/html"}


def test_pages_of_flaskml_have_a_content_security_policy(client):
    paths = ("/", "/?model=homes", "/models", "/models/homes", "/models/homes/versions/1", "/train", "/jobs", "/docs")
    answers = [client.get(path, headers=BROWSER) for path in (*paths, "/nowhere", "/models/nowhere", "/predict")]
    answers += [client.post("/predict", data={"feature": value}, headers=BROWSER) for value in ("1", "x")]
    assert [answer.status_code for answer in answers] == [200] * len(paths) + [404, 404, 405, 200, 422]
    for answer in answers:
        assert answer.mimetype == "text/html" and answer.headers["Referrer-Policy"] == "same-origin"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert len(answer.headers.getlist("Vary")) <= 1


def test_pages_of_other_blueprints_have_the_headers_of_their_views(make_app):
    bp = Blueprint("own", __name__)
    page = "<script>start()</script>"
    bp.get("/plain")(lambda: page)
    bp.get("/strict", endpoint="strict")(lambda: (page, {"Content-Security-Policy": "default-src 'self'"}))
    bp.get("/absent", endpoint="absent")(lambda: abort(404, response=Response(page, 404)))
    app = make_app()
    app.register_blueprint(bp)
    client = app.test_client()
    for path, status, policy in (("/plain", 200, None), ("/strict", 200, "default-src 'self'"), ("/absent", 404, None)):
        answer = client.get(path, headers=BROWSER)
        assert (answer.status_code, answer.text, answer.mimetype) == (status, page, "text/html")
        assert answer.headers.get("Content-Security-Policy") == policy and "Referrer-Policy" not in answer.headers


def test_pages_load_nothing_from_other_servers(client):
    answer = client.get("/")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.text.replace(json.dumps("http"), "") and "<script" not in answer.text
