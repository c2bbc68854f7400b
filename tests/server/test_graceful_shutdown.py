"""The engine told to stop under load: what was accepted is answered."""

import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException

import pytest
from flask import Flask, request

from flaskml.server.engine import build_server
from flaskml.server.policy import ENVIRON_KEY, ServerPolicy
from flaskml.web.lean import may_block

pytest.importorskip("greenlet")

CLIENTS = 16


def make_app():
    app = Flask(__name__)

    @app.get("/quick")
    def quick():
        return "quick"

    @app.get("/slow")
    @may_block
    def slow():
        time.sleep(0.2)
        return "slow"

    @app.get("/state")
    def state():
        return str(request.environ[ENVIRON_KEY].draining)

    return app


class Engine:
    """An engine in a thread."""

    def __init__(self, **given):
        ready = threading.Event()

        def run():
            self.made = build_server(make_app(), port=0, **given)
            ready.set()
            self.made.run()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        ready.wait(10)
        self.port = int(self.made.effective_port)

    def connect(self):
        return closing(HTTPConnection("127.0.0.1", self.port, timeout=20))

    def stop(self):
        self.made.stop()

    def join(self):
        self.thread.join(30)
        assert not self.thread.is_alive()


class Client(threading.Thread):
    """Asks again and again on one connection, until it is told that an answer was the last, or refused."""

    def __init__(self, engine, path):
        super().__init__()
        self.engine, self.path = engine, path
        self.answers, self.lost, self.told_to_close = 0, 0, False

    def run(self):
        with self.engine.connect() as connection:
            while not self.told_to_close:
                try:
                    connection.request("GET", self.path)
                    answer = connection.getresponse()
                    assert answer.read().decode() == self.path.strip("/")
                except (OSError, HTTPException):
                    self.lost += 1
                    return
                self.answers += 1
                self.told_to_close = answer.headers.get("Connection") == "close"


def stop_under_load(pause, **given):
    engine = Engine(**given)
    clients = [Client(engine, "/slow" if number % 2 else "/quick") for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(pause)
    engine.stop()
    for client in clients:
        client.join()
    engine.join()
    return clients


@pytest.mark.parametrize("pause", [0.3, 0.43])
def test_nothing_that_was_accepted_is_lost(pause):
    clients = stop_under_load(pause)
    assert sum(client.lost for client in clients) == 0
    assert all(client.answers and client.told_to_close for client in clients)


def test_without_patience_there_are_losses():
    clients = stop_under_load(0.3, policy=ServerPolicy(patience=0))
    assert sum(client.lost for client in clients) > 0


def test_idle_connections_get_one_more_answer_and_then_are_closed():
    engine = Engine()
    with engine.connect() as waiting, engine.connect() as asking:
        for connection in (waiting, asking):
            connection.request("GET", "/state")
            assert connection.getresponse().read() == b"False"
        engine.stop()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", engine.port))
        asking.request("GET", "/state")
        answer = asking.getresponse()
        assert (answer.read(), answer.headers["Connection"]) == (b"True", "close")
        assert asking.sock is None
        assert waiting.sock.recv(1) == b""
    engine.join()


def test_who_is_refused_then_is_told_that_it_was_the_last_answer():
    engine = Engine(policy=ServerPolicy(queue_limit=1))
    with engine.connect() as served, engine.connect() as refused:
        for connection in (served, refused):
            connection.request("GET", "/quick")
            assert connection.getresponse().read() == b"quick"
        served.request("GET", "/slow")
        time.sleep(0.05)
        engine.stop()
        time.sleep(0.05)
        refused.request("GET", "/quick")
        answer = refused.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert served.getresponse().read() == b"slow"
    engine.join()


def test_requests_behind_one_another_are_all_answered():
    engine = Engine()
    with closing(socket.create_connection(("127.0.0.1", engine.port))) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        time.sleep(0.1)
        engine.stop()
        with client.makefile("rb") as file:
            received = file.read()
    assert received.count(b"HTTP/1.1 200 OK") == 3 and received.count(b"Connection: close") == 1
    engine.join()


def test_half_a_request_is_waited_for():
    engine = Engine()
    with closing(socket.create_connection(("127.0.0.1", engine.port))) as client:
        client.sendall(b"GET /quick HTTP/1.1\r\nHo")
        time.sleep(0.1)
        engine.stop()
        time.sleep(1.5)
        client.sendall(b"st: x\r\n\r\n")
        with client.makefile("rb") as file:
            assert b"quick" in file.read()
    engine.join()


def test_a_second_word_ends_it_at_once():
    engine = Engine()
    with closing(socket.create_connection(("127.0.0.1", engine.port))) as client:
        client.sendall(b"GET /qui")
        time.sleep(0.1)
        engine.stop()
        engine.stop()
        engine.join()
        assert client.recv(10) == b""
