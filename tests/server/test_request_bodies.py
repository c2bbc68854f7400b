"""Bodies of requests: limits by route, temporary files, and the memory of all bodies together."""

import json
import re
import socket
import tempfile
import threading
import time
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest
from flask import Flask, request

from flaskml.server.body_admission import MAX_PAUSE_SECONDS, BodyAdmission
from flaskml.server.policy import Deadlines, ServerPolicy
from flaskml.server.request_bodies import MAX_FILELESS_BODY_BYTES, BodyLimit
from flaskml.web.access import changes_no_state
from flaskml.web.body_limits import RouteBodyLimits
from tests.server.test_slow_clients import connect, read_all, receive_until
from tests.support.in_process_servers import event_loop_server
from tests.support.server_processes import wait_until

LIMIT_BYTES = 100_000


class Limits:
    """Limits for tests: `/memory` stays in memory, `/small` and all others go into a file."""

    def __init__(self):
        self.found = []

    def find(self, method, path, content_type):
        self.found.append((method, path, content_type))
        limit = LIMIT_BYTES if path == "/small" else 2**22
        return BodyLimit(limit, "MAX_SMALL", stays_in_memory=path == "/memory")


def app(environ, start_response):
    """Answer with the length of the body and the type of its file."""
    file = environ["wsgi.input"]
    text = f"{len(file.read())} {type(getattr(file, 'raw', file)).__name__}".encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]


def head(path, length, *lines):
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: h", *lines, f"Content-Length: {length}", "", "")).encode()


def chunked(path, body, size):
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    start = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return start + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def exchange(port, content):
    """Send a request and return status, headers and body of the response, once the server has closed."""
    with closing(connect(port)) as client:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body


def problem(port, content):
    status, headers, body = exchange(port, content)
    assert "Content-Type: application/problem+json" in headers and "Connection: close" in headers
    content = json.loads(body)
    assert content["status"] == status
    return status, content["detail"]


@pytest.mark.parametrize("lines", [(), ("Expect: 100-continue",)])
def test_a_declared_length_above_the_limit_is_refused_without_the_body(lines):
    limits = Limits()
    with event_loop_server(app, body_limits=limits) as port:
        for _ in range(3):
            status, detail = problem(port, head("/small", LIMIT_BYTES + 1, *lines, "Content-Type: a/b"))
            assert status == 413 and "100,000 bytes" in detail and "the setting MAX_SMALL" in detail
        assert exchange(port, head("/small", LIMIT_BYTES) + bytes(LIMIT_BYTES))[2] == b"100000 BytesIO"
        assert limits.found[0] == ("POST", "/small", "a/b")


def test_a_cached_header_block_is_not_exempt_from_the_limit():
    """The limits of two servers in one process differ, and they share the cache of header blocks."""
    content = head("/a", 50_000) + bytes(50_000)
    with event_loop_server(app) as port:
        for _ in range(2):
            assert exchange(port, content)[0] == 200
    with event_loop_server(app, max_request_body_size=50_000) as port:
        assert problem(port, content)[0] == 413
    with event_loop_server(app, max_request_body_size=50_001) as port:
        assert exchange(port, content)[0] == 200


@pytest.mark.parametrize("size", [1, 1_000, LIMIT_BYTES])
def test_a_chunked_body_is_refused_once_its_content_exceeds_the_limit(size):
    with event_loop_server(app, body_limits=Limits()) as port:
        assert exchange(port, chunked("/small", bytes(LIMIT_BYTES), size))[2] == b"100000 BytesIO"
        status, detail = problem(port, chunked("/small", bytes(LIMIT_BYTES + 1), size))
        assert status == 413 and "MAX_SMALL" in detail


def test_the_limit_of_small_bodies_is_not_looked_up():
    limits = Limits()
    with event_loop_server(app, body_limits=limits) as port, closing(connect(port)) as client:
        for _ in range(3):
            client.sendall(head("/a", 16_384) + bytes(16_384))
            assert receive_until(client, b"16384 BytesIO")
    assert limits.found == []


