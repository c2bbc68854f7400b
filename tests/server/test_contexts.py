"""What belongs to a call stays with it where many calls take turns on one thread."""

import threading
from contextlib import closing
from contextvars import ContextVar
from http.client import HTTPConnection

import pytest
from flask import Flask, current_app, g, request, stream_with_context
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flaskml.codecs.parser import Rows
from flaskml.inference.batching import Batcher, lane
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.in_process_servers import IN_THREADS

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))
OWN = ContextVar("own", default=None)
BATCHER = Batcher(lambda table, _: table[:, 0] * 2, TABLE_BUILDER.build, ["predict"])


def give_way():
    """Lets others run, in each way that there is; on threads it does what it may."""
    assert BATCHER.ask(Rows([(4.0,)], TABLE_BUILDER, is_single=True), "predict").tolist() == [8.0]
    lane.get().apart(lambda: None)


def named(name, is_clean):
    """An app that gives way wherever a call comes by, and looks whether all is as it was and, if so told, as new."""
    app = Flask(name)

    def check():
        for _ in range(2):
            mark = request.headers["Mark"]
            assert current_app.name == name and request.path == f"/{mark}" and request.script_root == f"/{name}"
            assert request.get_data() == mark.encode()
            assert (g.mark, OWN.get()) == (mark, mark)
            give_way()

    @app.before_request
    def begin():
        before = OWN.get()
        assert before is None or not is_clean, "what the call before it left is seen"
        give_way()
        assert OWN.get() == before and "mark" not in g, "what another call has is seen"
        g.mark = request.headers["Mark"]
        OWN.set(g.mark)
        check()

    @app.post("/<mark>")
    def view(mark):
        check()
        apart = lane.get().apart(lambda: (g.mark, request.headers["Mark"], current_app.name, OWN.get()))
        assert apart == (mark, mark, name, mark), "a thread of its own does not see what the call has"

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


@pytest.mark.parametrize("server_name", IN_THREADS)
def test_calls_that_give_way_everywhere_keep_to_themselves(server_name):
    is_clean = server_name == "flask serve"  # The threads of waitress each keep one context for all their calls.
    apps = {name: named(name, is_clean) for name in ("one", "two")}
    asked, wrong = {name: [] for name in apps}, []

    def ask(port, client):
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for turn in range(15):
                name, mark = list(apps)[(client + turn) % 2], f"{client}-{turn}"
                connection.request("POST", f"/{name}/{mark}", mark, {"Mark": mark})
                answer = connection.getresponse()
                got = answer.status, answer.headers["Mark"], answer.read().decode()
                if got != (200, mark, "".join(f"{name} {mark} {number};" for number in range(3))):
                    wrong.append((name, mark, got))
                asked[name].append(mark)

    mounts = {f"/{name}": app for name, app in apps.items()}
    with IN_THREADS[server_name](DispatcherMiddleware(Flask("none"), mounts)) as port:
        clients = [threading.Thread(target=ask, args=(port, client)) for client in range(16)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert wrong == []
    for name, app in apps.items():
        assert app.extensions["ended"] == set(asked[name])


@pytest.mark.parametrize(("server_name", "seen"), [("waitress-serve", "first"), ("flask serve", "second")])
def test_a_local_of_a_thread_is_shared_by_the_calls_on_it(server_name, seen):
    app, local, release = Flask("local"), threading.local(), threading.Event()

    @app.get("/<name>")
    def view(name):
        local.name = name
        if name == "first":
            waits.set()
            lane.get().apart(lambda: release.wait(20))
        else:
            release.set()
        return local.name

    waits, answers = threading.Event(), {}

    def ask(name):
        with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", f"/{name}")
            answers[name] = connection.getresponse().read().decode()

    with IN_THREADS[server_name](app) as port:
        first = threading.Thread(target=ask, args=("first",))
        first.start()
        assert waits.wait(20)
        ask("second")
        first.join(20)
    assert answers == {"first": seen, "second": "second"}
