"""The URL map equals the table of routes, and every route refuses or accepts every credential as the table says."""

import base64

import pytest

from tests.support.routes import ACCESS, DIGEST, GUARDED, ROUTES, TOKEN, concrete

pytestmark = pytest.mark.contract


def basic(password):
    """Return the Authorization header that a browser sends for a password."""
    return "Basic " + base64.b64encode(f"user:{password}".encode()).decode()


CREDENTIALS = {
    # name: (has configured tokens, peer, headers, status of a guarded route; None is any status but 401 and 403)
    "this machine": (False, "127.0.0.1", {}, None),
    "another machine": (False, "192.0.2.1", {}, 403),
    "a page of another origin": (False, "127.0.0.1", {"Origin": "http://evil.example"}, 403),
    "DNS rebinding": (False, "127.0.0.1", {"Host": "evil.example"}, 403),
    "a link from another site": (False, "127.0.0.1", {"Sec-Fetch-Site": "cross-site"}, 403),
    "its own page": (False, "127.0.0.1", {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, None),
    "a proxy on this machine": (False, "127.0.0.1", {"X-Forwarded-For": "192.0.2.1"}, 403),
    "no token": (True, "127.0.0.1", {}, 401),
    "a wrong token": (True, "127.0.0.1", {"Authorization": "Bearer wrong"}, 401),
    "a token": (True, "192.0.2.1", {"Authorization": f"Bearer {TOKEN}"}, None),
    "a token as password": (True, "192.0.2.1", {"Authorization": basic(TOKEN)}, None),
    "a wrong password": (True, "127.0.0.1", {"Authorization": basic("wrong")}, 401),
    "a token from a page of another origin": (
        True,
        "127.0.0.1",
        {"Authorization": f"Bearer {TOKEN}", "Origin": "null"},
        403,
    ),
}


def live_routes(app):
    rules = app.url_map.iter_rules()
    return {(rule.rule, method) for rule in rules for method in rule.methods - {"HEAD", "OPTIONS"}}


def test_the_url_map_is_as_listed(app):
    assert live_routes(app) == ROUTES == set(ACCESS)


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_guarded_routes_need_a_credential(make_app, server_name, credential):
    has_tokens, peer, headers, refusal = CREDENTIALS[credential]
    if server_name == "waitress-serve" and "X-Forwarded-For" in headers:
        refusal = None  # Waitress removes the header.
    app = make_app(ADMIN_TOKEN_SHA256=(DIGEST,)) if has_tokens else make_app()
    client = app.test_client()
    for rule, method in sorted(live_routes(app)):
        options = {"headers": {"Host": "localhost", **headers}, "environ_base": {"REMOTE_ADDR": peer}}
        with client.open(concrete(rule), method=method, data=b"?", content_type="text/csv", **options) as answer:
            refused = answer.status_code if answer.status_code in (401, 403) else None
        assert refused == (refusal if ACCESS[rule, method] == GUARDED else None), (rule, method)


def test_every_view_is_documented(app):
    for endpoint, view in app.view_functions.items():
        assert view.__doc__ or endpoint == "static"
