"""Request framing (RFC 9112), directly and behind nginx: request smuggling is refused, valid requests are served."""

import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import pytest
from waitress.adjustments import Adjustments

from flaskml.server import http_validation
from flaskml.server.connection import Connection
from flaskml.server.header_cache import HeaderCache
from flaskml.server.http_parser import RequestParser
from flaskml.server.http_validation import collapse_spaces
from flaskml.server.memory_account import MemoryAccount
from flaskml.server.request_bodies import BodyLimit, EqualLimits, RequestBodies
from flaskml.server.setup import WAITRESS_ADJUSTMENTS
from tests.support.http_corpus import ACCEPTED, CANARY, REFUSED, request
from tests.support.in_process_servers import event_loop_server, waitress_server

LAST = request(b"Connection: close", start=b"GET /last HTTP/1.1")
"""The request after each accepted one. Its response is complete and the last one if the framing was right."""


class EchoApp:
    """An app that answers with the path and the body of the request, and records the paths."""

    def __init__(self):
        self.paths = []

    def __call__(self, environ, start_response):
        self.paths.append(environ["PATH_INFO"])
        body = environ["PATH_INFO"].encode("latin-1") + b" " + environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def exchange(port, content, size=2**20, timeout=5):
    """Send the content in pieces of `size` bytes; return all bytes that the server sends until it closes."""
    return exchange_pieces(port, [content[start : start + size] for start in range(0, len(content), size)], timeout)


