"""Where each request ends: nothing that could be read in two ways is taken, directly and behind nginx."""

import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress

import pytest

from tests.support.http_corpus import CANARY, REFUSED, RIGHT, request
from tests.support.in_process_servers import plainly_serving, serving

pytest.importorskip("greenlet")

from flaskml.server import http_validation as strict
from flaskml.server.connection import Connection
from flaskml.server.http_parser import HeaderCache, RequestParser
from flaskml.server.http_validation import collapse_spaces

LAST = request(b"Connection: close", start=b"GET /last HTTP/1.1")
"""What is asked after all that is right; its answer is the last one, and comes whole, if both sides counted alike."""


class Told:
    """An app that answers with its path and the body, and keeps all paths."""

    def __init__(self):
        self.paths = []

    def __call__(self, environ, start_response):
        self.paths.append(environ["PATH_INFO"])
        answer = environ["PATH_INFO"].encode("latin-1") + b" " + environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]


def exchange(port, content, size=2**20, timeout=5):
    """What a server sends until it closes, if content is sent to it in pieces of a size."""
    return exchange_pieces(port, [content[start : start + size] for start in range(0, len(content), size)], timeout)


def exchange_pieces(port, pieces, timeout=5, pause=0):
    """The same of pieces, with a pause in seconds after each, so that it comes alone."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=timeout)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = bytearray()
        with suppress(ConnectionError):  # It may have closed before it read all.
            for piece in pieces:
                client.sendall(piece)
                if pause:
                    time.sleep(pause)
        with suppress(ConnectionError):
            while part := client.recv(2**16):
                received += part
    return bytes(received)


def answers(received):
    """The statuses and bodies of all answers but those that tell to go on; raises if the last is not whole."""
    found = []
    while received.startswith(b"HTTP/"):  # To HTTP/0.9, nginx answers without headers.
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status != 100:
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert len(received) >= length
            found.append((status, received[:length]))
            received = received[length:]
    return found


def faults(app, port, refused=REFUSED, right=RIGHT, **how):
    """What the server on a port reads otherwise than it should, by the name of the case."""
    found = []

    def compare(name, content, wanted):
        try:
            got = answers(exchange(port, content, **how))
        except (TimeoutError, ValueError, AssertionError, IndexError):
            got = None
        if got is None or [body if status == 200 else status for status, body in got] != wanted:
            found.append(name)

    cases = [(name, content + CANARY, [status]) for name, (status, content) in refused.items()]
    cases += [(name, content + LAST, [*bodies, b"/last "]) for name, (bodies, content) in right.items()]
    with ThreadPoolExecutor(16) as clients:
        list(clients.map(lambda case: compare(*case), cases))  # What is not caught is raised here.
    return found + ["canary"] * app.paths.count("/canary")


def test_the_corpus_is_large():
    assert len(REFUSED) > 200 and len(RIGHT) > 40


def test_each_request_ends_where_it_should():
    app = Told()
    with serving(app) as port:
        for _ in range(2):  # The second time the headers of what is right are known.
            assert faults(app, port) == []


def test_each_request_ends_where_it_should_if_it_comes_byte_by_byte():
    app, large = Told(), 2_000
    refused = {name: case for name, case in REFUSED.items() if len(case[1]) < large}
    right = {name: case for name, case in RIGHT.items() if len(case[1]) < large}
    with serving(app) as port:
        assert faults(app, port, refused, right, size=1) == []


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([b"\r\n\r\n", b"\r\n\r\n", b"\r\n"], [400]),
        ([b"\r\n"] * 5, [400]),
        ([b"\r", b"\n\r", b"\n\r\n\r", b"\n\r", b"\n"], [400]),
        ([b"\r\n\r\n", b"\r\n\r\n"], [200]),
        ([b"\r\n\r", b"\n\r\n"], [200]),
        ([b"\r\n"], [200]),
    ],
)
def test_empty_lines_are_counted_in_whatever_pieces_they_come(pieces, wanted):
    app = Told()
    with serving(app) as port:
        received = exchange_pieces(port, [*pieces, LAST[:1], LAST[1:]], pause=0.02)
        assert [status for status, _ in answers(received)] == wanted
    assert app.paths == ["/last"] * wanted.count(200)


def test_no_group_is_repeated_possessively():
    """Before 3.11.5, Python matches such groups wrongly."""
    possessive = re.compile(rb"\)(?:[*+?]|{[^}]*})\+")
    patterns = {name: found.pattern for name, found in vars(strict).items() if isinstance(found, re.Pattern)}
    assert len(patterns) >= 10 and possessive.search(b"(?:a|b)*+")
    assert [name for name, pattern in patterns.items() if possessive.search(pattern)] == []


@pytest.mark.parametrize("line", [b"X: a\nY: b", b"X: a\rY", b"X: \x00", b"X: \x7f", b"\nX", b"X: a\n\n"])
@pytest.mark.parametrize("size", [1, 2**20])
def test_what_cannot_become_right_is_refused_before_its_headers_end(line, size):
    with serving(Told()) as port:
        given = exchange(port, b"GET /a HTTP/1.1\r\nHost: h\r\n" + line, size)
        assert [status for status, _ in answers(given)] == [400]


def test_what_is_refused_is_not_kept():
    with serving(Told()) as port:
        kept = len(RequestParser.blocks)
        for status, content in REFUSED.values():
            # The headers of a body that is too long are right, and of too long headers waitress reads others instead.
            if status not in (413, 431) and b"chunked" not in content.partition(b"\r\n\r\n")[0]:
                assert answers(exchange(port, content + CANARY))[0][0] == status
        assert len(RequestParser.blocks) == kept


def test_spaces_that_waitress_would_take_long_for_are_left_out():
    for name in ("many spaces", "many tabs and spaces"):
        found = collapse_spaces(RIGHT[name][1])
        assert len(found) < 700 and b"X: 1" in found
    assert collapse_spaces(RIGHT["a value with colons"][1]) == RIGHT["a value with colons"][1]


def test_waitress_alone_reads_some_otherwise():
    app = Told()
    some = {name: case for name, case in REFUSED.items() if re.match("1.0|host|version|length before|size", name)}
    with plainly_serving(app) as port:
        found = faults(app, port, some, timeout=0.5)
    assert "1.0 and coding b'chunked'" in found and "canary" in found
    assert {"host b''", "version b'9.9'", "length before coding", r"size b'22\n'"} <= {*found}


NGINX = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")

CONFIGURATION = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream engine {{ server 127.0.0.1:{behind}; keepalive 1; }}
    server {{
        listen 127.0.0.1:{port};
        underscores_in_headers on;
        ignore_invalid_headers off;
        large_client_header_buffers 4 32k;
        lingering_timeout 100ms;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
"""
"""All that nginx can pass on it passes on, as it came, over connections that it keeps."""


