"""The event loop with small apps: isolation of calls, slow predictions, the header cache, equality with waitress."""

import json
import os
import re
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from http.client import HTTPConnection

import pytest
from flask import Flask, g, request

from flaskml.codecs.rows import Rows
from flaskml.errors import UnsupportedWaitress
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.server.addresses import open_unix_socket
from flaskml.server.connection import RESET_ON_CLOSE
from flaskml.server.header_cache import MAX_CACHED_BLOCK_BYTES, MAX_CACHED_BLOCKS, HeaderCache
from flaskml.server.http_parser import CACHED_ATTRIBUTES, RequestParser
from flaskml.server.policy import ServerPolicy
from flaskml.server.setup import build_server, check_waitress
from tests.support.in_process_servers import event_loop_server, waitress_server

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))


def double(table, _):
    if (table < 0).any():
        raise ValueError("a negative value")
    return table[:, 0] * 2


def get(port, path, **headers):
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()


def run_in_threads(count, function):
    """Call `function(index)` in `count` threads at once; raise the first error."""
    errors = []

    def run(index):
        try:
            function(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def doubling_app():
    """Return an app that predicts the double of a number, twice, and checks that it stays in its own request."""
    app = Flask(__name__)
    batcher = Batcher(double, TABLE_BUILDER.build, ["predict"])

    @app.get("/<float(signed=True):value>")
    def double_twice(value):
        g.value, mark = value, request.headers["Mark"]
        predictions = []
        for _ in range(2):
            predictions += batcher.ask(Rows([(value,)], TABLE_BUILDER, is_single=True), "predict").tolist()
            assert g.value == value and request.headers["Mark"] == mark
        return {"predictions": predictions, "mark": mark}

    @app.get("/healthy")
    def healthy():
        return "yes"

    return app


def test_concurrent_calls_are_isolated():
    with event_loop_server(doubling_app()) as port:

        def send_requests(index):
            with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                for turn in range(20):
                    value, mark = float(index * 100 + turn), f"{index} {turn}"
                    connection.request("GET", f"/{value}", headers={"Mark": mark})
                    response = connection.getresponse()
                    assert response.status == 200
                    assert response.read() == expected_body(value, mark)

        run_in_threads(16, send_requests)


def expected_body(value, mark):
    return f'{{"mark":"{mark}","predictions":[{2 * value},{2 * value}]}}\n'.encode()


def test_a_row_that_the_estimator_refuses_fails_alone():
    with event_loop_server(doubling_app()) as port:

        def send_request(index):
            value = -1.0 if index % 4 == 0 else float(index)
            status, body = get(port, f"/{value}", Mark="m")
            assert status == (500 if value < 0 else 200)
            assert value < 0 or f"[{2 * value},{2 * value}]".encode() in body

        for _ in range(5):
            run_in_threads(12, send_request)


def descriptor_holding_app(held):
    """Return an app that duplicates the socket of its connection into `held`, as a fork does."""
    app = Flask(__name__)
    app.add_url_rule("/healthy", view_func=lambda: "yes", endpoint="healthy")

    @app.get("/hold")
    def hold():
        for fd in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):  # Some descriptors are not sockets, or not connected ones.
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with closing(socket.socket(fileno=os.dup(fd))) as duplicate:
                        if duplicate.getpeername()[1] == int(request.environ["REMOTE_PORT"]):
                            held.append(duplicate.dup())
                            return "held"
        raise AssertionError("the connection was not found")

    return app


def test_a_closed_connection_leaves_epoll_while_a_child_holds_it():
    with event_loop_server(descriptor_holding_app(held := [])) as port:
        for _ in range(5):
            assert get(port, "/hold") == (200, b"held")
            for _ in range(5):  # These connections get the closed descriptor's number.
                assert get(port, "/healthy") == (200, b"yes")
        assert len(held) == 5
        for duplicate in held:
            duplicate.close()


def test_requests_are_served_after_the_connection_limit_was_reached():
    with event_loop_server(doubling_app(), connection_limit=6) as port:
        for _ in range(3):
            with ExitStack() as held:
                for _ in range(8):
                    held.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
                time.sleep(0.1)
            assert get(port, "/healthy") == (200, b"yes")


