"""Replies: error bodies stay small, and an app may replace the response class."""

import pytest
from flask import Response

from flaskml.errors import InvalidInput, Problem
from flaskml.web.replies import MAX_PROBLEM_BYTES

pytestmark = pytest.mark.contract


def test_problem_bodies_stay_small(make_app):
    app = make_app()
    problems = [Problem(row, "\x01" * 100, "\x01" * 1_000) for row in range(20)]

    @app.get("/fail")
    def fail():
        raise InvalidInput(problems)

    answer = app.test_client().get("/fail")
    assert answer.status_code == 422 and len(answer.data) <= MAX_PROBLEM_BYTES
    assert 0 < len(answer.json["errors"]) < 20


def test_an_app_may_set_its_own_response_class(make_app):
    class PlainText(Response):
        default_mimetype = "text/plain"

    app = make_app()
    app.response_class = PlainText
    assert app.test_client().post("/predict", json={"feature": 0.5}).json["model"] == "default"
