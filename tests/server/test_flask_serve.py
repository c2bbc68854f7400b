"""The server of `flask serve`, as a process."""

import json
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest

from flaskml.publishing.trial import TrialLimits, ensure_accepted
from tests.support.stores import constant, put


@pytest.fixture(scope="module")
def served(trained):
    """An instance folder with models that need scikit-learn, whose import would delay an activation."""
    return trained


@pytest.fixture
def server(serve):
    return serve("flask serve")


def test_activations_under_load_fail_no_request(server, store, trials):
    put(store, constant(7))
    ensure_accepted(store, "default", "2", TrialLimits())
    stopped, responses = threading.Event(), []

    def send_requests():
        while not stopped.is_set():
            responses.append(server.json("POST", "/predict", {"feature": 1}))

    threads = [threading.Thread(target=send_requests) for _ in range(4)]
    for thread in threads:
        thread.start()
    row = {"x": 1}
    for version in ("2", "1", "2", "1"):
        status, activated = server.json("PUT", "/models/default/active", {"version": version})
        assert status == 200 and activated["serving"] == version
        answer = server.json("POST", "/predict", row if version == "2" else {"feature": 1})[1]
        assert answer["version"] == version
    stopped.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in responses} <= {200, 422}  # Version 2 has another feature.
    assert {answer["version"] for status, answer in responses if status == 200} == {"1"}


def test_headers_of_a_request_with_expect_and_no_body_stay_its_own(server):
    first = b"GET /nowhere HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nCookie: a=b\r\nExpect: 100-continue\r\n%b\r\n"
    second = b"GET /absent HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    for length in (b"", b"Content-Length: 0\r\n"):
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as client:
            client.sendall(first % length + second)
            received = client.makefile("rb").read()
        assert received.count(b"HTTP/1.1 ") == received.count(b"HTTP/1.1 404 NOT FOUND\r\n") == 2
        assert received.count(b"text/html") == received.count(b"application/problem+json") == 1


def test_sigterm_starts_a_graceful_shutdown(server):
    assert server.json("GET", "/readyz")[0] == 200
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().read()
        server.process.terminate()
        time.sleep(0.3)
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert "shutting down" in json.loads(response.read())["detail"]
    assert server.process.wait(10) == 0
