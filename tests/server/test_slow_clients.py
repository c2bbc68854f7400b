"""Slow clients (slowloris) lose their connection and delay no other client."""

import os
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from flaskml.server.connection import Connection
from flaskml.server.policy import Deadlines, ServerPolicy
from tests.support.checkout import run_python
from tests.support.in_process_servers import event_loop_server, waitress_server

PART = bytes(2**20)

SLOW = {
    "headers": b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 10_000,
    "a body": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + b"a" * 10_000,
    "chunks": b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000,
    "empty lines": b"\r\n" * 10_000,
}
"""Requests that never end; a slow client sends them byte by byte."""


class LargeApp:
    """An app with a response of 64 MiB at `/large`; `aborted` is released for each one that is not read to its end."""

    def __init__(self):
        self.aborted = threading.Semaphore(0)

    def __call__(self, environ, start_response):
        environ["wsgi.input"].read()
        if environ["PATH_INFO"] == "/stall":
            time.sleep(1.5)
        if environ["PATH_INFO"] != "/large":
            start_response("200 OK", [("Content-Length", "3")])
            return [b"yes"]
        start_response("200 OK", [("Content-Length", str(64 * len(PART)))])
        return self.parts()

    def parts(self):
        try:
            for _ in range(64):
                yield PART
        except GeneratorExit:
            self.aborted.release()
            raise


def deadlines(**limits):
    """Return the options of an event-loop server with other deadlines."""
    return {"policy": ServerPolicy(deadlines=Deadlines(**limits))}


def connect(port, timeout=10):
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def send_request(port, timeout=10):
    """Send a request on a new connection, and check the response."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("GET", "/a")
        assert connection.getresponse().read() == b"yes"


def read_all(client):
    """Return all bytes until the server closes or resets the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := client.recv(2**20):
            received += part
    return received


def drip(client, content):
    """Send byte by byte until the server closes the connection."""
    with suppress(OSError):
        for byte in content:
            client.sendall(bytes([byte]))
            time.sleep(0.02)


