"""Patterns of users' own views: both servers answer them alike, whatever a view does with its thread."""

import asyncio
import contextvars
import json
import select
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import IncompleteRead
from io import BytesIO
from itertools import count, islice

import pytest
from flask import g, send_file
from flask_sqlalchemy import SQLAlchemy
from itsdangerous import BadSignature, TimestampSigner
from sqlalchemy.pool import QueuePool
from werkzeug.routing import BaseConverter, ValidationError
from whitenoise import WhiteNoise

from flaskml.server.policy import ServerPolicy
from tests.support.concurrency import call_at_once
from tests.support.in_process_servers import SERVERS_IN_THREADS
from tests.support.server_processes import wait_until
from tests.support.view_apps import Client, add_stream, app_with_model, leave, predict

THREADS = 32
POLICY = ServerPolicy(threads=THREADS, priority_paths=frozenset({"/livez", "/readyz"}))
OPTIONS = {"waitress-serve": {"threads": THREADS}, "flask serve": {"policy": POLICY}}
HEALTHY = (200, b"yes")
CONTENT = bytes(range(256)) * 2**12
"""1 MiB."""


@pytest.fixture
def over():
    """An event that is set at the end of the test; views that wait for it return then."""
    return threading.Event()


@pytest.fixture(params=SERVERS_IN_THREADS)
def server_in_thread(request):
    return request.param


@pytest.fixture
def app():
    return app_with_model()


@pytest.fixture
def run(server_in_thread, over):
    """Return a function that runs an app on a server, and returns a function that connects to it."""
    with ExitStack() as stack:

        def start(app):
            port = stack.enter_context(SERVERS_IN_THREADS[server_in_thread](app, **OPTIONS[server_in_thread]))

            def connect():
                client = stack.enter_context(closing(Client("127.0.0.1", port, timeout=10)))
                client.connect()
                return client

            return connect

        yield start
        over.set()


