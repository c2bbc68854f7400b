"""A closed connection is freed at once, with its requests and its answers, without the garbage collector."""

import gc
import socket
import threading
import weakref
from contextlib import ExitStack, closing

import pytest

from flaskml.server.connection import RESET_ON_CLOSE, Connection
from flaskml.server.connection_owner import ServerOfChannel
from flaskml.server.http_parser import RequestParser
from tests.server.test_slow_clients import connect, receive_until
from tests.support.doubling import DoublingModel, doubling_server, post
from tests.support.in_process_servers import event_loop_server
from tests.support.server_processes import wait_until

HEAD = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"

LEAVING = {
    "after an answer": GET,
    "in the header": GET[:20],
    "in a small body": HEAD + bytes(1000),
    "in a large body": HEAD + bytes(4_000_000),
    "in chunks": b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" + bytes(2_000_000),
    "behind a request": GET + HEAD + bytes(1000),
    "without reading": GET.replace(b"/a", b"/large"),
    "after a refusal": b"GET /a HTTP/1.1\r\n\r\n",
}
"""The requests of clients that leave."""


def app(environ, start_response):
    body = bytes(8_000_000) if environ["PATH_INFO"] == "/large" else b"yes"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def alive(monkeypatch):
    """The connections and requests that are in memory, while the garbage collector is off."""
    objects = weakref.WeakSet()

    class ObservedConnection(Connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            objects.add(self)

    class ObservedParser(RequestParser):
        def __init__(self, *args):
            super().__init__(*args)
            objects.add(self)

    monkeypatch.setattr("flaskml.server.loop.Connection", ObservedConnection)
    monkeypatch.setattr("flaskml.server.loop.EventLoop.channel_class", ObservedConnection)
    monkeypatch.setattr(Connection, "parser_class", ObservedParser)
    gc.disable()
    yield objects
    gc.enable()


@pytest.mark.parametrize("name", LEAVING)
def test_the_memory_of_a_client_that_leaves_is_freed_at_once(name, alive):
    with event_loop_server(app) as port:
        with ExitStack() as clients:
            for _ in range(3):
                client = clients.enter_context(closing(connect(port)))
                client.sendall(LEAVING[name])
            wait_until(lambda: len(alive) >= 3)
            if LEAVING[name].startswith(GET):
                assert receive_until(client, b"yes")
        wait_until(lambda: not alive)


def test_requests_that_wait_for_a_thread_or_a_model_are_freed_when_their_client_leaves(alive):
    numbers = list(range(100_000))
    with doubling_server(model=DoublingModel(seconds=0.02, is_gated=True)) as (_, flask, connect):
        threads = [connect() for _ in range(35)]
        for client in threads:
            client.send(b"GET /gated HTTP/1.1\r\nHost: h\r\n\r\n")
        models = [connect() for _ in range(3)]
        for client in models:
            client.send(post("/model", numbers))
        wait_until(lambda: len(alive) == 2 * 35 + 2 * 3)
        for client in [*threads, *models]:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
        # The requests that 32 threads serve stay, and those that the model computes or will drop, without their bodies.
        wait_until(lambda: sum(isinstance(each, RequestParser) for each in list(alive)) <= 32 + 3)
        flask.gate.set()


def test_a_reference_cycle_keeps_a_closed_connection(alive, monkeypatch):
    """Show with a planted fault that the tests above can fail."""

    def with_cycle(server, loop, channel):
        server._loop = loop
        server._channel = lambda: channel

    monkeypatch.setattr(ServerOfChannel, "__init__", with_cycle)
    with event_loop_server(app) as port:
        with closing(connect(port)) as client:
            client.sendall(GET)
            assert receive_until(client, b"yes")
        left = threading.Event()
        assert not left.wait(0.5) and alive
    gc.collect()
