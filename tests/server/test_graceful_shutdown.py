"""Graceful shutdown of the event loop: every accepted request is answered."""

import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException

import pytest
from flask import Flask, request

from flaskml.server.policy import ENVIRON_KEY, ServerPolicy
from flaskml.server.setup import build_server

CLIENTS = 16


def make_app():
    app = Flask(__name__)

    @app.get("/quick")
    def quick():
        return "quick"

    @app.get("/slow")
    def slow():
        time.sleep(0.2)
        return "slow"

    @app.get("/state")
    def state():
        return str(request.environ[ENVIRON_KEY].is_draining)

    return app


class ServerThread:
    """An event-loop server in a thread, which a test stops."""

    def __init__(self, **options):
        ready = threading.Event()

        def run():
            self.server = build_server(make_app(), port=0, **options)
            ready.set()
            self.server.run()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        ready.wait(10)
        self.port = int(self.server.effective_port)

    def connect(self):
        return closing(HTTPConnection("127.0.0.1", self.port, timeout=20))

    def stop(self):
        self.server.stop()

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive()


class Client(threading.Thread):
    """A client that sends requests on one keep-alive connection, until a response closes it or a request is lost."""

    def __init__(self, server, path):
        super().__init__()
        self.server, self.path = server, path
        self.answered, self.lost, self.is_closed = 0, 0, False

    def run(self):
        with self.server.connect() as connection:
            while not self.is_closed:
                try:
                    connection.request("GET", self.path)
                    response = connection.getresponse()
                    assert response.read().decode() == self.path.strip("/")
                except (OSError, HTTPException):
                    self.lost += 1
                    return
                self.answered += 1
                self.is_closed = response.headers.get("Connection") == "close"


def stop_under_load(delay, **options):
    """Stop a server after `delay` seconds of load; return its clients."""
    server = ServerThread(**options)
    clients = [Client(server, "/slow" if number % 2 else "/quick") for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(delay)
    server.stop()
    for client in clients:
        client.join()
    server.join()
    return clients


@pytest.mark.parametrize("delay", [0.3, 0.43])
def test_a_graceful_shutdown_loses_no_request(delay):
    clients = stop_under_load(delay)
    assert sum(client.lost for client in clients) == 0
    assert all(client.answered and client.is_closed for client in clients)


def test_without_drain_time_requests_are_lost():
    clients = stop_under_load(0.3, policy=ServerPolicy(drain_seconds=0))
    assert sum(client.lost for client in clients) > 0


def test_idle_connections_get_one_more_response_and_are_then_closed():
    server = ServerThread()
    with server.connect() as idle, server.connect() as active:
        for connection in (idle, active):
            connection.request("GET", "/state")
            assert connection.getresponse().read() == b"False"
        server.stop()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        active.request("GET", "/state")
        response = active.getresponse()
        assert (response.read(), response.headers["Connection"]) == (b"True", "close")
        assert active.sock is None
        assert idle.sock.recv(1) == b""
    server.join()


def test_an_empty_line_after_a_request_does_not_delay_the_shutdown():
    server = ServerThread()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n\r\n")
        assert client.recv(2**16).endswith(b"slow")
        client.sendall(b"\r\n")
        time.sleep(0.1)
        begun = time.monotonic()
        server.stop()
        server.join()
        assert time.monotonic() - begun < server.server.policy.drain_seconds / 2
        assert client.recv(1) == b""


def test_an_empty_line_after_the_last_request_hides_no_closing():
    server = ServerThread()
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n\r\n")
        time.sleep(0.1)
        server.stop()
        assert b"\r\nConnection: close\r\n" in client.recv(2**16)
    server.join()


def test_a_refusal_during_the_drain_closes_the_connection():
    server = ServerThread(policy=ServerPolicy(queue_limit=1))
    with server.connect() as served, server.connect() as refused:
        for connection in (served, refused):
            connection.request("GET", "/quick")
            assert connection.getresponse().read() == b"quick"
            time.sleep(0.05)  # Until the thread is free again.
        served.request("GET", "/slow")
        time.sleep(0.05)
        server.stop()
        time.sleep(0.05)
        refused.request("GET", "/quick")
        response = refused.getresponse()
        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert served.getresponse().read() == b"slow"
    server.join()


def test_pipelined_requests_are_all_answered():
    server = ServerThread()
    with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        time.sleep(0.1)
        server.stop()
        with client.makefile("rb") as file:
            received = file.read()
    assert received.count(b"HTTP/1.1 200 OK") == 3 and received.count(b"Connection: close") == 1
    server.join()


def test_a_partly_received_request_is_completed_and_answered():
    server = ServerThread()
    with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.sendall(b"GET /quick HTTP/1.1\r\nHo")
        time.sleep(0.1)
        server.stop()
        time.sleep(1.5)
        client.sendall(b"st: x\r\n\r\n")
        with client.makefile("rb") as file:
            assert b"quick" in file.read()
    server.join()


def test_a_second_stop_ends_the_loop_at_once():
    server = ServerThread()
    with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.sendall(b"GET /qui")
        time.sleep(0.1)
        server.stop()
        server.stop()
        server.join()
        assert client.recv(10) == b""
