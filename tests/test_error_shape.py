"""One shape of errors over every class of error, every route and every method: RFC 9457."""

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


def told(answer):
    """The problem that an answer of the test client tells."""
    return problem_of(answer.status_code, answer.headers, answer.data)


GOOD = {"title": "A", "status": 422, "detail": "B.", "errors": [{"row": 0, "feature": "a", "detail": "b"}]}


@pytest.mark.parametrize(
    ("change", "status", "kind"),
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
def test_another_shape_is_noticed(change, status, kind):
    def answer(document):
        content = json.dumps(document).encode()
        return {"Content-Type": kind, "Content-Length": str(len(content))}, content

    assert problem_of(422, {**answer(GOOD)[0], "Content-Type": "application/problem+json"}, answer(GOOD)[1]) == GOOD
    with pytest.raises((AssertionError, ValueError)):
        problem_of(status, *answer(GOOD | change))


ERRORS = {
    FlaskmlError: lambda: FlaskmlError("It is not so."),
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
    errors.EngineUnavailable: lambda: errors.EngineUnavailable("4.0", ["HTTPChannel.service"]),
    errors.Busy: lambda: errors.Busy(),
    errors.Draining: lambda: errors.Draining(),
    errors.StorageFailed: lambda: errors.StorageFailed("No space left on device"),
    errors.InvalidTraining: lambda: errors.InvalidTraining("The table has no rows."),
    errors.JobNotFound: lambda: errors.JobNotFound("x" * 50_000),
    errors.QueueFull: lambda: errors.QueueFull(8),
    errors.TokenRequired: lambda: errors.TokenRequired(),
    errors.AccessDenied: lambda: errors.AccessDenied("takes no request from another site"),
    errors.MissingExtra: lambda: errors.MissingExtra("skops", "The format"),
}
"""An error of every class, with facts that are as large as they can come."""


def every_class(kind=FlaskmlError):
    """The class and all below it that flaskml itself defines."""
    below = [found for child in kind.__subclasses__() for found in every_class(child)]
    return [kind, *below] if kind.__module__.startswith("flaskml") else below


def test_every_class_of_error_is_in_the_table():
    assert set(every_class()) == set(ERRORS)


@pytest.mark.parametrize("detail", ["full", "terse"])
def test_every_class_of_error_has_the_shape(make_app, detail):
    app = make_app(ERROR_DETAIL=detail)
    raised = {}

    @app.get("/fail/<name>")
    def fail(name):
        raise raised[name]

    client = app.test_client()
    for kind, make in ERRORS.items():
        error = raised[kind.__name__] = make()
        answer = client.get(f"/fail/{kind.__name__}")
        problem = told(answer)
        assert (problem["status"], problem["title"]) == (error.status, error.title)
        assert ("errors" in problem) == bool(error.problems)
        assert answer.headers.get("Retry-After") == (error.retry_after and str(error.retry_after))
        assert ("WWW-Authenticate" in answer.headers) == (error.status == 401)


OWN_ERRORS = {
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
"""The errors that a route is made to give here, beside those that every route gives."""


BODIES = (
    # The body and its type; every route that reads one refuses each of these, so that nothing is changed or trained.
    (b"\xff", "application/json"),
    (b'{"more": 1}', "application/json"),
    (b'{"version": "7"}', "application/json"),
    (b"<x/>", "application/xml"),
    (b" " * 1_001, "application/json"),
    (b'--f\r\nContent-Disposition: form-data; name="more"\r\n\r\n1\r\n--f--\r\n', "multipart/form-data; boundary=f"),
)


@pytest.mark.parametrize(("rule", "method"), sorted(ROUTES))
def test_every_route_tells_its_errors_in_the_shape(make_app, rule, method):
    clients = [make_app(MAX_BODY=1_000).test_client(), make_app(MODEL_NAME="lost", MAX_BODY=1_000).test_client()]
    served = re.sub(r"<model_name:name>", "homes", rule).replace("<version:version>", "1")
    given = set()
    for path in {concrete(rule), concrete(served)}:
        for client in clients:
            for body, content_type in BODIES:
                with client.open(path, method=method, data=body, content_type=content_type) as answer:
                    assert answer.status_code == 200 or answer.status_code >= 400
                    if answer.status_code >= 400 and (rule, answer.status_code) != ("/", 503):  # It is a page.
                        given.add(told(answer)["status"])
    assert given == OWN_ERRORS.get((rule, method), set())


@pytest.mark.parametrize(("rule", "method"), sorted(ROUTES))
def test_every_route_tells_what_every_route_refuses_in_the_shape(make_app, rule, method):
    path = concrete(rule)
    client = make_app().test_client()
    taken = {taken for other, taken in ROUTES if other == rule}
    for other in sorted({*METHODS, "BREW"} - taken):
        answer = client.open(path, method=other)
        assert told(answer)["status"] == 405 and taken <= set(answer.headers["Allow"].split(", "))
    for below in ("nowhere", "..", "%00", "%ff", "nowhere/"):
        status = told(client.open(f"{path.rstrip('/')}/{below}", method=method))["status"]
        assert status == 404 or (below == "%00" and status == 400)  # The engine lets no NUL through.
    stranger = make_app(TRUSTED_HOSTS=("example.org",)).test_client()
    assert told(stranger.open(path, method=method))["status"] == 400
    if ACCESS[rule, method] == GUARDED:
        assert told(client.open(path, method=method, headers={"Origin": "null"}))["status"] == 403
        locked = make_app(ADMIN_TOKEN_SHA256=(DIGEST,)).test_client()
        answer = locked.open(path, method=method)
        assert told(answer)["status"] == 401 and answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "path", [*sorted({concrete(rule) for rule, _ in ROUTES}), "/nowhere", "/predict/", "/models/.."]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_error_has_the_shape(client, path, method):
    answer = client.open(path, method=method, data=b"\xff", content_type="application/json")
    assert answer.status_code < 500
    assert answer.status_code < 400 or told(answer)
    if answer.status_code == 405:
        assert answer.headers["Allow"]


@pytest.mark.parametrize("path", ["/predict", "/readyz", "/"])
def test_without_a_model(make_app, path):
    client = make_app(MODEL_NAME="absent").test_client()
    answer = client.post(path, json={}) if path == "/predict" else client.get(path)
    assert answer.status_code == 503
    assert path == "/" or (told(answer) and int(answer.headers["Retry-After"]) > 0)
