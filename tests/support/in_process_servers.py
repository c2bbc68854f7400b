"""Both servers, as processes and in threads, and how a test client reaches an app through them."""

import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from string import punctuation
from urllib.parse import quote

import pytest
from waitress import create_server
from waitress.wasyncore import close_all
from werkzeug.test import Client

from flaskml.server.engine import build_server

COMMANDS = {
    "waitress-serve": (sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "wsgi:app"),
    "flask serve": (sys.executable, "-m", "flask", "--app", "wsgi", "serve", "--port", "0", "--workers", "1"),
}
"""How each server is started in the checkout, on a free port."""


def command_of(name):
    """The command of a server; where the engine cannot run, its tests are skipped."""
    if name == "flask serve":
        pytest.importorskip("greenlet")
    return COMMANDS[name]


@contextmanager
def serving(app, **limits):
    """An engine in a thread of its own; gives its port."""
    pytest.importorskip("greenlet")
    made, ready = [], threading.Event()

    def run():
        try:
            made.append(build_server(app, port=0, **limits))
        finally:
            ready.set()
        made[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        yield int(made[0].effective_port)
    finally:
        made[0].stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def plainly_serving(app, **limits):
    """Waitress as it is, in threads of its own; gives its port."""
    server = create_server(app, host="127.0.0.1", port=0, **limits)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield int(server.effective_port)
    finally:
        server.task_dispatcher.shutdown()
        left = {}

        def end():
            left.update(server._map)
            server._map.clear()  # The loop ends when it has nothing to listen to.

        server.trigger.pull_trigger(end)
        thread.join(20)
        assert not thread.is_alive()
        close_all(left, ignore_all=True)


IN_THREADS = {"waitress-serve": plainly_serving, "flask serve": serving}


class Relay:
    """A WSGI app in front of another, which it has a server call: what it is given and told goes over a socket.

    A client elsewhere has no socket here. What it would send is given to the app itself.
    """

    def __init__(self, app, port):
        self.app = app
        self.extensions = app.extensions
        self.connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def __call__(self, environ, start_response):
        if environ.get("REMOTE_ADDR", "127.0.0.1") != "127.0.0.1":
            return self.app(environ, start_response)
        uri = quote(environ["REQUEST_URI"].encode("latin-1"), safe=punctuation)
        self.connection.putrequest(environ["REQUEST_METHOD"], uri, skip_host=True, skip_accept_encoding=True)
        for name, value in environ.items():
            if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value):
                self.connection.putheader(name.removeprefix("HTTP_").replace("_", "-").title(), value)
        self.connection.endheaders(environ["wsgi.input"].read())
        answer = self.connection.getresponse()
        start_response(f"{answer.status} {answer.reason}", answer.getheaders())
        return [answer.read()]


def client_over_socket(name, running):
    """The class of a test client whose requests a server of that name answers, which serves while `running` is open."""

    class OverSocket(Client):
        def __init__(self, app, *arguments, **named):
            relay = Relay(app, running.enter_context(IN_THREADS[name](app)))
            running.callback(relay.connection.close)
            super().__init__(relay, *arguments, **named)

    return OverSocket
