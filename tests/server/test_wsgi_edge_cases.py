"""What is hard for a server, of both servers: each does the same."""

import hashlib
import socket
import struct
import threading
from contextlib import closing
from http.client import HTTPConnection

import pytest
from flask import Flask, request

from flaskml.codecs.parser import Rows
from flaskml.inference.batching import Batcher, lane
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import IN_THREADS, serving

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))

LARGE = bytes(range(256)) * 2**13
"""2 MiB."""

PARTS = [bytes([number]) * 2**20 for number in range(40)]
"""More than the high watermark of waitress, 16 MiB, and what sockets hold."""


class Hard:
    """An app, and what tests have to see of it."""

    def __init__(self):
        self.app = Flask(__name__)
        self.sizes = []
        self.made = 0
        self.batcher = Batcher(self.double, TABLE_BUILDER.build, ["predict"])
        self.begun, self.release, self.closed = threading.Event(), threading.Event(), threading.Event()
        for path in ("healthy", "twice", "stall", "wait", "large", "parts", "fail", "fail-late", "fail-in-parts"):
            self.app.add_url_rule(f"/{path}", path, getattr(self, path.replace("-", "_")))
        self.app.post("/digest")(self.digest)

    def double(self, table, _):
        self.sizes.append(len(table))
        if (table < 0).any():
            raise ValueError("a negative value")
        return table[:, 0] * 2

    def twice(self, value=None):
        """What is asked for, in whatever batch; a number below zero is refused."""
        value = float(request.args["of"]) if value is None else value
        return f"{self.batcher.ask(Rows([(value,)], TABLE_BUILDER, is_single=True), 'predict')[0]} "

    def healthy(self):
        return "yes"

    def digest(self):
        return self.twice(2.0) + hashlib.sha256(request.get_data()).hexdigest()

    def stall(self):
        """Holds up its thread."""
        self.begun.set()
        return str(self.release.wait(20))

    def wait(self):
        """Waits without holding up anybody."""
        self.begun.set()
        return str(lane.get().apart(lambda: self.release.wait(20)))

    def large(self):
        try:
            for part in PARTS:
                self.made += 1
                yield part
        finally:
            self.closed.set()

    def parts(self):
        for number in range(5):
            lane.get().apart(lambda: None)
            yield self.twice(float(number))

    def fail(self):
        raise RuntimeError

    def fail_late(self):
        self.twice(1.0)
        lane.get().apart(lambda: None)
        raise RuntimeError

    def fail_in_parts(self):
        yield self.twice(1.0)
        lane.get().apart(lambda: None)
        raise RuntimeError


@pytest.fixture
def hard():
    found = Hard()
    yield found
    found.release.set()


@pytest.fixture(params=IN_THREADS)
def port(request, hard):
    with IN_THREADS[request.param](hard.app) as port:
        yield port
        hard.release.set()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    return closing(connection)


def line(path, method="GET", *, body=b"", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def all_of(client):
    """What comes until the server closes."""
    received = bytearray()
    while part := client.recv(2**20):
        received += part
    return bytes(received)


def get(port, path):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def is_well(port):
    return get(port, "/healthy") == (200, b"yes") and get(port, "/twice?of=3") == (200, b"6.0 ")


DIGEST = b"4.0 " + hashlib.sha256(LARGE).hexdigest().encode()
IN_PARTS = b"0.0 2.0 4.0 6.0 8.0 "


def test_one_connection_is_answered_in_order_whatever_it_asks(port):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(3):
            for method, path, body, wanted in (
                ("GET", "/twice?of=3", None, (200, b"6.0 ")),
                ("POST", "/digest", LARGE, (200, DIGEST)),
                ("GET", "/fail", None, (500, None)),
                ("GET", "/parts", None, (200, IN_PARTS)),
                ("GET", "/fail-late", None, (500, None)),
                ("GET", "/nowhere", None, (404, None)),
                ("GET", "/twice?of=-1", None, (500, None)),
                ("GET", "/healthy", None, (200, b"yes")),
            ):
                connection.request(method, path, body)
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
                assert (status, content if wanted[1] else None) == wanted, path


def test_all_of_it_in_one_packet_is_answered_in_order(port):
    asked = [line(f"/twice?of={number}") for number in range(20)]
    asked[5], asked[9] = line("/digest", "POST", body=LARGE), line("/fail-late")
    wanted = [f"{2.0 * number} ".encode() for number in range(20)]
    wanted[5], wanted[9] = DIGEST, b"<h1>Internal Server Error</h1>"
    with connect(port) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join([*asked, line("/parts")]),))
        sender.start()
        received = all_of(client)
        sender.join()
    position = 0
    for part in wanted:
        position = received.index(b"\r\n\r\n", position)
        position = received.index(part, position) + len(part)
    assert received.count(b"HTTP/1.1 ") == 21
    assert b"".join(received[position:].partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]) == IN_PARTS


def test_what_fails_amid_its_parts_is_cut_and_harms_nobody(port):
    with connect(port) as client:
        client.sendall(line("/fail-in-parts") + line("/healthy"))
        received = all_of(client)
    assert b"2.0 \r\n" in received and b"\r\n0\r\n" not in received and b"yes" not in received
    assert is_well(port)


def test_a_large_body_that_comes_slowly(port):
    with connect(port) as client:
        content = line("/digest", "POST", body=LARGE, version="1.0")
        for start in range(0, len(content), 2**17):
            client.sendall(content[start : start + 2**17])
            assert get(port, "/healthy") == (200, b"yes")
        assert all_of(client).endswith(DIGEST)


@pytest.mark.parametrize("path", ["/large", "/wait"])
@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_client_that_leaves_harms_nobody(port, hard, path, end):
    with connect(port) as client:
        client.sendall(line(path))
        if path == "/wait":
            assert hard.begun.wait(20)
        else:
            client.recv(10)
        if end == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_well(port)
    hard.release.set()
    if path == "/large":
        assert hard.closed.wait(20), "what makes the parts is told that nobody wants them"
    assert is_well(port)


def test_a_client_that_reads_slowly_holds_up_nobody_and_gets_everything(port, hard):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.request("GET", "/large")
        answer = connection.getresponse()
        assert answer.read(10) == PARTS[0][:10]
        for _ in range(10):
            assert is_well(port)
        assert hard.made < len(PARTS), "no more is made than there is room for"
        assert answer.read() == b"".join(PARTS)[10:]


def test_a_batch_that_fails_fails_for_whom_it_must(hard):
    values = [-1.0 if number % 5 == 2 else float(number) for number in range(10)]
    with serving(hard.app) as port, connect(port) as first:
        first.sendall(line("/stall"))
        assert hard.begun.wait(20)
        clients = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in values]
        for client, value in zip(clients, values, strict=True):
            client.sendall(line(f"/twice?of={value}", version="1.0"))
        hard.release.set()  # Now all of them have come, and start in one turn.
        for client, value in zip(clients, values, strict=True):
            with closing(client):
                received = all_of(client)
            if value < 0:
                assert b" 500 " in received
            else:
                assert received.endswith(f"\r\n\r\n{2 * value} ".encode())
        assert max(hard.sizes) > 5 and hard.sizes.count(1) >= len(values)
        assert is_well(port)