def exchange_pieces(port, pieces, timeout=5, pause=0):
    """Do the same with given pieces, and pause after each for some seconds, so that each arrives alone."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=timeout)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = bytearray()
        with suppress(ConnectionError):  # The server may close before it has read everything.
            for piece in pieces:
                client.sendall(piece)
                if pause:
                    time.sleep(pause)
        with suppress(ConnectionError):
            while part := client.recv(2**16):
                received += part
    return bytes(received)


def responses_in(received):
    """Return (status, body) of each response but 100 Continue; raise AssertionError if the last is incomplete."""
    responses = []
    while received.startswith(b"HTTP/"):  # Nginx answers HTTP/0.9 without a status line.
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status != 100:
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert len(received) >= length
            responses.append((status, received[:length]))
            received = received[length:]
    return responses


def faults(app, port, refused=REFUSED, accepted=ACCEPTED, **options):
    """Return the names of the cases whose responses are wrong, and "canary" for each canary that ran."""
    wrong = []

    def compare(name, content, expected):
        try:
            responses = responses_in(exchange(port, content, **options))
        except (TimeoutError, ValueError, AssertionError, IndexError):
            responses = None
        if responses is None or [body if status == 200 else status for status, body in responses] != expected:
            wrong.append(name)

    cases = [(name, content + CANARY, [status]) for name, (status, content) in refused.items()]
    cases += [(name, content + LAST, [*bodies, b"/last "]) for name, (bodies, content) in accepted.items()]
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(lambda case: compare(*case), cases))  # Raises the errors of the threads.
    return wrong + ["canary"] * app.paths.count("/canary")


def parsed(content):
    """Return the parser of the first request in the content."""
    adj = Adjustments(**WAITRESS_ADJUSTMENTS)
    adj.bodies = RequestBodies(EqualLimits(BodyLimit(2**30, "MAX_CONTENT_LENGTH")), MemoryAccount(2**30))
    parser = RequestParser(adj)
    while content and not parser.completed:
        content = content[parser.received(content) :]
    assert parser.completed
    return parser


def test_the_parser_alone_refuses_and_accepts():
    statuses = {name: getattr(parsed(content + CANARY).error, "code", 200) for name, (_, content) in REFUSED.items()}
    assert statuses == {name: status for name, (status, _) in REFUSED.items()}
    errors = {name: parsed(content).error for name, (_, content) in ACCEPTED.items()}
    assert errors == dict.fromkeys(ACCEPTED)


def test_requests_are_framed_correctly():
    app = EchoApp()
    with event_loop_server(app) as port:
        for _ in range(2):  # In the second round, the header blocks of the accepted requests are cached.
            assert faults(app, port) == []


def test_requests_that_arrive_byte_by_byte_are_framed_correctly():
    app, max_bytes = EchoApp(), 2_000
    refused = {name: case for name, case in REFUSED.items() if len(case[1]) < max_bytes}
    accepted = {name: case for name, case in ACCEPTED.items() if len(case[1]) < max_bytes}
    with event_loop_server(app) as port:
        assert faults(app, port, refused, accepted, size=1) == []


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        ([b"\r\n\r\n", b"\r\n\r\n", b"\r\n"], [400]),
        ([b"\r\n"] * 5, [400]),
        ([b"\r", b"\n\r", b"\n\r\n\r", b"\n\r", b"\n"], [400]),
        ([b"\r\n\r\n", b"\r\n\r\n"], [200]),
        ([b"\r\n\r", b"\n\r\n"], [200]),
        ([b"\r\n"], [200]),
    ],
)
def test_leading_empty_lines_are_counted_across_pieces(pieces, statuses):
    app = EchoApp()
    with event_loop_server(app) as port:
        received = exchange_pieces(port, [*pieces, LAST[:1], LAST[1:]], pause=0.02)
        assert [status for status, _ in responses_in(received)] == statuses
    assert app.paths == ["/last"] * statuses.count(200)


def test_patterns_have_no_possessive_groups():
    """Python before 3.11.5 matches possessive groups wrongly."""
    possessive = re.compile(rb"\)(?:[*+?]|{[^}]*})\+")
    patterns = {name: item.pattern for name, item in vars(http_validation).items() if isinstance(item, re.Pattern)}
    assert len(patterns) >= 10 and possessive.search(b"(?:a|b)*+")
    assert [name for name, pattern in patterns.items() if possessive.search(pattern)] == []


@pytest.mark.parametrize("line", [b"X: a\nY: b", b"X: a\rY", b"X: \x00", b"X: \x7f", b"\nX", b"X: a\n\n"])
@pytest.mark.parametrize("size", [1, 2**20])
def test_forbidden_bytes_are_refused_before_the_headers_end(line, size):
    with event_loop_server(EchoApp()) as port:
        received = exchange(port, b"GET /a HTTP/1.1\r\nHost: h\r\n" + line, size)
        assert [status for status, _ in responses_in(received)] == [400]


def test_refused_header_blocks_are_not_cached():
    with event_loop_server(EchoApp()) as port:
        cached = len(RequestParser.header_cache)
        for status, content in REFUSED.values():
            # With 413 the headers are valid, and for 431 waitress parses a block of its own.
            if status not in (413, 431) and b"chunked" not in content.partition(b"\r\n\r\n")[0]:
                assert responses_in(exchange(port, content + CANARY))[0][0] == status
        assert len(RequestParser.header_cache) == cached


def test_repeated_spaces_are_collapsed():
    for name in ("many spaces", "many tabs and spaces"):
        collapsed = collapse_spaces(ACCEPTED[name][1])
        assert len(collapsed) < 700 and b"X: 1" in collapsed
    assert collapse_spaces(ACCEPTED["a value with colons"][1]) == ACCEPTED["a value with colons"][1]


def test_plain_waitress_fails_some_cases():
    """Show that the check finds faults: waitress accepts requests that the event loop refuses."""
    app = EchoApp()
    refused = {name: case for name, case in REFUSED.items() if re.match("1.0|host|version|length before|size", name)}
    with waitress_server(app) as port:
        wrong = faults(app, port, refused, timeout=0.5)
    assert "1.0 with coding b'chunked'" in wrong and "canary" in wrong
    assert {"host b''", "version b'9.9'", "length before coding", r"size b'22\n'"} <= {*wrong}


NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream event_loop {{ server 127.0.0.1:{upstream}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        underscores_in_headers on;
        ignore_invalid_headers off;
        large_client_header_buffers 4 32k;
        lingering_timeout 100ms;
        location / {{
            proxy_pass http://event_loop;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""
"""An nginx that forwards everything unchanged where it can, over keep-alive connections."""


@contextmanager
def nginx_proxy(upstream, folder):
    """Run an nginx in front of the port `upstream`; yield its own port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, upstream=upstream, port=port))
    with subprocess.Popen([NGINX, "-e", folder / "error.log", "-p", folder, "-c", configuration]) as nginx:
        try:
            for _ in range(200):
                with suppress(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", port))):
                    break
                assert nginx.poll() is None, (folder / "error.log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            nginx.terminate()


def desyncs(app, port):
    """Return the names of the cases in or after which a response from behind the proxy belongs to another request."""
    desynchronized = []
    cases = {**REFUSED, **{name: (200, content) for name, (_, content) in ACCEPTED.items()}}
    for number, (name, (_, content)) in enumerate(cases.items()):
        before = len(app.paths)
        end = request(b"Connection: close", start=b"GET /end HTTP/1.1")
        bodies = [body for status, body in responses_in(exchange(port, content + end)) if status == 200]
        paths = app.paths[before:]
        is_in_order = [body.split(b" ")[0].decode("latin-1") for body in bodies] == paths[: len(bodies)]
        probe = f"/probe/{number}"
        probe_request = request(b"Connection: close", start=f"GET {probe} HTTP/1.1".encode())
        probe_responses = responses_in(exchange(port, probe_request))
        if probe_responses != [(200, probe.encode() + b" ")] or "/canary" in paths or not is_in_order:
            desynchronized.append(name)
    return desynchronized


def test_responses_behind_nginx_belong_to_their_requests(tmp_path):
    app = EchoApp()
    with event_loop_server(app) as upstream, nginx_proxy(upstream, tmp_path) as port:
        assert desyncs(app, port) == []
    assert len(app.paths) > len(REFUSED) + 2 * len(ACCEPTED), "nginx forwards the probes and the accepted requests"


class BodyIgnoringParser(RequestParser):
    """A parser with a planted fault: it takes a body for the next request."""

    header_cache = HeaderCache()

    def parse_header(self, block):
        super().parse_header(block)
        self.body_rcv, self.content_length = None, 0


def test_request_smuggling_behind_nginx_is_detected(tmp_path, monkeypatch):
    monkeypatch.setattr(Connection, "parser_class", BodyIgnoringParser)
    app = EchoApp()
    with event_loop_server(app) as upstream, nginx_proxy(upstream, tmp_path) as port:
        assert desyncs(app, port) and "/canary" in app.paths
