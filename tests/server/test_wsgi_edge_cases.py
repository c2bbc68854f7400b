"""Edge cases of WSGI that both servers handle alike: failures, slow clients, large bodies, pipelining."""

import hashlib
import socket
import struct
import threading
from contextlib import closing
from http.client import HTTPConnection

import pytest
from flask import Flask, request

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import SERVERS_IN_THREADS

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))

LARGE = bytes(range(256)) * 2**13
"""2 MiB."""

PARTS = [bytes([number]) * 2**20 for number in range(40)]
"""40 MiB: more than waitress's high watermark of 16 MiB and the socket buffers together."""


class EdgeCaseApp:
    """An app with a view per edge case, and what its views record."""

    def __init__(self):
        self.app = Flask(__name__)
        self.sizes = []
        self.yielded = 0
        """Number of parts that `large` has yielded."""

        self.batcher = Batcher(self.double, TABLE_BUILDER.build, ["predict"])
        self.begun, self.release, self.closed = threading.Event(), threading.Event(), threading.Event()
        for path in ("healthy", "twice", "wait", "large", "parts", "fail", "fail-late", "fail-in-parts"):
            self.app.add_url_rule(f"/{path}", path, getattr(self, path.replace("-", "_")))
        self.app.post("/digest")(self.digest)

    def double(self, table, _):
        self.sizes.append(len(table))
        if (table < 0).any():
            raise ValueError("a negative value")
        return table[:, 0] * 2

    def twice(self, value=None):
        """Return the prediction for the value; the estimator raises for a negative value."""
        value = float(request.args["of"]) if value is None else value
        return f"{self.batcher.ask(Rows([(value,)], TABLE_BUILDER, is_single=True), 'predict')[0]} "

    def healthy(self):
        return "yes"

    def digest(self):
        return self.twice(2.0) + hashlib.sha256(request.get_data()).hexdigest()

    def wait(self):
        self.begun.set()
        return str(self.release.wait(20))

    def large(self):
        try:
            for part in PARTS:
                self.yielded += 1
                yield part
        finally:
            self.closed.set()

    def parts(self):
        for number in range(5):
            yield self.twice(float(number))

    def fail(self):
        raise RuntimeError

    def fail_late(self):
        self.twice(1.0)
        raise RuntimeError

    def fail_in_parts(self):
        yield self.twice(1.0)
        raise RuntimeError


@pytest.fixture
def edge_cases():
    app = EdgeCaseApp()
    yield app
    app.release.set()


@pytest.fixture(params=SERVERS_IN_THREADS)
def port(request, edge_cases):
    with SERVERS_IN_THREADS[request.param](edge_cases.app) as port:
        yield port
        edge_cases.release.set()


def connect(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    return closing(connection)


def request_bytes(path, method="GET", *, body=b"", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def read_all(client):
    """Return all bytes until the server closes the connection."""
    received = bytearray()
    while part := client.recv(2**20):
        received += part
    return bytes(received)


def get(port, path):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def is_healthy(port):
    """Return whether the server answers a health check and a prediction."""
    return get(port, "/healthy") == (200, b"yes") and get(port, "/twice?of=3") == (200, b"6.0 ")


DIGEST = b"4.0 " + hashlib.sha256(LARGE).hexdigest().encode()
IN_PARTS = b"0.0 2.0 4.0 6.0 8.0 "


def test_requests_on_one_connection_are_answered_in_order(port):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(3):
            for method, path, body, expected in (
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
                response = connection.getresponse()
                status, content = response.status, response.read()
                assert (status, content if expected[1] else None) == expected, path


def test_pipelined_requests_are_answered_in_order(port):
    requests = [request_bytes(f"/twice?of={number}") for number in range(20)]
    requests[5], requests[9] = request_bytes("/digest", "POST", body=LARGE), request_bytes("/fail-late")
    expected = [f"{2.0 * number} ".encode() for number in range(20)]
    expected[5], expected[9] = DIGEST, b"<h1>Internal Server Error</h1>"
    with connect(port) as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join([*requests, request_bytes("/parts")]),))
        sender.start()
        received = read_all(client)
        sender.join()
    position = 0
    for part in expected:
        position = received.index(b"\r\n\r\n", position)
        position = received.index(part, position) + len(part)
    assert received.count(b"HTTP/1.1 ") == 21
    assert b"".join(received[position:].partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]) == IN_PARTS


def test_a_failing_generator_truncates_its_response_and_no_other(port):
    with connect(port) as client:
        client.sendall(request_bytes("/fail-in-parts") + request_bytes("/healthy"))
        received = read_all(client)
    assert b"2.0 \r\n" in received and b"\r\n0\r\n" not in received and b"yes" not in received
    assert is_healthy(port)


def test_a_slow_upload_blocks_no_other_client(port):
    with connect(port) as client:
        content = request_bytes("/digest", "POST", body=LARGE, version="1.0")
        for start in range(0, len(content), 2**17):
            client.sendall(content[start : start + 2**17])
            assert get(port, "/healthy") == (200, b"yes")
        assert read_all(client).endswith(DIGEST)


@pytest.mark.parametrize("path", ["/large", "/wait"])
@pytest.mark.parametrize("end", ["closes", "resets"])
def test_a_client_that_disconnects_affects_no_other(port, edge_cases, path, end):
    with connect(port) as client:
        client.sendall(request_bytes(path))
        if path == "/wait":
            assert edge_cases.begun.wait(20)
        else:
            client.recv(10)
        if end == "resets":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert is_healthy(port)
    edge_cases.release.set()
    if path == "/large":
        assert edge_cases.closed.wait(20), "the generator of the response is closed"
    assert is_healthy(port)


def test_a_slow_reader_gets_everything_and_blocks_no_other_client(port, edge_cases):
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        connection.request("GET", "/large")
        response = connection.getresponse()
        assert response.read(10) == PARTS[0][:10]
        for _ in range(10):
            assert is_healthy(port)
        assert edge_cases.yielded < len(PARTS), (
            "the response is generated no faster than the client reads (backpressure)"
        )
        assert response.read() == b"".join(PARTS)[10:]
