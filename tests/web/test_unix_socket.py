"""A server on a Unix socket: its peers are processes of this machine, so they may change state without a token."""

import json
import socket
from http.client import HTTPConnection

import pytest

from flaskml.server.addresses import open_unix_socket
from tests.support.in_process_servers import event_loop_server, waitress_server

SERVERS = {
    "waitress-serve": lambda app, path: waitress_server(app, unix_socket=path),
    "flask serve": lambda app, path: event_loop_server(app, listening_socket=open_unix_socket(path)),
}


class UnixConnection(HTTPConnection):
    """A connection to a Unix socket, whose path is the host."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.host)


@pytest.fixture(params=SERVERS)
def activate(request, make_app, tmp_path):
    """Return a function that activates a version over a Unix socket with the given headers, and returns the status."""
    with SERVERS[request.param](make_app(), str(tmp_path / "socket")) as path:
        connection = UnixConnection(path)

        def send(**headers):
            body = json.dumps({"version": "1"})
            connection.request("PUT", "/models/default/active", body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            response.read()
            return response.status

        yield send
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:8080"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "X-Real-IP": "192.0.2.1"}, 403),
    ],
)
def test_a_peer_on_a_unix_socket_is_this_machine(activate, headers, status):
    assert activate(**headers) == status


@pytest.mark.parametrize("activate", ["flask serve"], indirect=True)
@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
def test_a_forwarded_request_on_a_unix_socket_needs_a_token(activate, name):
    """Plain waitress removes these headers."""
    assert activate(Host="localhost", **{name: "for=192.0.2.1"}) == 403
