"""One shape of errors over every route and method: RFC 9457."""

import pytest

from tests.test_routes import ROUTES, concrete

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def is_problem(answer):
    problem = answer.get_json()
    assert answer.mimetype == "application/problem+json"
    assert problem["status"] == answer.status_code and problem["title"] and problem["detail"].endswith((".", "?"))
    for entry in problem.get("errors", []):
        assert set(entry) == {"row", "feature", "detail"}
    return True


@pytest.mark.parametrize(
    "path", [*sorted({concrete(rule) for rule, _ in ROUTES}), "/nowhere", "/predict/", "/models/.."]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_error_has_the_shape(client, path, method):
    answer = client.open(path, method=method, data=b"\xff", content_type="application/json")
    assert answer.status_code < 500
    assert answer.status_code < 400 or is_problem(answer)
    if answer.status_code == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/predict", "/readyz", "/"])
def test_without_a_model(make_app, path):
    client = make_app(MODEL_NAME="absent").test_client()
    answer = client.post(path, json={}) if path == "/predict" else client.get(path)
    assert answer.status_code == 503
    assert path == "/" or (is_problem(answer) and int(answer.headers["Retry-After"]) > 0)
