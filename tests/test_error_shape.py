"""Every error of every class, route and method is a problem document (RFC 9457)."""

import json
import re

import pytest

from flaskml import errors
from flaskml.errors import FlaskmlError, Problem
from flaskml.web.replies import MAX_PROBLEM_BYTES
from tests.support.problems import problem_of
from tests.support.routes import ACCESS, DIGEST, GUARDED, ROUTES, concrete

pytestmark = pytest.mark.contract("flask serve")


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def problem_in(answer):
    """Return the problem document in an answer of the test client, after a check of its shape."""
    return problem_of(answer.status_code, answer.headers, answer.data)


GOOD = {"title": "A", "status": 422, "detail": "B.", "errors": [{"row": 0, "feature": "a", "detail": "b"}]}


@pytest.mark.parametrize(
    ("change", "status", "content_type"),
    [
        ({}, 400, "application/problem+json"),
        ({}, 422, "application/json"),
        ({"title": ""}, 422, "application/problem+json"),
        ({"detail": "B"}, 422, "application/problem+json"),
        ({"more": 1}, 422, "application/problem+json"),
        ({"errors": []}, 422, "application/problem+json"),
        ({"errors": GOOD["errors"] * 21}, 422, "application/problem+json"),
        ({"errors": [{"row": 0, "feature": "a"}]}, 422, "application/problem+json"),
        ({"errors": [{"row": "0", "feature": "a", "detail": "b"}]}, 422, "application/problem+json"),
        ({"errors": [{"row": float("nan"), "feature": "a", "detail": "b"}]}, 422, "application/problem+json"),
        ({"detail": "B" * MAX_PROBLEM_BYTES + "."}, 422, "application/problem+json"),
    ],
)
def test_the_check_finds_planted_faults(change, status, content_type):
    def answer(document):
        content = json.dumps(document).encode()
        return {"Content-Type": content_type, "Content-Length": str(len(content))}, content

    assert problem_of(422, {**answer(GOOD)[0], "Content-Type": "application/problem+json"}, answer(GOOD)[1]) == GOOD
    with pytest.raises((AssertionError, ValueError)):
        problem_of(status, *answer(GOOD | change))


ERRORS = {
    FlaskmlError: lambda: FlaskmlError("An error without a class."),
    errors.InvalidSetting: lambda: errors.InvalidSetting("MAX_ROWS", "Input should be greater than 0."),
    errors.NotParseable: lambda: errors.NotParseable("byte 5 is not UTF-8"),
    errors.InvalidInput: lambda: errors.InvalidInput([Problem(row, "a\ud800", "\x01" * 500) for row in range(30)]),
    errors.TooManyRows: lambda: errors.TooManyRows(10_000),
    errors.TooLarge: lambda: errors.TooLarge(2_097_152, "MAX_BODY"),
    errors.UnsupportedMediaType: lambda: errors.UnsupportedMediaType("x/" + "\x01" * 50_000, "application/json"),
    errors.ModelNotFound: lambda: errors.ModelNotFound("homs", ["homes"]),
    errors.VersionNotFound: lambda: errors.VersionNotFound("homes", "7"),
    errors.InvalidName: lambda: errors.InvalidName("Häuser" * 1_000),
    errors.InvalidAlias: lambda: errors.InvalidAlias("7" * 1_000),
    errors.VersionNotServed: lambda: errors.VersionNotServed("homes", "7" * 1_000),
    errors.VersionInUse: lambda: errors.VersionInUse("homes", "1"),
    errors.NothingToRollBackTo: lambda: errors.NothingToRollBackTo("homes"),
    errors.VersionRejected: lambda: errors.VersionRejected("homes", "2", "row 3 was answered otherwise. " * 2_000),
    errors.NotPublishable: lambda: errors.NotPublishable("The sample has no row."),
    errors.InvalidSchema: lambda: errors.InvalidSchema('There is no feature "a".'),
    errors.MethodNotOffered: lambda: errors.MethodNotOffered("\x01" * 50_000, ["predict", "predict_proba"]),
    errors.NoActiveVersion: lambda: errors.NoActiveVersion("homes", [f"model{n}" for n in range(2_000)]),
    errors.DamagedFile: lambda: errors.DamagedFile("models/homes/1/model.joblib", "it is missing", "homes"),
    errors.ModelUnavailable: lambda: errors.ModelUnavailable(errors.NoActiveVersion("homes", ()), "homes", ["other"]),
    errors.RowsRefused: lambda: errors.RowsRefused(),
    errors.AddressUnavailable: lambda: errors.AddressUnavailable("127.0.0.1:80", "another process listens there"),
    errors.UnsupportedWaitress: lambda: errors.UnsupportedWaitress("4.0", ["HTTPChannel.service"]),
    errors.RegistryBusy: lambda: errors.RegistryBusy(),
    errors.Draining: lambda: errors.Draining(),
    errors.StorageFailed: lambda: errors.StorageFailed("No space left on device"),
    errors.InvalidTraining: lambda: errors.InvalidTraining("The table has no rows."),
    errors.JobNotFound: lambda: errors.JobNotFound("x" * 50_000),
    errors.QueueFull: lambda: errors.QueueFull(8),
    errors.TokenRequired: lambda: errors.TokenRequired(),
    errors.AccessDenied: lambda: errors.AccessDenied("refuses requests from another site"),
    errors.MissingExtra: lambda: errors.MissingExtra("skops", "The format"),
}
"""An error of every class, with facts as large as they can be."""


def every_class(kind=FlaskmlError):
    """Return the class and its subclasses, as far as flaskml defines them."""
    subclasses = [subclass for child in kind.__subclasses__() for subclass in every_class(child)]
    return [kind, *subclasses] if kind.__module__.startswith("flaskml") else subclasses


