"""Raw exchanges with several servers of equal apps, compared byte by byte."""

import socket
from contextlib import ExitStack, contextmanager
from itertools import product

from flaskml import create_app
from tests.support.in_process_servers import SERVERS_IN_THREADS
from tests.support.server_processes import start_server
from tests.support.stores import stop


class Peer:
    """A connection to a server, which is opened again after the server has closed it."""

    def __init__(self, port):
        self.port = port
        self.socket = None

    def close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None

    def exchange(self, content, *, has_body=True):
        """Send a request; return the status line, the headers in order without Date, and the body."""
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.socket.sendall(content)
        received = b""
        while b"\r\n\r\n" not in received and (part := self.socket.recv(2**16)):
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = [tuple(line.split(b": ", 1)) for line in lines]
        by_name = {name.lower(): value for name, value in headers}
        length = int(by_name.get(b"content-length", 0)) if has_body else 0
        while len(body) < length and (part := self.socket.recv(2**16)):
            body += part
        if by_name.get(b"connection", b"").lower() == b"close":
            self.close()
        return status, [header for header in headers if header[0].lower() != b"date"], body


PAIRS = tuple(product(SERVERS_IN_THREADS, ("auto", "never")))
"""Each server with each setting of DIRECT."""


@contextmanager
def equal_servers(instance, **environment):
    """Run both servers as processes, each with DIRECT `auto` and `never`; yield a `Peer` for each."""
    with ExitStack() as stack:
        peers = {}
        for name, direct in PAIRS:
            # Werkzeug's Allow header has the order of a set, which depends on the hash seed.
            server = start_server(instance, name, FLASKML_DIRECT=direct, PYTHONHASHSEED="0", **environment)
            stack.callback(server.stop)
            peers[name, direct] = Peer(server.port)
            stack.callback(peers[name, direct].close)
        yield peers


@contextmanager
def equal_servers_in_threads(instance):
    """Run the same servers in threads, for tests that patch them."""
    with ExitStack() as stack:
        peers = {}
        for name, direct in PAIRS:
            app = create_app({"INSTANCE_PATH": instance, "DIRECT": direct})
            stack.callback(stop, app)
            peers[name, direct] = Peer(stack.enter_context(SERVERS_IN_THREADS[name](app)))
            stack.callback(peers[name, direct].close)
        yield peers


def differences(peers, content, *, has_body=True, between_servers=True):
    """Return a description of the differences between the answers of the peers; empty if there are none.

    The answers of one server are equal whatever DIRECT says. Those of two servers are equal but for the Server header
    and the order of the headers, with `between_servers`.
    """
    answers = {key: peer.exchange(content, has_body=has_body) for key, peer in peers.items()}
    found = []
    for name in SERVERS_IN_THREADS:
        if answers[name, "auto"] != answers[name, "never"]:
            found.append((name, answers[name, "auto"], answers[name, "never"]))
    one, other = (_between_servers(answers[name, "auto"]) for name in SERVERS_IN_THREADS)
    return found or ([("the servers", one, other)] if between_servers and one != other else [])


def _between_servers(answer):
    status, headers, body = answer
    return status, sorted((name.lower(), value) for name, value in headers if name.lower() != b"server"), body


def request_bytes(path, body, headers, method="POST", version="1.1"):
    """Return the bytes of a request; `headers` are pairs of name and value."""
    lines = [f"{method} {path} HTTP/{version}", "Host: h"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