@pytest.mark.parametrize(
    "make", [lambda path, body: head(path, len(body)) + body, lambda path, body: chunked(path, body, 2**16)]
)
def test_large_bodies_go_into_a_file_unless_they_must_stay_in_memory(make):
    body = bytes(MAX_FILELESS_BODY_BYTES)
    with event_loop_server(app, body_limits=Limits()) as port:
        assert exchange(port, make("/a", body))[2] == b"524288 FileIO"
        assert exchange(port, make("/a", body[1:]))[2] == b"524287 BytesIO"
        assert exchange(port, make("/memory", body))[2] == b"524288 BytesIO"


ROUTES = [
    ("POST", "/predict", "application/json", "MAX_BODY"),
    ("POST", "/predict", "multipart/form-data; boundary=b", "MAX_BODY"),
    ("POST", "/models/a/versions/1/predict", "text/csv", "MAX_BODY"),
    ("POST", "/train", "multipart/form-data; boundary=b", "MAX_UPLOAD"),
    ("POST", "/train", "application/json", "MAX_BODY"),
    ("PUT", "/models/default/active", "application/json", "MAX_BODY"),
    ("POST", "/upload", "application/octet-stream", "MAX_CONTENT_LENGTH"),
    ("POST", "/unknown", "", "MAX_CONTENT_LENGTH"),
    ("GET", "/train", "", "MAX_BODY"),
    ("PATCH", "/train", "", "MAX_CONTENT_LENGTH"),
    ("PUT", "/predict", "", "MAX_CONTENT_LENGTH"),
    ("POST", "/upload/caf\xc3\xa9\xff", "", "MAX_CONTENT_LENGTH"),
]


def app_with_view(make_app, **config):
    app = make_app(**config)
    view = changes_no_state(lambda: str(len(request.get_data())))
    app.add_url_rule("/upload", "upload", view, methods=["POST"])
    return app, RouteBodyLimits(app, app.extensions["settings"], app.extensions["direct"])


def test_the_limit_follows_route_and_method(make_app):
    sizes = {"MAX_BODY": 20_000, "MAX_UPLOAD": 30_000, "MAX_CONTENT_LENGTH": 40_000}
    _, limits = app_with_view(make_app, **sizes)
    for _ in range(2):  # The second time, the routes are cached.
        for method, path, content_type, setting in ROUTES:
            limit = limits.find(method, path, content_type)
            assert (limit.setting, limit.max_bytes) == (setting, sizes[setting]), (method, path)
            assert limit.stays_in_memory == (method == "POST" and path.endswith("/predict"))
    assert limits.max_transfer_bytes > 40_000


def test_without_a_limit_of_flask_other_views_take_a_gibibyte(make_app):
    _, limits = app_with_view(make_app)
    assert limits.find("POST", "/upload", "") == BodyLimit(2**30, "MAX_CONTENT_LENGTH")
    assert limits.max_transfer_bytes > 2**30


def test_the_server_and_flask_refuse_a_large_body_with_the_same_problem(make_app):
    app, limits = app_with_view(make_app, MAX_BODY=20_000, MAX_CONTENT_LENGTH=40_000)
    content = b"[" * 20_001
    by_flask = app.test_client().post("/predict", data=content, content_type="application/json")
    with event_loop_server(app, body_limits=limits) as port:
        status, _, body = exchange(port, head("/predict", 20_001, "Content-Type: application/json") + content)
        assert (status, json.loads(body)) == (by_flask.status_code, by_flask.json)
        assert problem(port, head("/upload", 40_001))[0] == 413
        assert exchange(port, head("/upload", 40_000) + bytes(40_000))[2] == b"40000"


@pytest.fixture
def no_temporary_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")


def test_without_a_temporary_folder_large_uploads_get_507(no_temporary_folder):
    with event_loop_server(app, body_limits=Limits()) as port:
        for content in (head("/a", 10**6) + bytes(10**6), chunked("/a", bytes(10**6), 5_000)):
            status, detail = problem(port, content)
            assert status == 507 and "temporary folder" in detail
        assert exchange(port, head("/memory", 10**6) + bytes(10**6))[2] == b"1000000 BytesIO"
        assert exchange(port, head("/a", 500_000) + bytes(500_000))[0] == 200


