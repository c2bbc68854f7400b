"""Load shedding: requests above the queue limit, and requests whose client timeout has passed, get 503."""

import json
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest
from flask import Flask

from flaskml.server.error_responses import client_timeout_seconds
from flaskml.server.policy import ServerPolicy
from tests.support.in_process_servers import event_loop_server


@pytest.fixture
def app():
    """Yield an app; `app.begun` counts its started requests, and `app.gate` lets `/gated` return."""
    app = Flask(__name__)
    app.begun = []
    app.gate = threading.Event()

    @app.get("/gated")
    def gated():
        app.begun.append(1)
        assert app.gate.wait(20)
        return "through"

    @app.get("/busy")
    def busy():
        app.begun.append(1)
        time.sleep(0.1)
        return "done"

    @app.get("/livez")
    def livez():
        return "live"

    yield app
    app.gate.set()


def get(port, path, **headers):
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers


def start_requests(port, path, count, **headers):
    """Send requests in threads; return a list that receives the responses, and the threads."""
    responses = []
    threads = [threading.Thread(target=lambda: responses.append(get(port, path, **headers))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return responses, threads


def test_requests_above_the_queue_limit_are_refused_but_health_checks_are_not(app):
    with event_loop_server(app, policy=ServerPolicy(queue_limit=3, priority_paths=frozenset({"/livez"}))) as port:
        responses, threads = start_requests(port, "/gated", 3)
        while len(app.begun) < 3:
            time.sleep(0.01)
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            for _ in range(3):  # The connection stays open.
                connection.request("GET", "/gated")
                response = connection.getresponse()
                problem = json.loads(response.read())
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert response.headers["Content-Type"] == "application/problem+json"
                assert problem["title"] == "Overloaded" and problem["status"] == 503
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b"live"
        assert len(app.begun) == 3
        app.gate.set()
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in responses] == [200] * 3
        assert get(port, "/gated")[0] == 200


def test_clients_that_retry_at_once_do_not_displace_served_requests(app):
    """Refused clients retry without a pause; the server still fills its queue with other requests."""
    app.gate.set()
    statuses, stopped = [], threading.Event()

    def send_requests(port):
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            while not stopped.is_set():
                connection.request("GET", "/gated")
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)

    with event_loop_server(app, policy=ServerPolicy(queue_limit=4)) as port:
        threads = [threading.Thread(target=send_requests, args=(port,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) > statuses.count(503) / 20


def test_a_refusal_of_a_head_request_has_no_body(app):
    with (
        event_loop_server(app, policy=ServerPolicy(queue_limit=0)) as port,
        closing(socket.create_connection(("127.0.0.1", port))) as c,
    ):
        c.sendall(b"HEAD /gated HTTP/1.1\r\nHost: h\r\n\r\nGET /gated HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        with c.makefile("rb") as file:
            received = file.read()
    assert received.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2
    assert received.count(b'"title": "Overloaded"') == 1


def test_a_request_whose_client_timeout_passed_is_not_started(app):
    with event_loop_server(app, policy=ServerPolicy(threads=1)) as port:
        responses, threads = start_requests(port, "/busy", 6, **{"X-Envoy-Expected-Rq-Timeout-Ms": "150"})
        for thread in threads:
            thread.join()
        refused = [json.loads(body)["title"] for status, body, _ in responses if status == 503]
        assert refused and set(refused) == {"Client timeout passed"}
        assert len(app.begun) == len(responses) - len(refused) >= 1
        assert get(port, "/busy", **{"X-Envoy-Expected-Rq-Timeout-Ms": "5000"})[0] == 200


def test_sequential_requests_are_not_refused(app):
    """A thread counts as busy until shortly after its response."""
    app.gate.set()
    with (
        event_loop_server(app, policy=ServerPolicy(queue_limit=2)) as port,
        closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection,
    ):
        for _ in range(5):
            connection.request("GET", "/gated")
            assert connection.getresponse().read() == b"through"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [("250", 0.25), ("0", 0.0), ("", None), ("-1", None), ("1.5", None), ("٣", None), ("9" * 10, None)],
)
def test_client_timeouts_are_whole_milliseconds(sent, seconds):
    assert client_timeout_seconds({"X_ENVOY_EXPECTED_RQ_TIMEOUT_MS": sent}) == seconds
