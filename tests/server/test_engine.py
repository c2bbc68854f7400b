"""The engine with small apps that do what is hard for it, beside waitress itself."""

import json
import os
import re
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from contextvars import ContextVar
from functools import partial
from http.client import HTTPConnection

import pytest
from flask import Flask, g, request

from flaskml.codecs.parser import Rows
from flaskml.errors import EngineUnavailable
from flaskml.inference.batching import Batcher, lane
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.server.engine import build_server, check_waitress
from tests.support.in_process_servers import plainly_serving, serving

pytest.importorskip("greenlet")

from flaskml.server.http_parser import MAX_CACHED_BLOCK_BYTES, MAX_CACHED_BLOCKS, HeaderCache, RequestParser

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))
SPARE = ContextVar("spare", default="clean")


def double(table, _):
    if (table < 0).any():
        raise ValueError("a negative value")
    return table[:, 0] * 2


def get(port, path, **headers):
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def at_once(count, ask):
    """Calls `ask` with each number from as many threads; what any of them raises is raised."""
    errors = []

    def run(index):
        try:
            ask(index)
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


def asking():
    """An app that asks for the double of a number, twice, and looks whether it is still in its own request."""
    app = Flask(__name__)
    batcher = Batcher(double, TABLE_BUILDER.build, ["predict"])

    @app.get("/<float(signed=True):value>")
    def twice(value):
        assert SPARE.get() == "clean"
        SPARE.set(f"leaked {value}")
        g.value, mark = value, request.headers["Mark"]
        answers = []
        for _ in range(2):
            answers += batcher.ask(Rows([(value,)], TABLE_BUILDER, is_single=True), "predict").tolist()
            lane.get().apart(lambda: None)
            assert g.value == value and request.headers["Mark"] == mark and SPARE.get() == f"leaked {value}"
        return {"answers": answers, "mark": mark}

    @app.get("/healthy")
    def healthy():
        return "yes"

    return app


def test_calls_that_wait_keep_to_themselves():
    with serving(asking()) as port:

        def ask(index):
            with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                for turn in range(20):
                    value = float(index * 100 + turn)
                    connection.request("GET", f"/{value}", headers={"Mark": f"{index} {turn}"})
                    answer = connection.getresponse()
                    assert answer.status == 200
                    assert (
                        answer.read() == f'{{"answers":[{2 * value},{2 * value}],"mark":"{index} {turn}"}}\n'.encode()
                    )

        at_once(16, ask)


def test_what_an_estimator_refuses_fails_alone():
    with serving(asking()) as port:

        def ask(index):
            value = -1.0 if index % 4 == 0 else float(index)
            status, body = get(port, f"/{value}", Mark="m")
            assert status == (500 if value < 0 else 200)
            assert value < 0 or f"[{2 * value},{2 * value}]".encode() in body

        for _ in range(5):
            at_once(12, ask)


def waiting(release):
    """An app with a view that waits for an event in a thread, and one whose prediction does."""
    app = Flask(__name__)

    def compute(table, _):
        release.wait(20)
        return table[:, 0]

    batcher = Batcher(compute, TABLE_BUILDER.build, ["predict"])
    batcher.costs["predict"].note(1, 1.0)  # It is known to be slow.
    app.add_url_rule("/healthy", view_func=lambda: "yes", endpoint="healthy")
    app.add_url_rule("/wait", view_func=lambda: str(lane.get().apart(lambda: release.wait(20))), endpoint="wait")
    app.add_url_rule(
        "/predict",
        view_func=lambda: str(batcher.ask(Rows([(1.0,)], TABLE_BUILDER, is_single=True), "predict")),
        endpoint="predict",
    )
    app.add_url_rule("/fail", view_func=lambda: lane.get().apart(lambda: 1 / 0), endpoint="fail")
    return app


