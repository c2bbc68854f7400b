"""Pipelined requests: one connection that sends thousands at once takes little from the others."""

import os
import re
import socket
import time
from contextlib import closing

import pytest

from flaskml.server.http_parser import RequestParser
from flaskml.server.pipelining import PIPELINE_SECONDS
from tests.server.test_slow_clients import connect
from tests.support.doubling import Client, DoublingModel, doubling_server, post
from tests.support.in_process_servers import event_loop_server

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
COUNT = 1_400


@pytest.fixture
def file_app(tmp_path):
    """An app that sends a file of 100 kB; `app.open_files` counts the files that are open."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "100000")])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    app.open_files = lambda: sum(
        os.path.realpath(f"/proc/self/fd/{number}") == str(path) for number in os.listdir("/proc/self/fd")
    )
    return app


def small_app(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"yes"]


def test_a_client_that_does_not_read_holds_one_file(file_app):
    with event_loop_server(file_app) as port, closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        client.connect(("127.0.0.1", port))
        client.sendall(GET * COUNT)
        counts = []
        for _ in range(20):
            time.sleep(0.05)
            counts.append(file_app.open_files())
        assert counts[-1] == 1 and max(counts) <= 2


def test_all_pipelined_files_are_sent(file_app):
    with event_loop_server(file_app) as port, closing(connect(port)) as client:
        client.sendall(GET * 30)
        received = 0
        while received < 30 * 100_000:
            received += len(client.recv(2**20))


def test_requests_wait_unparsed(monkeypatch):
    """A packet of requests holds the loop for the time of one request, and takes the memory of its bytes."""
    parsed = []
    received = RequestParser.received
    monkeypatch.setattr(RequestParser, "received", lambda self, data: (parsed.append(self), received(self, data))[1])
    with event_loop_server(small_app) as port, closing(connect(port)) as client:
        client.sendall(GET * COUNT)
        assert client.recv(2**16).endswith(b"yes")
        assert len(set(parsed)) < 20


def test_a_connection_has_few_threads_of_a_flood_but_all_of_its_own_requests():
    with event_loop_server(small_app) as port, closing(connect(port)) as client:
        begun, answers = time.monotonic(), b""
        client.sendall(GET * COUNT)
        while time.monotonic() - begun < 0.5:
            answers += client.recv(2**16)
        assert 10 < answers.count(b"yes") <= 0.6 / PIPELINE_SECONDS
        with closing(connect(port)) as other:
            begun = time.monotonic()
            for _ in range(50):
                other.sendall(GET)
                assert other.recv(2**16).endswith(b"yes")
            assert time.monotonic() - begun < 50 * PIPELINE_SECONDS + 2


@pytest.mark.parametrize("size", [7, 1_000, 2**16])
def test_pipelined_requests_of_all_kinds_are_answered_in_order(size):
    kinds = [
        (post("/cheap", [1]), b"[2.0]"),
        (GET, b"405"),
        (b"\r\n" + post("/slow", [2]), b"[4.0]"),
        (post("/cheap", [3], "Expect: 100-continue"), b"[3]"),
        (post("/cheap", {"number": 5}), b'{"number": 5}'),
        (post("/cheap", [6], "X-Envoy-Expected-Rq-Timeout-Ms: 0"), b"503"),
        (post("/cheap", b'{"text": "%s"}' % (b"a" * 20_000)), b'{"text": "%s"}' % (b"a" * 20_000)),
    ]
    content = b"".join(request for request, _ in kinds) * 3
    with doubling_server(cheap=DoublingModel(), slow=DoublingModel(seconds=0.02)) as (_, _, connect_client):
        client = connect_client()
        for start in range(0, len(content), size):
            client.send(content[start : start + size])
        for _, expected in 3 * kinds:
            response = client.read()
            assert expected in (response.body, str(response.status).encode())


def test_what_is_behind_the_last_request_is_dropped():
    last = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with event_loop_server(small_app) as port, closing(connect(port)) as client:
        client.sendall(GET + last + GET * 10)
        received = b""
        while part := client.recv(2**16):
            received += part
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200"]


def test_requests_behind_an_answer_that_waits_begin_once_it_is_read():
    numbers = list(range(1_200_000))
    with doubling_server(model=DoublingModel()) as (handler, _, connect_client):
        client: Client = connect_client()
        client.ask("/model", [1])
        handler.reads.clear()
        client.send(post("/model", numbers), *[post("/model", [number]) for number in range(5)])
        time.sleep(0.5)
        assert len(handler.reads) <= 2
        assert len(client.read().body) > 2**21
        assert [client.read().body for _ in range(5)] == [b"[%.1f]" % (2 * number) for number in range(5)]
