"""Both servers in threads, the commands that start them, and a test client that goes through them over a socket."""

import sys
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from string import punctuation
from urllib.parse import quote

from waitress import create_server
from waitress.wasyncore import close_all
from werkzeug.test import Client

from flaskml.server.setup import build_server

COMMANDS = {
    "waitress-serve": (sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "wsgi:app"),
    "flask serve": (sys.executable, "-m", "flask", "--app", "wsgi", "serve", "--port", "0", "--workers", "1"),
}
"""Commands that start each server in the checkout, on a free port."""


@contextmanager
def event_loop_server(app, **options):
    """Run the server of `flask serve` in a thread; yield its port, or the path of its Unix socket.

    An app of flaskml answers predictions directly.
    """
    servers, ready = [], threading.Event()
    handler = getattr(app, "extensions", {}).get("direct")
    if handler is not None:
        handler.bypasses_middleware = True

    def run():
        try:
            servers.append(build_server(app, port=0, handler=handler, **options))
        finally:
            ready.set()
        servers[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        yield address_of(servers[0])
    finally:
        servers[0].stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def waitress_server(app, **options):
    """Run plain waitress in a thread; yield its port, or the path of its Unix socket."""
    address = {} if "unix_socket" in options else {"host": "127.0.0.1", "port": 0}
    server = create_server(app, **address, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield address_of(server)
    finally:
        server.task_dispatcher.shutdown()
        open_sockets = {}

        def end_loop():
            open_sockets.update(server._map)
            server._map.clear()  # Waitress's loop ends once its map is empty.

        server.trigger.pull_trigger(end_loop)
        thread.join(20)
        assert not thread.is_alive()
        close_all(open_sockets, ignore_all=True)


def address_of(server):
    """Return the port of a server in a thread, or the path of its Unix socket."""
    return server.effective_port if server.effective_host == "unix" else int(server.effective_port)


SERVERS_IN_THREADS = {"waitress-serve": waitress_server, "flask serve": event_loop_server}
"""Context managers that run each server in a thread and yield its port."""


class Relay:
    """A WSGI app that forwards each request over a socket to a server of another app, and returns the response.

    Requests with a REMOTE_ADDR other than 127.0.0.1 cannot come over a loopback socket; they go to the app directly.
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
        response = self.connection.getresponse()
        start_response(f"{response.status} {response.reason}", response.getheaders())
        return [response.read()]


def client_over_socket(name, stack):
    """Return a test client class that sends requests through the named server, which runs until `stack` closes."""

    class OverSocket(Client):
        def __init__(self, app, *args, **kwargs):
            relay = Relay(app, stack.enter_context(SERVERS_IN_THREADS[name](app)))
            stack.callback(relay.connection.close)
            super().__init__(relay, *args, **kwargs)

    return OverSocket
