"""Access control of state-changing requests, with and without configured tokens."""

import base64
import hashlib

import pytest
from flask import Blueprint

from flaskml.web.access import changes_no_state

pytestmark = pytest.mark.contract

TOKEN = "an example of a token ü"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()


@pytest.fixture
def guarded(make_app):
    """Return a function that makes a client of an app with one guarded and one open route."""

    def build(**config):
        bp = Blueprint("sample", __name__)
        bp.post("/change", endpoint="change")(lambda: {"changed": True})
        bp.post("/read", endpoint="read")(changes_no_state(lambda: {"changed": False}))
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
        ({"Host": "LocalHost"}, "127.0.0.1", 200),
        ({}, "::ffff:127.0.0.1", 200),
        ({"Host": "[::ffff:127.0.0.1]:8080"}, "::1", 200),
        ({}, "localhost", 200),
        ({"Host": "rebound.example"}, "localhost", 403),
        ({"Via": "1.1 proxy"}, "127.0.0.1", 403),
        ({}, "", 403),
        ({}, "::ffff:192.0.2.1", 403),
        ({"Host": "[::ffff:192.0.2.1]"}, "::1", 403),
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
def test_without_configured_tokens_only_loopback_changes_state(guarded, headers, peer, status):
    client = guarded()
    environ = {"REMOTE_ADDR": peer}
    answer = client.post("/change", headers={"Host": "localhost", **headers}, environ_base=environ)
    assert answer.status_code == status
    assert client.post("/read", headers=headers, environ_base=environ).status_code == 200


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
def test_with_configured_tokens_only_a_token_changes_state(guarded, headers, status):
    client = guarded(ADMIN_TOKEN_SHA256=("0" * 64, DIGEST))
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}  # As WSGI passes them.
    answer = client.post("/change", headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"})
    assert answer.status_code == status
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert TOKEN not in answer.text and DIGEST not in answer.text
