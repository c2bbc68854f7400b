"""The fast request and response classes behave as those of Flask."""

import pytest
from flask import Request

from flaskml.web.lean import LeanRequest

pytestmark = pytest.mark.contract


def test_changes_by_after_request_hooks_are_sent(make_app):
    app = make_app()

    @app.after_request
    def add(response):
        response.headers["X-Custom"] = "yes"
        response.set_cookie("own", "1")
        return response

    answer = app.test_client().post("/predict", json={"feature": 0.5})
    assert answer.status_code == 200 and answer.headers["X-Custom"] == "yes" and "own=1" in answer.headers["Set-Cookie"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.json["model"] == "default"


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
def test_content_length_equals_werkzeugs(environ, length):
    assert LeanRequest(environ).content_length == Request(environ).content_length
    assert length is None or LeanRequest(environ).content_length == length