def test_clients_of_server_sent_events_come_and_go(run, app, over):
    def events():
        for number in count():
            yield f"data: {number} {predict(number)}\n\n"

    begun, ended = add_stream(app, "/events", events, over, mimetype="text/event-stream")
    connect = run(app)
    other = connect()
    for turn in (1, 2):
        clients = [connect() for _ in range(6)]
        streams = [client.start("/events") for client in clients]
        for stream in streams:
            assert (stream.status, stream.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
            assert stream.headers["Transfer-Encoding"] == "chunked"
        for number in range(3):
            for stream in streams:
                assert (stream.readline(), stream.readline()) == (f"data: {number} {number * 2.0}\n".encode(), b"\n")
            assert other.ask("/healthy") == HEALTHY
        assert (len(begun), len(ended)) == (6 * turn, 6 * (turn - 1))
        leave(clients, streams)
        wait_until(lambda: len(ended) == len(begun))
        assert other.ask("/healthy") == HEALTHY


def test_a_generator_that_never_sleeps_blocks_no_other_client(run, app, over, server_in_thread):
    def lines():
        return (f"{number},{number**2}\n" for number in count())

    _, ended = add_stream(app, "/export", lines, over, mimetype="text/csv")
    connect = run(app)
    client, other = connect(), connect()
    stream, received = client.start("/export"), b""
    for _ in range(20):
        received += stream.read(2**12)
        assert other.ask("/healthy") == HEALTHY
    assert not ended
    assert "".join(islice(lines(), len(received))).encode().startswith(received)
    leave([client], [stream])
    assert other.ask("/healthy") == HEALTHY
    if server_in_thread == "waitress-serve":
        over.set()  # Its loop notices a disconnect only if the generator leaves it the lock of the output buffers.
    wait_until(lambda: ended)
    assert other.ask("/healthy") == HEALTHY


@pytest.mark.parametrize("server_in_thread", ["flask serve"], indirect=True)
def test_endless_streams_on_all_threads_block_no_health_check_and_no_prediction(make_app, over, run):
    app = make_app()
    _, ended = add_stream(app, "/endless", lambda: iter(lambda: over.wait(0.02) or "part\n", True), over)
    connect = run(app)
    clients = [connect() for _ in range(THREADS)]
    streams = [client.start("/endless") for client in clients]
    page, client = connect(), connect()
    page.request("GET", "/")
    for _ in range(3):
        assert [stream.readline() for stream in streams] == [b"part\n"] * THREADS
        assert [client.ask(path)[0] for path in ("/livez", "/readyz")] == [200, 200]
        for body, content_type, status in (
            (b'{"feature": 0.5}', "application/json", 200),
            (b'{"feature": "high"}', "application/json", 422),
            (b"feature=0.5", "application/x-www-form-urlencoded", 200),
        ):
            received, answer = client.ask("/predict", "POST", body, Content_Type=content_type)
            assert received == status
            assert status != 200 or json.loads(answer)["prediction"] == pytest.approx(20.8956816)
    assert not select.select([page.sock], [], [], 0)[0], "the streams have all threads for other views"
    leave(clients, streams)
    assert page.getresponse().status == 200
    wait_until(lambda: len(ended) == THREADS)


class OnlyRead:
    """A file with no other method than `read`, such as an object in a cloud store."""

    def __init__(self):
        self.read = BytesIO(CONTENT).read


@pytest.mark.parametrize("is_pipe", [True, False])
def test_files_that_cannot_seek_are_sent(run, app, tmp_path, is_pipe):
    (path := tmp_path / "content").write_bytes(CONTENT)
    processes = []

    @app.get("/file/<length>")
    def file(length):
        if is_pipe:
            processes.append(subprocess.Popen(["cat", path], stdout=subprocess.PIPE))
        response = send_file(processes[-1].stdout if is_pipe else OnlyRead(), mimetype="text/plain")
        if length != "unknown":
            response.content_length = int(length)
        return response

    connect = run(app)
    client = connect()
    for _ in range(2):  # The connection stays open.
        assert client.ask(f"/file/{len(CONTENT)}") == (200, CONTENT)
        assert client.ask("/healthy") == HEALTHY
    response = client.start("/file/unknown")
    assert (response.status, response.headers["Transfer-Encoding"], response.read()) == (200, "chunked", CONTENT)
    with pytest.raises(IncompleteRead) as error:  # The server closes the connection, as bytes are missing.
        connect().ask(f"/file/{len(CONTENT) + 10}")
    assert error.value.partial == CONTENT
    wait_until(lambda: all(process.stdout.closed for process in processes))
    assert [process.wait(10) for process in processes] == [0] * 4 * is_pipe


def test_whitenoise_sends_ranges_on_one_connection(run, app, tmp_path):
    (tmp_path / "style.css").write_bytes(CONTENT)
    app.wsgi_app = WhiteNoise(app.wsgi_app, root=tmp_path, prefix="static/")
    connect, size = run(app), len(CONTENT)
    client = connect()
    first = client.start("/static/style.css")
    assert (first.status, first.read(), first.headers["Content-Length"]) == (200, CONTENT, str(size))
    for method, headers, status, body, length, content_range in (
        ("GET", {"Range": "bytes=5-14"}, 206, CONTENT[5:15], 10, f"bytes 5-14/{size}"),
        ("GET", {"Range": "bytes=-7"}, 206, CONTENT[-7:], 7, f"bytes {size - 7}-{size - 1}/{size}"),
        ("GET", {"Range": f"bytes=3-{size - 2}"}, 206, CONTENT[3:-1], size - 4, f"bytes 3-{size - 2}/{size}"),
        ("HEAD", {}, 200, b"", size, None),
        ("HEAD", {"Range": "bytes=5-14"}, 206, b"", 10, f"bytes 5-14/{size}"),
        ("GET", {"Range": f"bytes={size}-"}, 416, b"", None, f"bytes */{size}"),
        ("GET", {"If_None_Match": first.headers["ETag"]}, 304, b"", None, None),
        ("GET", {"If_Modified_Since": first.headers["Last-Modified"]}, 304, b"", None, None),
        ("GET", {}, 200, CONTENT, size, None),
    ):
        response = client.start("/static/style.css", method, **headers)
        assert (response.status, response.read(), response.headers["Content-Range"]) == (status, body, content_range)
        assert response.headers["Content-Length"] == (None if length is None else str(length))
        assert response.headers["Connection"] == ("close" if length is None else None)
        client = connect() if length is None else client
        assert client.ask("/healthy") == HEALTHY, "the next request on the connection gets its own answer"


def test_requests_hold_sessions_of_a_small_pool_while_they_predict(run, app, tmp_path):
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/users.db"
    db, held = SQLAlchemy(app), []

    class User(db.Model):
        id = db.Column(db.Integer, primary_key=True)
        age = db.Column(db.Float, nullable=False)

    @app.get("/user/<int:number>")
    def user(number):
        user = db.session.get(User, number)  # The session has a connection until the request ends.
        held.append(db.engine.pool.checkedout())
        return str(predict(user.age))

    with app.app_context():
        db.create_all()
        db.session.add_all(User(id=number, age=number / 2) for number in range(24))
        db.session.commit()
        engine = db.engine
    assert isinstance(engine.pool, QueuePool) and engine.pool.size() + engine.pool._max_overflow < 24
    connect = run(app)
    clients = [connect() for _ in range(24)]
    answers = call_at_once(lambda k=k: clients[k].ask(f"/user/{k}") for k in range(24))
    assert answers == [(200, str(float(number)).encode()) for number in range(24)]
    assert max(held) > 1
    wait_until(lambda: engine.pool.checkedout() == 0)
    engine.dispose()


def test_a_sqlite_connection_is_closed_on_the_thread_of_its_view(run, app, tmp_path):
    closed = []

    def database():
        if "database" not in g:
            g.database = sqlite3.connect(tmp_path / "rows.db")
        return g.database

    @app.teardown_appcontext
    def close_database(_):
        if (opened := g.pop("database", None)) is not None:
            opened.close()  # Raises ProgrammingError on another thread.
            closed.append(opened)

    @app.get("/square/<int:number>")
    def square(number):
        half = database().execute("SELECT ? / 2.0", (number,)).fetchone()[0]
        predicted = predict(half)
        return str(database().execute("SELECT ? * ?", (predicted, number)).fetchone()[0])

    connect = run(app)
    clients = [connect() for _ in range(8)]
    for _ in range(3):
        answers = call_at_once(lambda k=k: clients[k].ask(f"/square/{k}") for k in range(8))
        assert answers == [(200, str(float(number**2)).encode()) for number in range(8)]
    wait_until(lambda: len(closed) == 24)


async def async_view():
    return str(predict())


async def view_with_to_thread():
    return str(await asyncio.to_thread(predict))


def view_with_executor():
    with ThreadPoolExecutor(1) as pool:
        return str(pool.submit(contextvars.copy_context().run, predict).result(10))


@pytest.mark.parametrize("view", [async_view, view_with_to_thread, view_with_executor])
def test_a_prediction_may_be_asked_for_on_another_thread(run, app, view):
    app.get("/")(view)
    connect = run(app)
    clients = [connect() for _ in range(8)]
    for _ in range(3):
        answers = call_at_once(lambda k=k: clients[k].ask(f"/?of={k}") for k in range(8))
        assert answers == [(200, str(number * 2.0).encode()) for number in range(8)]


def view_that_exits():
    sys.exit(3)


def interrupted_view():
    raise KeyboardInterrupt


async def cancel():
    raise asyncio.CancelledError


def cancelled_view():
    asyncio.run(cancel())


@pytest.mark.parametrize("view", [view_that_exits, interrupted_view, cancelled_view])
def test_a_base_exception_in_a_view_affects_its_own_client_only(run, app, over, caplog, server_in_thread, view):
    begun = []
    app.get("/fail")(view)
    app.add_url_rule("/wait", "wait", lambda: begun.append(1) or str(over.wait(20)))
    connect = run(app)
    waiting, failing, other = [connect() for _ in range(4)], [connect() for _ in range(3)], connect()
    for client in waiting:
        client.request("GET", "/wait")
    wait_until(lambda: len(begun) == len(waiting))
    for client in failing:
        client.request("GET", "/fail")
        assert other.ask("/healthy") == HEALTHY
    wait_until(lambda: caplog.text.count("Exception when servicing") == len(failing))
    for client in failing:  # Waitress leaves the connection open, and sends nothing.
        is_open = server_in_thread == "waitress-serve" and not select.select([client.sock], [], [], 0.1)[0]
        assert is_open or client.sock.recv(1) == b""
    over.set()
    responses = [client.getresponse() for client in waiting]
    assert [(response.status, response.read()) for response in responses] == [(200, b"True")] * len(waiting)
    for client in (*waiting, other, connect()):
        assert client.ask("/healthy") == HEALTHY


def test_context_variables_of_a_view_are_seen_until_its_request_ends(run, app):
    user, seen = contextvars.ContextVar("user", default="none"), []

    @app.get("/<name>")
    def view(name):
        user.set(name)
        predict(1.0)
        return "hello"

    @app.after_request
    def after(response):
        response.headers["User"] = user.get()
        response.call_on_close(lambda: seen.append(("close", user.get())))
        return response

    app.teardown_request(lambda _: seen.append(("request", user.get())))
    app.teardown_appcontext(lambda _: seen.append(("app", user.get())))
    client = run(app)()
    for name in ("ann", "bob"):
        seen.clear()
        response = client.start(f"/{name}")
        assert (response.headers["User"], response.read()) == (name, b"hello")
        wait_until(lambda: len(seen) == 3)
        assert set(seen) == {(place, name) for place in ("request", "app", "close")}


def test_the_verdict_of_a_url_converter_may_expire(run, make_app):
    class Signer(TimestampSigner):
        now = 1_000_000

        def get_timestamp(self):
            return self.now

    class Fresh(BaseConverter):
        def to_python(self, value):
            try:
                return signer.unsign(value, max_age=60).decode()
            except BadSignature as error:
                raise ValidationError from error

    signer, app = Signer("secret"), make_app()
    app.url_map.converters["fresh"] = Fresh
    app.get("/signed/<fresh:name>")(lambda name: f"hello {name}")
    client, path = run(app)(), f"/signed/{signer.sign('ann').decode()}"
    for age, status in ((0, 200), (60, 200), (61, 404), (61, 404), (30, 200)):
        signer.now = Signer.now + age
        received, body = client.ask(path)
        assert received == status and (status != 200 or body == b"hello ann")
    assert client.ask(path + "x")[0] == 404