def reset_after(port, content):
    """Send bytes on a new connection and reset it at once, in the middle of what the server does with them."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    client.sendall(content)
    client.close()


@pytest.mark.parametrize("count", [50, pytest.param(2_000, marks=pytest.mark.gauntlet)])
def test_connections_that_are_reset_at_any_time_affect_no_other(count):
    """A request behind another one waits for 100 (Continue), which a thread sends when it has served the first one."""
    first = b"GET /1.0 HTTP/1.1\r\nHost: h\r\nMark: m\r\n\r\n"
    second = b"POST /healthy HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    with event_loop_server(doubling_app()) as port, closing(HTTPConnection("127.0.0.1", port, timeout=20)) as honest:

        def send_requests(index):
            for turn in range(count):
                if index:
                    reset_after(port, first + second)
                else:
                    honest.request("GET", f"/{float(turn)}", headers={"Mark": "honest"})
                    assert honest.getresponse().read() == expected_body(float(turn), "honest")

        run_in_threads(12, send_requests)


def test_more_requests_than_threads_are_served():
    count = 6 * ServerPolicy().threads
    with event_loop_server(doubling_app()) as port:
        responses = {}

        def send_request(index):
            responses[index] = get(port, f"/{float(index)}", Mark="m")

        run_in_threads(count, send_request)
    assert responses == {index: (200, expected_body(float(index), "m")) for index in range(count)}


def echo_app(environ, start_response):
    """Answer with a part of the WSGI environment and the body of the request."""
    body = environ["wsgi.input"].read()
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL", "SCRIPT_NAME", "REQUEST_URI",
             "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_X_ONE", "wsgi.url_scheme", "REMOTE_ADDR")  # fmt: skip
    content = repr([(name, environ.get(name)) for name in names]).encode() + body
    if environ["PATH_INFO"] == "/empty":
        start_response("204 No Content", [])
        return []
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError
    if environ["PATH_INFO"] == "/parts":
        start_response("200 OK", [("X-Kind", "parts")])
        return iter([content[:5], content[5:]])
    start_response(
        "200 OK", [("Content-Length", str(len(content))), ("x-kind", "whole"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
    )
    return [content]


RAW = {
    "get": b"GET /a%20b//c?x=1&y=%20 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-One: 2\r\nX_One: 3\r\n\r\n",
    "post": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/1.0 keep-alive": b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    "Connection: close": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    "empty": b"GET /empty HTTP/1.1\r\nHost: h\r\n\r\n",
    "parts": b"GET /parts HTTP/1.1\r\nHost: h\r\n\r\n",
    "parts with HTTP/1.0": b"GET /parts HTTP/1.0\r\n\r\n",
    "fail": b"GET /fail HTTP/1.1\r\nHost: h\r\n\r\n",
    "expect": b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "absolute form": b"GET http://h/p?q HTTP/1.1\r\nHost: h\r\n\r\n",
    "slashes": b"GET ///a//b HTTP/1.1\r\nHost: h\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    "bad length": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "unsupported coding": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: h\nX-One: 1\r\n\r\n",
    "nonsense": b"nonsense\r\n\r\n",
    "large header": b"GET / HTTP/1.1\r\nHost: h\r\nX-One: " + b"x" * 300_000 + b"\r\n\r\n",
}


def exchange(port, content):
    """Return whether the server closed the connection or sent 100, and its response with sorted headers."""
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(content)
        client.settimeout(1)
        received = b""
        try:
            while part := client.recv(2**16):
                received += part
            end = "closed"
        except TimeoutError:
            end = "open"
        except ConnectionResetError:
            end = "closed"
    has_continue = received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = received.rpartition(b"\r\n\r\n") if b"/parts" in content else received.partition(b"\r\n\r\n")
    if re.match(rb"HTTP/1.. (4..|501) ", head):  # The servers word errors differently.
        return end, has_continue, [head[:12].replace(b"1.0", b"1.1")], b""
    lines = sorted(re.sub(rb"(?i)^date: .*", b"date", line).lower() for line in head.split(b"\r\n"))
    return end, has_continue, lines, body


def test_requests_and_responses_equal_those_of_waitress():
    options = {"ident": "flaskml", "max_request_header_size": 16_384}
    with event_loop_server(echo_app) as event_loop_port, waitress_server(echo_app, **options) as waitress_port:

        def exchange_all(port):
            with ThreadPoolExecutor(len(RAW)) as clients:
                return dict(zip(RAW, clients.map(partial(exchange, port), RAW.values()), strict=True))

        expected = exchange_all(waitress_port)
        del expected["fail"]
        for _ in range(2):  # In the second round, the header blocks are cached.
            exchanged = exchange_all(event_loop_port)
            _, _, lines, body = exchanged.pop("fail")  # The event loop answers with a problem (RFC 9457).
            assert b"content-type: application/problem+json" in lines and json.loads(body)["status"] == 500
            assert exchanged == expected


def test_the_header_cache_is_bounded():
    cache = HeaderCache()
    for number in range(10 * MAX_CACHED_BLOCKS):
        cache.put(str(number).encode(), {"number": number})
        assert cache.get(b"0") == {"number": 0}, "a block that is read often stays cached"
    cache.put(b"x" * (MAX_CACHED_BLOCK_BYTES + 1), {})
    assert len(cache) <= 4 * MAX_CACHED_BLOCKS + 2 and cache.get(b"x" * (MAX_CACHED_BLOCK_BYTES + 1)) is None


def test_header_cache_eviction_changes_no_response():
    with event_loop_server(echo_app) as port, closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        for number in range(3 * MAX_CACHED_BLOCKS):
            for value in (f"new {number}", "usual"):
                connection.request("GET", "/", headers={"X-One": value})
                assert f"('HTTP_X_ONE', '{value}')".encode() in connection.getresponse().read()
        assert len(RequestParser.header_cache) <= 4 * MAX_CACHED_BLOCKS + 2
        cached = len(RequestParser.header_cache)
        for name in ("bad header", "bad length", "two lengths", "unsupported coding", "bare line feed", "nonsense"):
            refused = RAW[name].replace(b"\r\n\r\n", b"\r\nX-New: 1\r\n\r\n", 1)
            assert exchange(port, refused)[2] in ([b"HTTP/1.1 400"], [b"HTTP/1.1 501"]), name
        assert len(RequestParser.header_cache) == cached, "refused blocks are not cached"


BLOCKS = {
    "request id": b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: %s\r\nAccept: */*\r\n\r\n",
    "two fields": b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nX-A: %s\r\nx-b:%s\t\r\nX-C:c\r\n\r\n",
    "repeated field": b"GET / HTTP/1.1\r\nHost: h\r\nX-A: %s\r\nx-a: b\r\n\r\n",
    "repeated field, both values new": b"GET / HTTP/1.1\r\nHost: h\r\nX-A: %s\r\nx-a: %s\r\n\r\n",
    "Host": b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n",
    "Content-Length": b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: %s\r\n\r\n",
    "Connection": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: %s\r\n\r\n",
    "path": b"GET /%s HTTP/1.1\r\nHost: h\r\nX-A: %s\r\n\r\n",
    "client timeout": b"GET / HTTP/1.1\r\nHost: h\r\nX-Envoy-Expected-Rq-Timeout-Ms: %s\r\n\r\n",
    "underscore in the name": b"GET / HTTP/1.1\r\nHost: h\r\nX_A: %s\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %%s\r\n" % n for n in range(9)) + b"\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nX-A: %s\r\n\r\n",
}
"""Header blocks in which values vary."""

VALUES = (b"1", b"2", b"close", b"3", b"", b"  4 ", b"a, b", b"5:6", b"\xe9", b"7")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_derived_from_a_similar_one_equals_the_parsed_block(name):
    server = build_server(echo_app, port=0)
    try:
        cache, derived = HeaderCache(), 0
        for value in VALUES:
            block = BLOCKS[name].replace(b"%s", value)
            derived += cache.get(block) is not None
            assert parsed(server.adj, block, cache) == parsed(server.adj, block, HeaderCache())
        assert derived == (len(VALUES) - 2 if name in ("request id", "two fields", "HTTP/1.0") else 0)
    finally:
        server.close()


def parsed(adj, block, cache):
    """Return the attributes of the parser of a block, and its error."""
    parser = type("Parsing", (RequestParser,), {"header_cache": cache})(adj)
    parser.received(block)
    values = {name: getattr(parser, name, None) for name in (*CACHED_ATTRIBUTES, "chunked", "expect_continue")}
    return {**values, "first_line": None}, getattr(parser.error, "body", None)


def test_the_cache_keeps_nothing_of_the_request_that_brought_a_block():
    server = build_server(echo_app, port=0)
    try:
        cache = HeaderCache()
        parsing = type("Parsing", (RequestParser,), {"header_cache": cache})
        first = parsing(server.adj)
        first.received(RAW["post"][:20])
        first.has_started = True
        rest = RAW["post"][20:]
        while rest:
            rest = rest[first.received(rest) :]
        assert first.completed
        second = parsing(server.adj)
        second.received(RAW["post"][:-5])
        assert not second.completed and not second.has_started and second.body_rcv is not first.body_rcv
    finally:
        server.close()


def test_another_major_version_of_waitress_is_refused(monkeypatch):
    monkeypatch.setattr("flaskml.server.setup.version", lambda _: "4.0.0")
    with pytest.raises(UnsupportedWaitress, match=r"waitress 4\.0\.0 is installed"):
        check_waitress()


def test_stopping_a_closed_loop_writes_to_no_descriptor():
    servers = []

    def run():
        servers.append(build_server(echo_app, port=0))
        servers[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    while not servers:
        time.sleep(0.01)
    servers[0].stop()
    thread.join(20)
    assert not thread.is_alive()
    servers[0].stop()
    servers[0].wake()


def test_a_unix_socket_is_served(tmp_path):
    path = str(tmp_path / "s")
    servers, ready = [], threading.Event()

    def run():
        servers.append(build_server(echo_app, listening_socket=open_unix_socket(path)))
        ready.set()
        servers[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(path)
        client.sendall(RAW["post"])
        client.settimeout(10)
        assert b"hello" in client.recv(2**16)
    servers[0].stop()
    thread.join(20)
    assert not thread.is_alive()