def test_every_error_class_is_in_the_table():
    assert set(every_class()) == set(ERRORS)


@pytest.mark.parametrize("detail", ["full", "terse"])
def test_every_error_class_gives_a_problem(make_app, detail):
    app = make_app(ERROR_DETAIL=detail)
    raised = {}

    @app.get("/fail/<name>")
    def fail(name):
        raise raised[name]

    client = app.test_client()
    for kind, make in ERRORS.items():
        error = raised[kind.__name__] = make()
        answer = client.get(f"/fail/{kind.__name__}")
        problem = problem_in(answer)
        assert (problem["status"], problem["title"]) == (error.status, error.title)
        assert ("errors" in problem) == bool(error.problems)
        assert answer.headers.get("Retry-After") == (error.retry_after and str(error.retry_after))
        assert ("WWW-Authenticate" in answer.headers) == (error.status == 401)


ROUTE_ERRORS = {
    ("/jobs/<job_id>", "GET"): {404},
    ("/models/<model_name:name>", "GET"): {404},
    ("/models/<model_name:name>/active", "POST"): {404, 413},
    ("/models/<model_name:name>/active", "PUT"): {400, 404, 413, 422},
    ("/models/<model_name:name>/predict", "POST"): {400, 404, 413, 415, 422},
    ("/models/<model_name:name>/rollback", "POST"): {404, 409, 413},
    ("/models/<model_name:name>/versions/<version:version>", "DELETE"): {404, 409, 413},
    ("/models/<model_name:name>/versions/<version:version>", "GET"): {404},
    ("/models/<model_name:name>/versions/<version:version>/predict", "POST"): {400, 404, 413, 415, 422},
    ("/predict", "POST"): {400, 413, 415, 422, 503},
    ("/readyz", "GET"): {503},
    ("/static/<path:filename>", "GET"): {404},
    ("/train", "POST"): {400, 413, 415, 422},
}
"""The statuses that the requests of this test provoke, beside those that every route gives."""

BODIES = (
    # Body and Content-Type. Every route that reads a body refuses each of these, so nothing is changed or trained.
    (b"\xff", "application/json"),
    (b'{"more": 1}', "application/json"),
    (b'{"version": "7"}', "application/json"),
    (b"<x/>", "application/xml"),
    (b" " * 1_001, "application/json"),
    (b'--f\r\nContent-Disposition: form-data; name="more"\r\n\r\n1\r\n--f--\r\n', "multipart/form-data; boundary=f"),
)


@pytest.mark.parametrize(("rule", "method"), sorted(ROUTES))
def test_the_errors_of_every_route_are_problems(make_app, rule, method):
    clients = [make_app(MAX_BODY=1_000).test_client(), make_app(MODEL_NAME="lost", MAX_BODY=1_000).test_client()]
    served_rule = re.sub(r"<model_name:name>", "homes", rule).replace("<version:version>", "1")
    statuses = set()
    for path in {concrete(rule), concrete(served_rule)}:
        for client in clients:
            for body, content_type in BODIES:
                with client.open(path, method=method, data=body, content_type=content_type) as answer:
                    assert answer.status_code == 200 or answer.status_code >= 400
                    if answer.status_code >= 400 and (rule, answer.status_code) != ("/", 503):  # An HTML page.
                        statuses.add(problem_in(answer)["status"])
    assert statuses == ROUTE_ERRORS.get((rule, method), set())


@pytest.mark.parametrize(("rule", "method"), sorted(ROUTES))
def test_the_errors_common_to_all_routes_are_problems(make_app, rule, method):
    path = concrete(rule)
    client = make_app().test_client()
    allowed = {method for other_rule, method in ROUTES if other_rule == rule}
    for other_method in sorted({*METHODS, "BREW"} - allowed):
        answer = client.open(path, method=other_method)
        assert problem_in(answer)["status"] == 405 and allowed <= set(answer.headers["Allow"].split(", "))
    for child in ("nowhere", "..", "%00", "%ff", "nowhere/"):
        status = problem_in(client.open(f"{path.rstrip('/')}/{child}", method=method))["status"]
        assert status == 404 or (child == "%00" and status == 400)  # `flask serve` answers 400 to a NUL.
    untrusted_client = make_app(TRUSTED_HOSTS=("example.org",)).test_client()
    assert problem_in(untrusted_client.open(path, method=method))["status"] == 400
    if ACCESS[rule, method] == GUARDED:
        assert problem_in(client.open(path, method=method, headers={"Origin": "null"}))["status"] == 403
        client_without_token = make_app(ADMIN_TOKEN_SHA256=(DIGEST,)).test_client()
        answer = client_without_token.open(path, method=method)
        assert problem_in(answer)["status"] == 401 and answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("method", METHODS)
def test_every_path_with_every_method_answers_a_problem(client, method):
    for path in [*sorted({concrete(rule) for rule, _ in ROUTES}), "/nowhere", "/predict/", "/models/.."]:
        answer = client.open(path, method=method, data=b"\xff", content_type="application/json")
        assert answer.status_code < 500
        assert answer.status_code < 400 or problem_in(answer)
        if answer.status_code == 405:
            assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/predict", "/readyz", "/"])
def test_without_a_model_the_answer_is_503(make_app, path):
    client = make_app(MODEL_NAME="absent").test_client()
    answer = client.post(path, json={}) if path == "/predict" else client.get(path)
    assert answer.status_code == 503
    assert path == "/" or (problem_in(answer) and int(answer.headers["Retry-After"]) > 0)