class SlowClients:
    """Many clients that send endless requests byte by byte, or do not read; they reconnect when they are closed."""

    def __init__(self, port, count):
        self.port, self.opened, self._stopped = port, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, args=(count,))

    def __enter__(self):
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join(30)

    def _run(self, count):
        clients = [None] * count
        contents = [*SLOW.values(), b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"]
        position = 0
        while not self._stopped.is_set():
            for index, client in enumerate(clients):
                content = contents[index % len(contents)]
                try:
                    if client is None:
                        clients[index] = client = self._open()
                        client.send(content[:40])
                    elif len(content) > 100:
                        client.send(content[40 + position : 41 + position])
                except BlockingIOError:
                    pass
                except OSError:
                    client.close()
                    clients[index] = None
            position += 1
            time.sleep(0.02)
        for client in clients:
            if client is not None:
                client.close()

    def _open(self):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(("127.0.0.1", self.port))
        self.opened += 1
        time.sleep(0.001)
        return client


def receive_until(client, end):
    """Return what arrives until it ends with `end`, or the connection is closed."""
    received = b""
    while not received.endswith(end) and (part := client.recv(2**16)):
        received += part
    return received if received.endswith(end) else b""


def serves_beside_slow_clients(port, *, clients=200, requests=60, timeout=5):
    """Return whether each normal request is answered in time while many slow clients are connected."""
    with SlowClients(port, clients) as slow_clients:
        try:
            for _ in range(requests):
                send_request(port, timeout)
                time.sleep(0.03)
        except TimeoutError:
            return False
    assert slow_clients.opened >= clients
    return True


def test_normal_clients_are_served_beside_200_slow_clients():
    with event_loop_server(LargeApp(), **deadlines(request_seconds=1, response_seconds=1)) as port:
        assert serves_beside_slow_clients(port)


@pytest.fixture
def descriptors():
    """Raise the limit of descriptors, for both ends of thousands of connections; skip the test if it is too low."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 4_500:
        pytest.skip("the hard limit of descriptors is below 4500")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.gauntlet
def test_normal_clients_are_served_beside_2000_slow_clients(descriptors):
    with event_loop_server(LargeApp(), **deadlines(request_seconds=3, response_seconds=3)) as port:
        assert serves_beside_slow_clients(port, clients=2_000, requests=300)


def test_at_the_connection_limit_slow_clients_are_disconnected():
    with event_loop_server(LargeApp(), **deadlines(grace_seconds=0.1), connection_limit=100) as port:
        assert serves_beside_slow_clients(port, requests=15)


def test_plain_waitress_does_not_serve_beside_slow_clients():
    with waitress_server(LargeApp(), connection_limit=100, threads=8) as port:
        assert not serves_beside_slow_clients(port, timeout=2)


@pytest.mark.parametrize("name", ["headers", "a body", "chunks"])
def test_an_endless_request_gets_408_and_is_closed(name):
    with (
        event_loop_server(LargeApp(), **deadlines(request_seconds=0.5)) as port,
        closing(connect(port)) as client,
    ):
        send_request(port)
        sender = threading.Thread(target=drip, args=(client, SLOW[name]))
        sender.start()
        received = read_all(client)
        sender.join(20)
        assert received.startswith(b"HTTP/1.") and b" 408 Request Timeout\r\n" in received
        assert b"connection: close" in received.lower() and received.count(b"HTTP/1.") == 1
        send_request(port)


def test_a_complete_request_is_answered_before_the_timeout_of_the_next():
    with (
        event_loop_server(LargeApp(), **deadlines(request_seconds=0.5)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(b"GET /stall HTTP/1.1\r\nHost: h\r\n\r\nGET /a HTTP/1.1\r\nHo")
        received = read_all(client)
        assert re.findall(rb"HTTP/1\.. (\d+)", received) == [b"200", b"408"]


def test_a_large_body_extends_the_deadline():
    with (
        event_loop_server(LargeApp(), **deadlines(request_seconds=0.5, body_bytes_per_second=100)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(
            b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n" + b"a" * 4_999
        )
        time.sleep(1.8)
        client.sendall(b"a")
        assert read_all(client).endswith(b"\r\n\r\nyes")


def test_a_blocked_loop_extends_the_deadlines(monkeypatch):
    monkeypatch.setattr("flaskml.server.loop.STALL_SECONDS", 1.2)
    body = bytes(2**19)
    with (
        event_loop_server(LargeApp(), **deadlines(request_seconds=1, body_bytes_per_second=1e9)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.1)
        with closing(connect(port)) as other:
            other.sendall(b"GET /stall HTTP/1.1\r\nHost: h\r\n\r\n")
            client.sendall(body)
            assert read_all(client).endswith(b"\r\n\r\nyes")


@pytest.mark.parametrize("first_request", [b"", b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"])
@pytest.mark.parametrize("content", [b"", b"\r\n", SLOW["empty lines"]])
def test_idle_connections_are_closed(first_request, content):
    with event_loop_server(LargeApp(), channel_timeout=1) as port, closing(connect(port)) as client:
        client.sendall(first_request)
        if first_request:
            assert receive_until(client, b"yes")
        sender = threading.Thread(target=drip, args=(client, content))
        sender.start()
        is_refused = content == SLOW["empty lines"]  # More of them than are accepted before a request.
        assert read_all(client)[:12] == (b"HTTP/1.0 400" if is_refused else b"")
        sender.join(20)


def test_a_client_that_does_not_read_is_disconnected():
    app = LargeApp()
    with event_loop_server(app, **deadlines(response_seconds=0.5)) as port, ExitStack() as held:
        for _ in range(5):
            client = held.enter_context(closing(connect(port)))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(5):
            assert app.aborted.acquire(timeout=10), "the generator of the response is closed"
        send_request(port)


def test_a_client_that_reads_slowly_but_steadily_gets_the_whole_response():
    with (
        event_loop_server(LargeApp(), **deadlines(response_seconds=1)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        received = 0
        while part := client.recv(2**20):
            received += len(part)
            time.sleep(0.03)
        assert received > 64 * len(PART)


def test_the_connection_that_has_waited_longest_is_closed_first():
    with (
        event_loop_server(LargeApp(), **deadlines(grace_seconds=0.1), connection_limit=6) as port,
        ExitStack() as held,
    ):
        # Of the 6 descriptors, two are the listening socket and the trigger, and one stays free for a new connection.
        first, second, third = (held.enter_context(closing(connect(port))) for _ in range(3))
        for client in (second, third):
            client.sendall(b"GET /a HT")
        for client in (first, third):
            time.sleep(0.2)
            client.sendall(b"TP/1.1\r\nHost: h\r\n\r\n" if client is third else b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert receive_until(client, b"yes")
        for evicted in (second, first, third):
            time.sleep(0.2)
            new_client = held.enter_context(closing(connect(port)))
            new_client.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert new_client.recv(2**16).endswith(b"yes")
            assert read_all(evicted) == b""


def test_connections_above_the_select_limit_are_served(descriptors):
    with event_loop_server(LargeApp()) as port, ExitStack() as held:
        for _ in range(1_100):
            held.enter_context(closing(connect(port)))
        assert max(map(int, os.listdir("/proc/self/fd"))) > 2_000
        for _ in range(20):
            send_request(port)


def test_without_free_descriptors_connections_are_accepted_later():
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with event_loop_server(LargeApp()) as port, ExitStack() as held:
        send_request(port)
        client = held.enter_context(closing(socket.socket()))
        taken = [held.enter_context(Path("/dev/null").open()) for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limits[1]))
        try:
            with suppress(OSError):  # Use up the free descriptors below the limit.
                while True:
                    taken.append(held.enter_context(Path("/dev/null").open()))
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            used = time.process_time()
            time.sleep(1)
            assert time.process_time() - used < 0.5, "the loop pauses between attempts to accept"
            for file in taken:
                file.close()
            client.settimeout(10)
            assert receive_until(client, b"yes")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


REFUSED = {
    "invalid length": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +9\r\n\r\n",
    "large body": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_client_that_still_sends_can_read_the_response(name):
    with event_loop_server(LargeApp(), max_request_body_size=1000) as port:
        for _ in range(20):
            with closing(connect(port)) as client:
                client.sendall(REFUSED[name])
                for _ in range(8):  # Without a lingering close, this would reset the connection.
                    client.sendall(bytes(2**16))
                received = read_all(client)
                assert re.match(rb"HTTP/1\.[01] 4\d\d ", received) and b"Connection: close" in received


def test_a_lingering_close_ends_if_the_client_goes_on_sending():
    with event_loop_server(LargeApp()) as port, closing(connect(port)) as client:
        client.sendall(REFUSED["invalid length"])
        begun = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < begun + 20:
                client.sendall(b"a")
                time.sleep(0.05)
        assert 1 < time.monotonic() - begun < 10
        send_request(port)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
from flaskml.server.setup import max_connections
print(max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("hard", "connections"), [(256, 128), (1_024, 768), (12_000, 10_000)])
def test_the_descriptor_limit_bounds_connections(hard, connections):
    assert run_python(LIMITED, hard).split() == [str(connections), str(hard), str(hard)]


def test_the_server_raises_its_descriptor_limit(serve):
    server = serve("flask serve")
    limits = Path(f"/proc/{server.serving_pid}/limits").read_text()
    soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
    assert soft == hard


def test_without_deadlines_slow_clients_stay_connected(monkeypatch):
    """Show with a planted fault that the tests above can fail: no deadline is checked."""
    monkeypatch.setattr(Connection, "check_deadlines", lambda *_, **__: None)
    app = LargeApp()
    with (
        event_loop_server(app, **deadlines(request_seconds=0.5, response_seconds=0.5), channel_timeout=1) as port,
        ExitStack() as held,
    ):
        clients = [held.enter_context(closing(connect(port, timeout=2.5))) for _ in range(3)]
        for client, content in zip(
            clients, [b"", b"GET /a HT", b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"], strict=True
        ):
            client.sendall(content)
        time.sleep(2)
        for client in clients[:2]:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        assert not app.aborted.acquire(timeout=0)