def test_a_full_temporary_folder_is_507(monkeypatch):
    class FullFile:
        """A file on a full disk: it can be opened, but neither written nor flushed."""

        def __getattr__(self, name):
            return self._fail

        def _fail(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_: FullFile())
    with event_loop_server(app, body_limits=Limits()) as port:
        assert problem(port, head("/a", 10**6) + bytes(10**6))[0] == 507
        assert exchange(port, head("/a", 1_000) + bytes(1_000))[0] == 200


def test_predictions_use_no_temporary_file(make_app, no_temporary_folder):
    app, limits = app_with_view(make_app)
    body = json.dumps([{"feature": 0.5}] * 9_000).encode().replace(b":", b":" + b" " * 100)
    with (
        event_loop_server(app, body_limits=limits) as port,
        closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):
        for _ in range(2):  # Flask serves the first one, the event loop the second one.
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert response.status == 200 and len(json.loads(response.read())["predictions"]) == 9_000


def small_memory(**deadlines):
    return ServerPolicy(body_memory_bytes=2**20, deadlines=Deadlines(**deadlines))


class Uploads:
    """Uploads that stop before their last bytes."""

    def __init__(self, port, stack):
        self.port, self._stack = port, stack

    def begin(self, sent_bytes, length=400_000, path="/memory"):
        client = self._stack.enter_context(closing(connect(self.port)))
        client.sendall(head(path, length) + bytes(sent_bytes))
        return client


@pytest.fixture
def admissions(monkeypatch):
    """The admissions of the servers that start."""
    made = []

    class ObservedAdmission(BodyAdmission):
        def __init__(self, account):
            super().__init__(account)
            self.account = account
            made.append(self)

    monkeypatch.setattr("flaskml.server.loop.BodyAdmission", ObservedAdmission)
    return made


@pytest.fixture
def gated_app():
    """An app that answers with the length of the body, once its `gate` is open."""
    app = Flask("gated")
    app.gate = threading.Event()

    @app.post("/memory")
    def gated():
        body = request.get_data()
        assert len(body) < 100_000 or app.gate.wait(20)
        return f"{len(body)} bytes"

    yield app
    app.gate.set()


def test_bodies_beyond_the_memory_wait_until_others_are_answered(admissions, gated_app):
    with event_loop_server(gated_app, body_limits=Limits(), policy=small_memory()) as port, ExitStack() as stack:
        uploads, (admission,) = Uploads(port, stack), admissions
        served = uploads.begin(400_000)
        begun = [uploads.begin(250_000) for _ in range(2)]
        wait_until(lambda: admission.account.used_bytes == 900_000)
        waiting = uploads.begin(399_999)
        wait_until(lambda: admission.has_waiting)
        assert admission.account.used_bytes < 2**20 + 2**16
        assert exchange(port, head("/memory", 1_000) + bytes(1_000))[2] == b"1000 bytes", "small bodies do not wait"
        gated_app.gate.set()
        assert receive_until(served, b"400000 bytes")
        for client in begun:  # Less is missing of these, so they are read first.
            client.sendall(bytes(150_000))
            assert receive_until(client, b"400000 bytes")
        wait_until(lambda: not admission.has_waiting)
        waiting.sendall(b"a")
        assert receive_until(waiting, b"400000 bytes")
        wait_until(lambda: admission.account.used_bytes == 0)


def test_the_oldest_bodies_are_refused_if_no_memory_becomes_free(admissions, monkeypatch):
    monkeypatch.setattr("flaskml.server.body_admission.MAX_PAUSE_SECONDS", 0.5)
    with event_loop_server(app, body_limits=Limits(), policy=small_memory()) as port, ExitStack() as stack:
        uploads = Uploads(port, stack)
        old = []
        for _ in range(3):
            old.append(uploads.begin(300_000))
            wait_until(lambda: admissions[0].account.used_bytes == 300_000 * len(old))
        young = uploads.begin(399_999)
        received = read_all(old[0])
        assert received.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 5\r\n" in received
        assert b"Connection: close" in received and b"BODY_MEMORY" in received
        young.sendall(b"a")
        assert receive_until(young, b"400000 BytesIO")
        for client in old[2:]:
            client.sendall(bytes(100_000))
            assert receive_until(client, b"400000 BytesIO")


