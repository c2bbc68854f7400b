"""Clients that send slowly, or nothing, or do not read: they lose their connection, and nobody else notices them."""

import os
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.checkout import run_python
from tests.support.in_process_servers import plainly_serving, serving

pytest.importorskip("greenlet")

from flaskml.server.connection import Connection
from flaskml.server.deadlines import Deadlines
from flaskml.server.policy import ServerPolicy

PART = bytes(2**20)

SLOW = {
    "headers": b"GET /a HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 10_000,
    "a body": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + b"a" * 10_000,
    "chunks": b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000,
    "line ends": b"\r\n" * 10_000,
}
"""What never comes to its end."""


class Large:
    """An app that answers with as much as is asked for, and counts whom it could not tell all."""

    def __init__(self):
        self.left = threading.Semaphore(0)

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
            self.left.release()
            raise


def within(**seconds):
    """What gives an engine other deadlines."""
    return {"policy": ServerPolicy(deadlines=Deadlines(**seconds))}


def connect(port, timeout=10):
    client = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def ask(port, timeout=10):
    """A request of its own connection, answered rightly."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=timeout)) as connection:
        connection.request("GET", "/a")
        assert connection.getresponse().read() == b"yes"


def all_of(client):
    received = b""
    with suppress(ConnectionError):
        while part := client.recv(2**20):
            received += part
    return received


def drip(client, content):
    """Sends byte by byte until the other side has closed."""
    with suppress(OSError):
        for byte in content:
            client.sendall(bytes([byte]))
            time.sleep(0.02)


class Crowd:
    """Many clients that send what never ends byte by byte, or do not read; those that were closed come again."""

    def __init__(self, port, count):
        self.port, self.opened, self._stop = port, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, args=(count,))

    def __enter__(self):
        self._thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)

    def _run(self, count):
        clients = [None] * count
        contents = [*SLOW.values(), b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n"]
        position = 0
        while not self._stop.is_set():
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


def serves_in_a_crowd(port, *, clients=200, requests=60, timeout=5):
    """Whether honest clients are answered, each in time, among many that are slow."""
    with Crowd(port, clients) as crowd:
        try:
            for _ in range(requests):
                ask(port, timeout)
                time.sleep(0.03)
        except TimeoutError:
            return False
    assert crowd.opened >= clients
    return True


def test_honest_clients_are_served_beside_200_slow_ones():
    with serving(Large(), **within(request=1, answer=1)) as port:
        assert serves_in_a_crowd(port)


@pytest.fixture
def descriptors():
    """As many as this process may have, which must be enough for both ends of thousands of connections."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 4_500:
        pytest.skip("this process may not have as many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.gauntlet
def test_honest_clients_are_served_beside_2000_slow_ones(descriptors):
    with serving(Large(), **within(request=3, answer=3)) as port:
        assert serves_in_a_crowd(port, clients=2_000, requests=300)


def test_at_the_limit_of_connections_the_slowest_make_room():
    with serving(Large(), **within(grace=0.1), connection_limit=100) as port:
        assert serves_in_a_crowd(port, requests=15)


def test_on_waitress_alone_they_keep_honest_clients_out():
    with plainly_serving(Large(), connection_limit=100, threads=8) as port:
        assert not serves_in_a_crowd(port, timeout=2)


@pytest.mark.parametrize("name", ["headers", "a body", "chunks"])
def test_what_does_not_come_to_its_end_is_answered_and_closed(name):
    with serving(Large(), **within(request=0.5)) as port, closing(connect(port)) as client:
        ask(port)
        sender = threading.Thread(target=drip, args=(client, SLOW[name]))
        sender.start()
        received = all_of(client)
        sender.join(20)
        assert received.startswith(b"HTTP/1.") and b" 408 Request Timeout\r\n" in received
        assert b"connection: close" in received.lower() and received.count(b"HTTP/1.") == 1
        ask(port)


def test_what_came_before_is_answered_first():
    with serving(Large(), **within(request=0.5)) as port, closing(connect(port)) as client:
        client.sendall(b"GET /stall HTTP/1.1\r\nHost: h\r\n\r\nGET /a HTTP/1.1\r\nHo")
        received = all_of(client)
        assert re.findall(rb"HTTP/1\.. (\d+)", received) == [b"200", b"408"]


def test_a_body_that_comes_at_a_good_rate_has_more_time():
    with (
        serving(Large(), **within(request=0.5, rate=100)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(
            b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 5000\r\n\r\n" + b"a" * 4_999
        )
        time.sleep(1.8)
        client.sendall(b"a")
        assert all_of(client).endswith(b"\r\n\r\nyes")


def test_what_came_while_the_loop_was_held_up_is_not_late(monkeypatch):
    monkeypatch.setattr("flaskml.server.loop.STALL_SECONDS", 1.2)
    body = bytes(2**19)
    with (
        serving(Large(), **within(request=1, rate=1e9)) as port,
        closing(connect(port)) as client,
    ):
        client.sendall(b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.1)
        with closing(connect(port)) as other:
            other.sendall(b"GET /stall HTTP/1.1\r\nHost: h\r\n\r\n")
            client.sendall(body)
            assert all_of(client).endswith(b"\r\n\r\nyes")


@pytest.mark.parametrize("first", [b"", b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"])
@pytest.mark.parametrize("content", [b"", b"\r\n", SLOW["line ends"]])
def test_idle_connections_are_closed(first, content):
    with serving(Large(), channel_timeout=1) as port, closing(connect(port)) as client:
        client.sendall(first)
        if first:
            assert client.recv(2**16).endswith(b"yes")
        sender = threading.Thread(target=drip, args=(client, content))
        sender.start()
        assert all_of(client)[:12] == (b"HTTP/1.0 400" if content == SLOW["line ends"] else b"")  # Not so many of them.
        sender.join(20)


def test_who_does_not_read_loses_the_connection():
    app = Large()
    with serving(app, **within(answer=0.5)) as port, ExitStack() as held:
        for _ in range(5):
            client = held.enter_context(closing(connect(port)))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(5):
            assert app.left.acquire(timeout=10), "what makes the parts is told that nobody wants them"
        ask(port)


def test_who_reads_slowly_but_steadily_gets_all():
    with serving(Large(), **within(answer=1)) as port, closing(connect(port)) as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        received = 0
        while part := client.recv(2**20):
            received += len(part)
            time.sleep(0.03)
        assert received > 64 * len(PART)


def test_who_is_waited_for_longest_makes_room():
    with (
        serving(Large(), **within(grace=0.1), connection_limit=6) as port,
        ExitStack() as held,
    ):
        # Two of them are the socket that listens and the trigger, and one is for who comes next.
        first, second, third = (held.enter_context(closing(connect(port))) for _ in range(3))
        for client in (second, third):
            client.sendall(b"GET /a HT")
        for client in (first, third):
            time.sleep(0.2)
            client.sendall(b"TP/1.1\r\nHost: h\r\n\r\n" if client is third else b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(2**16).endswith(b"yes")
        for gone in (second, first, third):
            time.sleep(0.2)
            newcomer = held.enter_context(closing(connect(port)))
            newcomer.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            assert newcomer.recv(2**16).endswith(b"yes")
            assert all_of(gone) == b""


def test_more_connections_than_select_can_bear(descriptors):
    with serving(Large()) as port, ExitStack() as held:
        for _ in range(1_100):
            held.enter_context(closing(connect(port)))
        assert max(map(int, os.listdir("/proc/self/fd"))) > 2_000
        for _ in range(20):
            ask(port)


def test_when_there_are_no_descriptors_those_who_wait_are_accepted_later():
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(Large()) as port, ExitStack() as held:
        ask(port)
        client = held.enter_context(closing(socket.socket()))
        taken = [held.enter_context(Path("/dev/null").open()) for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, limits[1]))
        try:
            with suppress(OSError):  # Fills the gaps below the limit.
                while True:
                    taken.append(held.enter_context(Path("/dev/null").open()))
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n")
            used = time.process_time()
            time.sleep(1)
            assert time.process_time() - used < 0.5, "it does not try without a pause"
            for file in taken:
                file.close()
            client.settimeout(10)
            assert client.recv(2**16).endswith(b"yes")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


REFUSED = {
    "a length of its own kind": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +9\r\n\r\n",
    "more than is read": b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_who_is_refused_while_sending_can_read_why(name):
    with serving(Large(), max_request_body_size=1000) as port:
        for _ in range(20):
            with closing(connect(port)) as client:
                client.sendall(REFUSED[name])
                for _ in range(8):  # Closed as a whole, the connection would be reset by this, and the answer be lost.
                    client.sendall(bytes(2**16))
                received = all_of(client)
                assert re.match(rb"HTTP/1\.[01] 4\d\d ", received) and b"Connection: close" in received


def test_who_goes_on_sending_after_a_refusal_is_cut_off():
    with serving(Large()) as port, closing(connect(port)) as client:
        client.sendall(REFUSED["a length of its own kind"])
        begun = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < begun + 20:
                client.sendall(b"a")
                time.sleep(0.05)
        assert 1 < time.monotonic() - begun < 10
        ask(port)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
from flaskml.server.engine import max_connections
print(max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("hard", "connections"), [(256, 128), (1_024, 768), (12_000, 10_000)])
def test_connections_are_as_many_as_descriptors_allow(hard, connections):
    assert run_python(LIMITED, hard).split() == [str(connections), str(hard), str(hard)]


def test_the_server_takes_all_descriptors_it_may_have(serve):
    engine = serve("flask serve")
    limits = Path(f"/proc/{engine.process.pid}/limits").read_text()
    soft, hard = re.search(r"Max open files +(\d+) +(\d+)", limits).groups()
    assert soft == hard


def test_without_deadlines_they_stay(monkeypatch):
    """What makes the tests above red."""
    monkeypatch.setattr(Connection, "look_at_clock", lambda *_: None)
    app = Large()
    with (
        serving(app, **within(request=0.5, answer=0.5), channel_timeout=1) as port,
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
        assert not app.left.acquire(timeout=0)
