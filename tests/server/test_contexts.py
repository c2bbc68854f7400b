"""Isolation of request contexts and context variables between calls that take turns on one thread."""

import threading
from contextlib import closing
from contextvars import ContextVar
from http.client import HTTPConnection

import pytest
from flask import Flask, current_app, g, request, stream_with_context
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import Batcher, lane
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import SERVERS_IN_THREADS

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))
MARK = ContextVar("mark", default=None)
"""A context variable that each call sets to the mark of its request."""

BATCHER = Batcher(lambda table, _: table[:, 0] * 2, TABLE_BUILDER.build, ["predict"])


def yield_to_others():
    """Let other calls run: wait for a prediction, then for a thread. On waitress's threads it waits as well."""
    assert BATCHER.ask(Rows([(4.0,)], TABLE_BUILDER, is_single=True), "predict").tolist() == [8.0]
    lane.get().apart(lambda: None)


def checking_app(name, is_isolated):
    """Return an app that yields to other calls in each hook and checks that its contexts stay its own.

    With `is_isolated`, each call must begin with an empty context.
    """
    app = Flask(name)

    def check():
        for _ in range(2):
            mark = request.headers["Mark"]
            assert current_app.name == name and request.path == f"/{mark}" and request.script_root == f"/{name}"
            assert request.get_data() == mark.encode()
            assert (g.mark, MARK.get()) == (mark, mark)
            yield_to_others()

    @app.before_request
    def begin():
        before = MARK.get()
        assert before is None or not is_isolated, "the context of an earlier call leaked"
        yield_to_others()
        assert MARK.get() == before and "mark" not in g, "the context of another call leaked"
        g.mark = request.headers["Mark"]
        MARK.set(g.mark)
        check()

    @app.post("/<mark>")
    def view(mark):
        check()
        seen_in_thread = lane.get().apart(lambda: (g.mark, request.headers["Mark"], current_app.name, MARK.get()))
        assert seen_in_thread == (mark, mark, name, mark), "the context is not passed to the thread"

        def parts():
            for number in range(3):
                check()
                yield f"{name} {mark} {number};"

        return stream_with_context(parts())

    @app.after_request
    def end(response):
        check()
        response.headers["Mark"] = g.mark
        return response

    @app.teardown_request
    def leave(_):
        check()
        ended.add(g.mark)

    ended = app.extensions["ended"] = set()
    return app


@pytest.mark.parametrize("server_name", SERVERS_IN_THREADS)
def test_concurrent_calls_keep_their_own_contexts(server_name):
    is_isolated = server_name == "flask serve"  # Each thread of waitress has one context for all its calls.
    apps = {name: checking_app(name, is_isolated) for name in ("one", "two")}
    sent, wrong = {name: [] for name in apps}, []

    def send_requests(port, client):
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for turn in range(15):
                name, mark = list(apps)[(client + turn) % 2], f"{client}-{turn}"
                connection.request("POST", f"/{name}/{mark}", mark, {"Mark": mark})
                response = connection.getresponse()
                received = response.status, response.headers["Mark"], response.read().decode()
                if received != (200, mark, "".join(f"{name} {mark} {number};" for number in range(3))):
                    wrong.append((name, mark, received))
                sent[name].append(mark)

    mounts = {f"/{name}": app for name, app in apps.items()}
    with SERVERS_IN_THREADS[server_name](DispatcherMiddleware(Flask("none"), mounts)) as port:
        clients = [threading.Thread(target=send_requests, args=(port, client)) for client in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert wrong == []
    for name, app in apps.items():
        assert app.extensions["ended"] == set(sent[name])


@pytest.mark.parametrize(("server_name", "seen"), [("waitress-serve", "first"), ("flask serve", "second")])
def test_calls_on_one_thread_share_its_thread_locals(server_name, seen):
    app, local, release = Flask("local"), threading.local(), threading.Event()

    @app.get("/<name>")
    def view(name):
        local.name = name
        if name == "first":
            is_waiting.set()
            lane.get().apart(lambda: release.wait(20))
        else:
            release.set()
        return local.name

    is_waiting, responses = threading.Event(), {}

    def send_request(name):
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", f"/{name}")
            responses[name] = connection.getresponse().read().decode()

    with SERVERS_IN_THREADS[server_name](app) as port:
        first = threading.Thread(target=send_request, args=("first",))
        first.start()
        assert is_waiting.wait(20)
        send_request("second")
        first.join(20)
    assert responses == {"first": seen, "second": "second"}
