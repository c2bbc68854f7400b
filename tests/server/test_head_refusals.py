"""A response to HEAD has no body (RFC 9110, section 9.3.2), also if the request is refused before it is parsed."""

import socket
import time
from contextlib import closing

import pytest

from flaskml.server.policy import Deadlines, ServerPolicy
from tests.support.doubling import flask_app
from tests.support.http_corpus import request
from tests.support.in_process_servers import event_loop_server


def head(*headers, target=b"/livez", version=b"1.1", **options):
    return request(*headers, start=b"HEAD %b HTTP/%b" % (target, version), **options)


REFUSED = {
    "no host": (400, [head(host=b"")]),
    "two hosts": (400, [head(b"Host: a")]),
    "a fragment": (400, [head(target=b"/livez#a")]),
    "an empty line before": (400, [b"\r\n" + head(host=b"")]),
    "a control character": (400, [b"HEAD /livez HTTP/1.1\r\nX: \x00"]),
    "in pieces": (400, [b"\r", b"\nHE", b"AD /livez HTTP/1.1\r\nHost: h\r\n", b"X: \x00"]),
    "an unsupported version": (505, [head(version=b"9.9")]),
    "an unsupported coding": (501, [head(b"Transfer-Encoding: gzip")]),
    "a long target": (414, [head(target=b"/" + b"a" * 8_192)]),
    "a long header": (431, [head(b"X: " + b"a" * 17_000)]),
    "a long header in pieces": (431, [b"HEAD /livez HTTP/1.1\r\nHost: h\r\nX: ", b"a" * 17_000]),
    "a long body": (413, [head(b"Content-Length: 999999999999")]),
    "a faulty chunk": (400, [head(b"Transfer-Encoding: chunked"), b"HEAD \r\n"]),
    "a slow request": (408, [b"HEAD /livez HTTP/1.1\r\n"]),
}
"""Refused requests: the status, and the pieces that are sent."""


@pytest.fixture(scope="module")
def port():
    app = flask_app(None)
    del app.extensions["direct"]
    policy = ServerPolicy(deadlines=Deadlines(request_seconds=1))
    with event_loop_server(app, policy=policy) as port:
        yield port


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_only_a_refusal_of_head_has_no_body(port, name, method):
    status, pieces = REFUSED[name]
    pieces = [piece.replace(b"HEAD /", method + b" /") for piece in pieces]
    if method == b"GET" and name == "in pieces":
        pieces = [b"GE", b"T /livez HTTP/1.1\r\nX: \x00"]
    with closing(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        start, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
    assert start.split()[1] == b"%d" % status and b"\r\nContent-Length: " in start
    assert (body == b"") == (method == b"HEAD")
