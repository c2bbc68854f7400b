"""The Connection header (RFC 9112, section 9): the option `close` ends the connection, wherever it stands."""

import json

import pytest
from flask import request

from flaskml.server.policy import ServerPolicy
from tests.support.doubling import DoublingModel, doubling_server, post
from tests.support.server_processes import wait_until

CLOSING = (
    "Connection: close",
    "Connection: Close",
    "Connection: keep-alive, close",
    "Connection: close, keep-alive",
    "Connection: Keep-Alive,CLOSE",
    "connection:\t close \t,\tTE",
    "Connection: , close ,",
    "Connection: keep-alive\r\nConnection: close",
    "Connection: close\r\nX: 1\r\nCONNECTION: keep-alive",
    "Connection:\r\nConnection: close",
)
"""Header lines that say that the request is the last one of its connection."""

KEEPING = (
    "Connection: keep-alive",
    "Connection: closed",
    "Connection: x-close, keep-alive",
    "Connection: ",
    "X: close",
)


@pytest.mark.parametrize("lines", CLOSING)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_close_among_the_options_closes_the_connection(lines, version):
    with doubling_server(model=DoublingModel()) as (_, app, connect):
        paths = []
        app.before_request(lambda: paths.append(request.path))
        for _ in range(2):  # The second time, the header block is cached.
            client = connect()
            client.send(post("/first", [1], lines, version=version), post("/canary", [1]))
            response = client.read()
            assert (response.status, response.headers.get_all("Connection")) == (200, ["close"])
            assert client.file.read() == b""
        assert paths == ["/first", "/first"]


@pytest.mark.parametrize("lines", CLOSING)
def test_a_prediction_with_close_among_the_options_is_the_last_one(lines):
    with doubling_server(model=DoublingModel()) as (handler, _, connect):
        for _ in range(2):
            client = connect()
            assert client.ask("/model", [1]).by == "loop"
            handler.reads.clear()
            client.send(post("/model", [2], lines), post("/model", [3]))
            response = client.read()
            assert (response.status, response.headers["Connection"]) == (200, "close")
            assert client.file.read() == b"" and not handler.reads


@pytest.mark.parametrize("lines", KEEPING)
def test_other_options_keep_the_connection_open(lines):
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        client = connect()
        for number in (1, 2, 3):
            response = client.ask("/model", [number], lines)
            assert (response.status, response.headers["Connection"]) == (200, None)
        assert json.loads(client.ask("/model", [4]).body) == [8]


@pytest.mark.parametrize("lines", CLOSING)
def test_a_refusal_closes_the_connection_too(lines):
    model = DoublingModel(0.02, 0.001, is_gated=True)
    with doubling_server(ServerPolicy(queue_limit=1), model=model) as (_, _, connect):
        waiting, client = connect(), connect()
        waiting.send(post("/model", [1]))
        wait_until(lambda: model.running)
        client.send(post("/model", [2], lines), post("/model", [3]))
        response = client.read()
        assert (response.status, response.headers["Connection"]) == (503, "close") and client.file.read() == b""
        model.gate.set()
        assert waiting.read().status == 200 and model.calls == [[1]]