@contextmanager
def behind_nginx(behind, folder):
    """An nginx in front of a port; gives its own port."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, behind=behind, port=port))
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
    """Cases after which, or in which, an answer from behind a proxy is not the one to what was asked."""
    found = []
    cases = {**REFUSED, **{name: (200, content) for name, (_, content) in RIGHT.items()}}
    for number, (name, (_, content)) in enumerate(cases.items()):
        before = len(app.paths)
        given = answers(exchange(port, content + request(b"Connection: close", start=b"GET /end HTTP/1.1")))
        ran, taken = app.paths[before:], [body for status, body in given if status == 200]
        probe = f"/probe/{number}"
        asked = request(b"Connection: close", start=f"GET {probe} HTTP/1.1".encode())
        is_in_step = [body.split(b" ")[0].decode("latin-1") for body in taken] == ran[: len(taken)]
        if answers(exchange(port, asked)) != [(200, probe.encode() + b" ")] or "/canary" in ran or not is_in_step:
            found.append(name)
    return found


def test_behind_nginx_each_answer_is_the_one_to_what_was_asked(tmp_path):
    app = Told()
    with serving(app) as behind, behind_nginx(behind, tmp_path) as port:
        assert desyncs(app, port) == []
    assert len(app.paths) > len(REFUSED) + 2 * len(RIGHT), "nginx passes on the probes and what is right"


class Deaf(RequestParser):
    """Takes a body for the next request."""

    blocks = HeaderCache()

    def parse_header(self, block):
        super().parse_header(block)
        self.body_rcv, self.content_length = None, 0


def test_behind_nginx_a_server_that_counts_otherwise_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(Connection, "parser_class", Deaf)
    app = Told()
    with serving(app) as behind, behind_nginx(behind, tmp_path) as port:
        assert desyncs(app, port) and "/canary" in app.paths
