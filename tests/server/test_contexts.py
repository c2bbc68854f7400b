"""Isolation of the request contexts of concurrent calls."""

import threading
import time
from contextlib import closing
from contextvars import ContextVar
from http.client import HTTPConnection

import pytest
from flask import Flask, current_app, g, request, stream_with_context
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import SERVERS_IN_THREADS

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))
MARK = ContextVar("mark", default=None)
"""A context variable that each call sets to the mark of its request."""

BATCHER = Batcher(lambda table, _: table[:, 0] * 2, TABLE_BUILDER.build, ["predict"])


def yield_to_others():
    """Let other calls run."""
    assert BATCHER.ask(Rows([(4.0,)], TABLE_BUILDER, is_single=True), "predict").tolist() == [8.0]
    time.sleep(0.0005)


def checking_app(name):
    """Return an app that yields to other calls in each hook and checks that its contexts stay its own.

    A context variable keeps its value on a thread after a request.
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
        yield_to_others()
        assert MARK.get() == before and "mark" not in g, "the context of another call leaked"
        g.mark = request.headers["Mark"]
        MARK.set(g.mark)
        check()

    @app.post("/<mark>")
    def view(mark):
        check()

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
    apps = {name: checking_app(name) for name in ("one", "two")}
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
