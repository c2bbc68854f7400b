"""The hooks of every app: errors of Flask as problem details, and security headers."""

import json

import pytest

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


def test_pages_load_nothing_from_other_servers(client):
    answer = client.get("/")
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.text.replace(json.dumps("http"), "") and "<script" not in answer.text
