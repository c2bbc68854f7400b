"""The whole URL map. A route that is not in this table fails the build, and so does a row without a route."""

ROUTES = {
    ("/", "GET"),
    ("/jobs", "GET"),
    ("/jobs/<job_id>", "GET"),
    ("/livez", "GET"),
    ("/models", "GET"),
    ("/models/<model_name:name>", "GET"),
    ("/predict", "POST"),
    ("/readyz", "GET"),
    ("/static/<path:filename>", "GET"),
    ("/train", "POST"),
}

OPEN_TO_ALL = {"/predict"}
"""Routes that take an unsafe method from anybody, because they change nothing."""


def test_the_url_map(app):
    rules = app.url_map.iter_rules()
    assert {(rule.rule, method) for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}} == ROUTES


def test_state_changing_routes_are_guarded(client):
    for path in {rule for rule, method in ROUTES if method != "GET"}:
        answer = client.post(path, json={}, environ_base={"REMOTE_ADDR": "192.0.2.1"})
        assert (answer.status_code == 403) == (path not in OPEN_TO_ALL)


def test_every_view_is_documented(app):
    for endpoint, view in app.view_functions.items():
        assert view.__doc__ or endpoint == "static"