def test_a_client_that_leaves_while_its_body_waits_frees_the_memory(admissions):
    with event_loop_server(app, body_limits=Limits(), policy=small_memory()) as port, ExitStack() as stack:
        uploads, (admission,) = Uploads(port, stack), admissions
        leaving = [uploads.begin(300_000) for _ in range(3)]
        wait_until(lambda: admission.account.used_bytes == 900_000)
        staying = uploads.begin(399_999)
        wait_until(lambda: admission.has_waiting)
        staying.sendall(b"a")
        staying.shutdown(socket.SHUT_WR)  # The rest of its body is on the way.
        begun = time.monotonic()
        for client in leaving:
            client.close()
        assert receive_until(staying, b"400000 BytesIO") and time.monotonic() - begun < MAX_PAUSE_SECONDS / 2
        wait_until(lambda: admission.account.used_bytes == 0)


def test_many_new_bodies_at_once_stay_below_the_limit(admissions, monkeypatch):
    monkeypatch.setattr("flaskml.server.body_admission.MAX_PAUSE_SECONDS", 0.1)
    most = []
    with event_loop_server(app, body_limits=Limits(), policy=small_memory()) as port, ExitStack() as stack:
        uploads = Uploads(port, stack)
        for _ in range(60):
            uploads.begin(60_000)
            most.append(admissions[0].account.used_bytes)
        wait_until(lambda: most.append(admissions[0].account.used_bytes) or max(most) >= 2**20)
        assert max(most) <= 2**20 * 9 / 8 + 2**16
        wait_until(lambda: not admissions[0].has_waiting)
    wait_until(lambda: admissions[0].account.used_bytes == 0)


def test_bodies_in_files_take_no_memory(admissions):
    with event_loop_server(app, body_limits=Limits()) as port, ExitStack() as stack:
        uploads = Uploads(port, stack)
        clients = [uploads.begin(999_999, 10**6, "/a") for _ in range(5)]
        for client in clients:
            client.sendall(b"a")
            assert receive_until(client, b"1000000 FileIO")
        assert admissions[0].account.used_bytes == 0


def test_a_body_counts_until_its_request_is_answered(admissions, gated_app):
    with event_loop_server(gated_app, body_limits=Limits()) as port, ExitStack() as stack:
        client = Uploads(port, stack).begin(400_000)
        wait_until(lambda: admissions[0].account.used_bytes == 400_000)
        time.sleep(0.1)
        assert admissions[0].account.used_bytes == 400_000
        gated_app.gate.set()
        assert receive_until(client, b"400000 bytes")
        wait_until(lambda: admissions[0].account.used_bytes == 0)


@pytest.mark.parametrize("leaves", [True, False])
def test_an_incomplete_body_is_freed_with_its_connection(admissions, leaves):
    policy = small_memory(request_seconds=0.2, body_bytes_per_second=1e9)
    with event_loop_server(app, body_limits=Limits(), policy=policy) as port, ExitStack() as stack:
        client = Uploads(port, stack).begin(300_000)
        wait_until(lambda: admissions[0].account.used_bytes == 300_000)
        if leaves:
            client.close()
        else:
            assert b" 408 Request Timeout" in read_all(client)
        wait_until(lambda: admissions[0].account.used_bytes == 0)


def test_the_time_of_a_large_body_is_limited():
    deadlines = Deadlines()
    assert [deadlines.request_limit_seconds(size) for size in (0, 819_200, 10**9)] == [10, 110, 600]
    policy = ServerPolicy(deadlines=Deadlines(body_bytes_per_second=1, max_request_seconds=0.5))
    with event_loop_server(app, policy=policy) as port, closing(connect(port)) as client:
        client.sendall(head("/a", 400_000) + bytes(300_000))
        assert re.match(rb"HTTP/1.1 408 ", read_all(client))


def test_without_the_admission_bodies_take_more_memory(admissions, monkeypatch):
    """Show with a planted fault that the tests above can fail."""
    monkeypatch.setattr(BodyAdmission, "note", lambda *_: None)
    with event_loop_server(app, body_limits=Limits(), policy=small_memory()) as port, ExitStack() as stack:
        uploads = Uploads(port, stack)
        for _ in range(8):
            uploads.begin(300_000)
        wait_until(lambda: admissions[0].account.used_bytes > 2**21)
