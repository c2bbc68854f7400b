"""More requests than can be answered, and requests that nobody waits for any more."""

import json
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest
from flask import Flask

from flaskml.web.lean import may_block
from tests.support.in_process_servers import serving

pytest.importorskip("greenlet")

from flaskml.server.error_responses import client_timeout_seconds
from flaskml.server.policy import ServerPolicy


@pytest.fixture
def app():
    app = Flask(__name__)
    app.begun = []
    app.gate = threading.Event()

    @app.get("/gated")
    @may_block
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


def ask(port, path, **headers):
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers


def many(port, path, count, **headers):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(port, path, **headers))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return answers, threads


def test_above_the_limit_requests_are_refused_at_once_and_health_is_not(app):
    with serving(app, policy=ServerPolicy(queue_limit=3, first=frozenset({"/livez"}))) as port:
        answers, threads = many(port, "/gated", 3)
        while len(app.begun) < 3:
            time.sleep(0.01)
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            for _ in range(3):  # On one connection, which stays open.
                connection.request("GET", "/gated")
                answer = connection.getresponse()
                problem = json.loads(answer.read())
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert problem["title"] == "Overloaded" and problem["status"] == 503
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b"live"
        assert len(app.begun) == 3
        app.gate.set()
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in answers] == [200] * 3
        assert ask(port, "/gated")[0] == 200


def test_those_who_are_refused_take_no_place_of_others(app):
    """Many ask again at once when they are refused; as many as there is room for are served all the same."""
    app.gate.set()
    served, stopped = [], threading.Event()

    def ask_on(port):
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            while not stopped.is_set():
                connection.request("GET", "/gated")
                answer = connection.getresponse()
                answer.read()
                served.append(answer.status)

    with serving(app, policy=ServerPolicy(queue_limit=4)) as port:
        threads = [threading.Thread(target=ask_on, args=(port,)) for _ in range(40)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(served) == {200, 503}
    assert served.count(200) > served.count(503) / 20


def test_a_refusal_of_a_head_request_has_no_body(app):
    with (
        serving(app, policy=ServerPolicy(queue_limit=0)) as port,
        closing(socket.create_connection(("127.0.0.1", port))) as c,
    ):
        c.sendall(b"HEAD /gated HTTP/1.1\r\nHost: h\r\n\r\nGET /gated HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        with c.makefile("rb") as file:
            received = file.read()
    assert received.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2
    assert received.count(b'"title": "Overloaded"') == 1


def test_work_that_is_late_is_not_begun(app):
    with serving(app) as port:
        answers, threads = many(port, "/busy", 6, **{"X-Envoy-Expected-Rq-Timeout-Ms": "150"})
        for thread in threads:
            thread.join()
        late = [json.loads(body)["title"] for status, body, _ in answers if status == 503]
        assert late and set(late) == {"Too late"}
        assert len(app.begun) == len(answers) - len(late) >= 1
        assert ask(port, "/busy", **{"X-Envoy-Expected-Rq-Timeout-Ms": "5000"})[0] == 200


def test_refused_and_served_requests_alternate_on_one_connection(app):
    app.gate.set()
    with (
        serving(app, policy=ServerPolicy(queue_limit=1)) as port,
        closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection,
    ):
        for _ in range(5):
            connection.request("GET", "/gated")
            assert connection.getresponse().read() == b"through"


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [("250", 0.25), ("0", 0.0), ("", None), ("-1", None), ("1.5", None), ("٣", None), ("9" * 10, None)],
)
def test_budgets(sent, seconds):
    assert client_timeout_seconds({"X_ENVOY_EXPECTED_RQ_TIMEOUT_MS": sent}) == seconds
