"""Answers that clients do not read: their memory has a limit, and slow readers lose their connection at it."""

import json
import socket
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

from flaskml.server.connection import Connection
from flaskml.server.policy import Deadlines, ServerPolicy
from flaskml.server.unread_answers import UnreadAnswers
from tests.server.test_slow_clients import read_all
from tests.support.doubling import DoublingModel, doubling_server, post
from tests.support.in_process_servers import event_loop_server
from tests.support.server_processes import wait_until

LARGE_BYTES = 12 * 2**20
LIMIT_BYTES = 2**25


def app(environ, start_response):
    body = bytes(LARGE_BYTES) if environ["PATH_INFO"] == "/large" else b"yes"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def get(port, path="/small"):
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def connect_without_reading(port, stack, path="/large"):
    client = stack.enter_context(closing(socket.socket()))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    return client


@pytest.fixture
def guards(monkeypatch):
    """The guards of the servers that start."""
    made = []

    class ObservedAnswers(UnreadAnswers):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr("flaskml.server.loop.UnreadAnswers", ObservedAnswers)
    return made


def policy(response_seconds=30.0):
    return ServerPolicy(
        body_memory_bytes=LIMIT_BYTES,
        priority_paths=frozenset({"/livez"}),
        deadlines=Deadlines(response_seconds=response_seconds),
    )


def fill(port, guard, stack):
    """Let clients ask for large answers, and not read them, until the memory is full; return the clients."""
    clients = []
    while not guard.account.is_full:
        clients.append(connect_without_reading(port, stack))
        before = guard.account.used_bytes
        wait_until(lambda before=before: guard.account.used_bytes > before)
        assert len(clients) < 10
    return clients


def test_slow_readers_are_reset_when_the_memory_is_full(guards):
    with event_loop_server(app, policy=policy()) as port, ExitStack() as stack:
        (guard,) = guards
        clients = fill(port, guard, stack)
        assert len(clients) > 2
        status, body = get(port)
        assert status == 503 and "that other clients have not read" in json.loads(body)["detail"]
        assert get(port, "/livez") == (200, b"yes")
        wait_until(lambda: not guard.account.is_full)
        assert get(port) == (200, b"yes")
        assert sum(len(read_all(client)) < LARGE_BYTES for client in clients) == 1, "one reset is enough"
        wait_until(lambda: guard.account.used_bytes == 0)


def test_a_client_that_reads_fast_enough_is_not_reset(guards):
    with event_loop_server(app, policy=policy()) as port, ExitStack() as stack:
        (guard,) = guards
        clients = fill(port, guard, stack)
        received = [0] * len(clients)

        def read(index):
            """Read about four times as fast as is necessary."""
            while received[index] < LARGE_BYTES and (part := clients[index].recv(2**18)):
                received[index] += len(part)
                time.sleep(0.05)

        threads = [threading.Thread(target=read, args=(index,)) for index in range(len(clients))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(received) > LARGE_BYTES


def test_without_resets_the_memory_stays_full(guards, monkeypatch):
    """Show with a planted fault that the tests above can fail."""
    monkeypatch.setattr(UnreadAnswers, "reset_slow_readers", lambda *_: None)
    with event_loop_server(app, policy=policy()) as port, ExitStack() as stack:
        fill(port, guards[0], stack)
        time.sleep(2.5)
        assert guards[0].account.is_full and get(port)[0] == 503


class Reader:
    """A connection whose client reads, or does not."""

    def __init__(self, account, unread_bytes):
        self.account, self.unread_bytes, self.sent_bytes = account, unread_bytes, 0
        account.change(unread_bytes)

    def abort(self):
        self.account.change(-self.unread_bytes)
        self.unread_bytes = 0


def test_those_with_the_most_unread_bytes_are_reset_first():
    guard = UnreadAnswers(1_000, response_seconds=10)
    readers = [Reader(guard.account, unread_bytes) for unread_bytes in (200, 400, 300, 350)]
    slow, fast = readers[1], readers[3]
    guard.reset_slow_readers(readers, 1.0)
    assert guard.account.used_bytes == 1_250, "each has at least a second"
    slow.sent_bytes, fast.sent_bytes = 39, 35
    guard.reset_slow_readers(readers, 2.0)
    assert [reader.unread_bytes for reader in readers] == [200, 0, 300, 350]
    guard.account.change(500)
    fast.sent_bytes += 35
    guard.reset_slow_readers(readers, 3.0)
    assert [reader.unread_bytes for reader in readers] == [0, 0, 0, 350]


def test_sent_answers_do_not_stay_in_memory(monkeypatch):
    """A client that reads slowly, and pipelines, does not let the output buffer grow."""
    connections = []
    add_channel = Connection.add_channel
    monkeypatch.setattr(
        Connection, "add_channel", lambda self, map=None: (add_channel(self, map), connections.append(self))[0]
    )
    numbers = list(range(400_000))
    with doubling_server(model=DoublingModel()) as (_, _, connect_client):
        client = connect_client()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        for _ in range(3):
            client.send(post("/model", numbers))
            time.sleep(0.3)
            assert json.loads(client.read().body)[-1] == 2 * numbers[-1]
        (connection,) = connections
        wait_until(lambda: not connection.total_outbufs_len)
        time.sleep(0.1)
        assert connection.outbufs[-1].buf is None and connection.unread_bytes == 0


def test_a_stream_frees_what_was_sent(guards):
    """A thread that streams waits for its client, and holds little more memory than is unread."""

    def stream(environ, start_response):
        start_response("200 OK", [("Content-Length", str(2**26))])
        return (bytes(2**16) for _ in range(2**10))

    with event_loop_server(stream) as port, ExitStack() as stack:
        client = connect_without_reading(port, stack)
        (guard,) = guards
        wait_until(lambda: guard.account.used_bytes > 2**22)
        time.sleep(0.2)
        assert guard.account.used_bytes < 2**22 + 2**18
        client.shutdown(socket.SHUT_WR)
        while client.recv(2**20):
            pass
        wait_until(lambda: guard.account.used_bytes == 0)


def test_files_are_not_counted(guards, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(2**24))

    def send_file(environ, start_response):
        start_response("200 OK", [("Content-Length", str(2**24))])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with event_loop_server(send_file) as port, ExitStack() as stack:
        client = connect_without_reading(port, stack)
        time.sleep(0.3)
        assert guards[0].account.used_bytes < 2**16
        received = 0
        while received < 2**24:
            received += len(client.recv(2**20))