@pytest.mark.parametrize(("path", "answer"), [("/wait", b"True"), ("/predict", b"[1.]")])
def test_what_takes_long_holds_up_nobody(path, answer):
    release, answers = threading.Event(), []
    with serving(waiting(release)) as port:
        threads = [threading.Thread(target=lambda: answers.append(get(port, path))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            assert get(port, "/healthy") == (200, b"yes")
        assert not answers
        release.set()
        for thread in threads:
            thread.join(20)
    assert answers == [(200, answer)] * 3


def slow(calls):
    """An app that asks for as many rows as the path says; each takes 1 ms, and a call 20 ms besides."""
    app = Flask(__name__)

    def compute(table, _):
        calls.append(len(table))
        time.sleep(0.02 + 0.001 * len(table))
        return table[:, 0]

    batcher = Batcher(compute, TABLE_BUILDER.build, ["predict"])
    for count in (1, 2, 32, 1_024):
        batcher.costs["predict"].note(count, 0.02 + 0.001 * count)

    @app.get("/<int:rows>")
    def ask(rows):
        return str(len(batcher.ask(Rows([(1.0,)] * rows, TABLE_BUILDER, is_single=False), "predict")))

    return app


def test_a_row_does_not_wait_for_thousands():
    calls = []
    with serving(slow(calls)) as port:
        large = threading.Thread(target=get, args=(port, "/2000"))
        large.start()
        while not calls:
            time.sleep(0.01)
        begun = time.monotonic()
        assert get(port, "/1") == (200, b"1")
        assert large.is_alive() and time.monotonic() - begun < 1
        large.join()


def test_clients_of_what_is_slow_come_to_share_all_their_calls():
    calls = []
    with serving(slow(calls)) as port:

        def ask(_):
            with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                for _ in range(20):
                    connection.request("GET", "/1")
                    assert connection.getresponse().read() == b"1"

        at_once(8, ask)
    assert sum(calls) == 160 and len(calls) < 60


def test_what_a_thread_raises_is_raised_in_its_call():
    with serving(waiting(threading.Event())) as port:
        assert get(port, "/fail")[0] == 500 and get(port, "/healthy")[0] == 200


def holding(held):
    """An app that keeps the descriptor of its connection open, as a process does that was forked just now."""
    app = Flask(__name__)
    app.add_url_rule("/healthy", view_func=lambda: "yes", endpoint="healthy")

    @app.get("/hold")
    def hold():
        for fd in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):  # Not each is a socket, or of a connection.
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with closing(socket.socket(fileno=os.dup(fd))) as found:
                        if found.getpeername()[1] == int(request.environ["REMOTE_PORT"]):
                            held.append(found.dup())
        return "held"

    return app


def test_a_connection_that_a_child_still_holds_is_forgotten():
    with serving(holding(held := [])) as port:
        for _ in range(5):
            assert get(port, "/hold") == (200, b"held")
            for _ in range(5):  # They get the number of the descriptor that was closed.
                assert get(port, "/healthy") == (200, b"yes")
        assert len(held) == 5
        for found in held:
            found.close()


def test_after_the_limit_of_connections_others_are_served():
    with serving(asking(), connection_limit=6) as port:
        for _ in range(3):
            with ExitStack() as held:
                for _ in range(8):
                    held.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
                time.sleep(0.1)
            assert get(port, "/healthy") == (200, b"yes")


def test_more_calls_than_start_in_a_turn():
    with serving(asking()) as port:
        at_once(150, lambda index: get(port, f"/{float(index)}", Mark="m"))


def echo(environ, start_response):
    """Tells what it was given."""
    body = environ["wsgi.input"].read()
    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL", "SCRIPT_NAME", "REQUEST_URI",
             "CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_HOST", "HTTP_X_ONE", "wsgi.url_scheme", "REMOTE_ADDR")  # fmt: skip
    told = repr([(name, environ.get(name)) for name in names]).encode() + body
    if environ["PATH_INFO"] == "/empty":
        start_response("204 No Content", [])
        return []
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError
    if environ["PATH_INFO"] == "/parts":
        start_response("200 OK", [("X-Kind", "parts")])
        return iter([told[:5], told[5:]])
    start_response(
        "200 OK", [("Content-Length", str(len(told))), ("x-kind", "whole"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
    )
    return [told]


RAW = {
    "get": b"GET /a%20b//c?x=1&y=%20 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-One: 2\r\nX_One: 3\r\n\r\n",
    "post": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    "chunked": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n\r\n",
    "old and kept": b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
    "closing": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "head": b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
    "empty": b"GET /empty HTTP/1.1\r\nHost: h\r\n\r\n",
    "parts": b"GET /parts HTTP/1.1\r\nHost: h\r\n\r\n",
    "parts, old": b"GET /parts HTTP/1.0\r\n\r\n",
    "fail": b"GET /fail HTTP/1.1\r\nHost: h\r\n\r\n",
    "expect": b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "absolute": b"GET http://h/p?q HTTP/1.1\r\nHost: h\r\n\r\n",
    "slashes": b"GET ///a//b HTTP/1.1\r\nHost: h\r\n\r\n",
    "bad header": b"GET / HTTP/1.1\r\nHost : h\r\n\r\n",
    "bad length": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "odd coding": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\nHost: h\nX-One: 1\r\n\r\n",
    "nonsense": b"nonsense\r\n\r\n",
    "large header": b"GET / HTTP/1.1\r\nHost: h\r\nX-One: " + b"x" * 300_000 + b"\r\n\r\n",
}


def exchange(port, content):
    """What comes back until the server closes or has nothing to say, with headers in one order."""
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.sendall(content)
        client.settimeout(1)
        received = b""
        try:
            while part := client.recv(2**16):
                received += part
            end = "closed"
        except TimeoutError:
            end = "kept"
        except ConnectionResetError:
            end = "closed"
    went_on = received.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = received.rpartition(b"\r\n\r\n") if b"/parts" in content else received.partition(b"\r\n\r\n")
    if re.match(rb"HTTP/1.. (4..|501) ", head):  # What is wrong each server tells in its own words.
        return end, went_on, [head[:12].replace(b"1.0", b"1.1")], b""
    lines = sorted(re.sub(rb"(?i)^date: .*", b"date", line).lower() for line in head.split(b"\r\n"))
    return end, went_on, lines, body


def test_what_is_received_and_sent_is_as_on_waitress():
    with serving(echo) as ours, plainly_serving(echo, ident="flaskml", max_request_header_size=16_384) as theirs:

        def exchanged(port):
            with ThreadPoolExecutor(len(RAW)) as clients:
                return dict(zip(RAW, clients.map(partial(exchange, port), RAW.values()), strict=True))

        wanted = exchanged(theirs)
        del wanted["fail"]
        for _ in range(2):  # The second time the block of headers is known.
            found = exchanged(ours)
            _, _, lines, body = found.pop("fail")  # What the engine says itself is in the shape of all errors.
            assert b"content-type: application/problem+json" in lines and json.loads(body)["status"] == 500
            assert found == wanted


def test_blocks_that_are_kept_are_few_and_small():
    blocks = HeaderCache()
    for number in range(10 * MAX_CACHED_BLOCKS):
        blocks.put(str(number).encode(), {"number": number})
        assert blocks.get(b"0") == {"number": 0}, "what is asked for all the time stays"
    blocks.put(b"x" * (MAX_CACHED_BLOCK_BYTES + 1), {})
    assert len(blocks) <= 4 * MAX_CACHED_BLOCKS + 2 and blocks.get(b"x" * (MAX_CACHED_BLOCK_BYTES + 1)) is None


def test_more_blocks_of_headers_than_are_kept():
    with serving(echo) as port, closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        for number in range(3 * MAX_CACHED_BLOCKS):
            for value in (f"new {number}", "usual"):
                connection.request("GET", "/", headers={"X-One": value})
                assert f"('HTTP_X_ONE', '{value}')".encode() in connection.getresponse().read()
        assert len(RequestParser.blocks) <= 4 * MAX_CACHED_BLOCKS + 2
        kept = len(RequestParser.blocks)
        for name in ("bad header", "bad length", "two lengths", "odd coding", "bare line feed", "nonsense"):
            refused = RAW[name].replace(b"\r\n\r\n", b"\r\nX-New: 1\r\n\r\n", 1)
            assert exchange(port, refused)[2] in ([b"HTTP/1.1 400"], [b"HTTP/1.1 501"]), name
        assert len(RequestParser.blocks) == kept, "what is refused is not kept"


KIN = {
    "an id": b"GET / HTTP/1.1\r\nHost: h\r\nX-Request-Id: %s\r\nAccept: */*\r\n\r\n",
    "two": b"POST /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nX-A: %s\r\nx-b:%s\t\r\nX-C:c\r\n\r\n",
    "the same twice": b"GET / HTTP/1.1\r\nHost: h\r\nX-A: %s\r\nx-a: b\r\n\r\n",
    "both new": b"GET / HTTP/1.1\r\nHost: h\r\nX-A: %s\r\nx-a: %s\r\n\r\n",
    "a host": b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n",
    "a length": b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: %s\r\n\r\n",
    "a connection": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: %s\r\n\r\n",
    "a path": b"GET /%s HTTP/1.1\r\nHost: h\r\nX-A: %s\r\n\r\n",
    "a budget": b"GET / HTTP/1.1\r\nHost: h\r\nX-Envoy-Expected-Rq-Timeout-Ms: %s\r\n\r\n",
    "an underscore": b"GET / HTTP/1.1\r\nHost: h\r\nX_A: %s\r\n\r\n",
    "many": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %%s\r\n" % n for n in range(9)) + b"\r\n",
    "old": b"GET / HTTP/1.0\r\nX-A: %s\r\n\r\n",
}
VALUES = (b"1", b"2", b"close", b"3", b"", b"  4 ", b"a, b", b"5:6", b"\xe9", b"7")


@pytest.mark.parametrize("name", KIN)
def test_a_block_means_the_same_whatever_was_seen_before(name):
    """What is known from its like is what waitress's parser says of it alone."""
    engine = build_server(echo, port=0)
    try:
        warm, like = HeaderCache(), 0
        for value in VALUES:
            block = KIN[name].replace(b"%s", value)
            like += warm.get(block) is not None
            assert parsed(engine.adj, block, warm) == parsed(engine.adj, block, HeaderCache())
        assert like == (len(VALUES) - 2 if name in ("an id", "two", "old") else 0)
    finally:
        engine.close()


def parsed(adj, block, blocks):
    parser = type("Parsing", (RequestParser,), {"blocks": blocks})(adj)
    parser.received(block)
    own = ("adj", "body_rcv", "header_plus", "header_bytes_received", "error", "first_line")
    return {key: value for key, value in vars(parser).items() if key not in own}, getattr(parser.error, "body", None)


def test_another_waitress_is_refused(monkeypatch):
    monkeypatch.setattr("flaskml.server.engine.version", lambda _: "4.0.0")
    with pytest.raises(EngineUnavailable, match=r"waitress 4\.0\.0 is installed"):
        check_waitress()


def test_who_stops_it_late_or_twice_writes_to_no_closed_file():
    made = []

    def run():
        made.append(build_server(echo, port=0))
        made[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    while not made:
        time.sleep(0.01)
    made[0].stop()
    thread.join(20)
    assert not thread.is_alive()
    made[0].stop()
    made[0].wake()


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    made, ready = [], threading.Event()

    def run():
        made.append(build_server(echo, unix_socket=path))
        ready.set()
        made[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(path)
        client.sendall(RAW["post"])
        client.settimeout(10)
        assert b"hello" in client.recv(2**16)
    made[0].stop()
    thread.join(20)
    assert not thread.is_alive()
