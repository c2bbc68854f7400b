"""A direct handler that doubles numbers, its app, a server that runs both, and a client that pipelines requests."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from http.client import parse_headers
from itertools import chain
from types import SimpleNamespace

from flask import Flask, request

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.server.direct_requests import Prediction
from flaskml.server.setup import DEFAULT_POLICY
from tests.support.in_process_servers import event_loop_server

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))
CHEAP_SECONDS = 0.0001
PANIC = -2.0


class Panic(BaseException):
    """An error that is no Exception, as a panic in Rust code is."""


class FixedCosts:
    """Costs that do not depend on measurements, nor on other load on the machine."""

    def __init__(self, seconds, row_seconds):
        self.seconds, self.row_seconds = seconds, row_seconds

    def record(self, rows, seconds):
        pass

    def estimate(self, rows):
        return self.seconds + self.row_seconds * rows


class DoublingModel:
    """A predictor that doubles numbers: negative ones raise ValueError, and `PANIC` raises `Panic`.

    A call is expected to take `seconds`, and `row_seconds` for each row. If the model `sleeps`, it takes as long, and
    its costs are measured. If it `is_gated`, calls wait for `gate`.
    """

    def __init__(self, seconds=CHEAP_SECONDS, row_seconds=0.0, *, is_thread_safe=True, is_gated=False, sleeps=False):
        self.batcher = Batcher(self.compute, TABLE_BUILDER.build, ["predict"], is_thread_safe=is_thread_safe)
        if sleeps:
            self.batcher.costs["predict"].record(1, seconds + row_seconds)
        else:
            self.batcher.costs = {"predict": FixedCosts(seconds, row_seconds)}
        self.gate = threading.Event()
        if not is_gated:
            self.gate.set()
        self.seconds = (seconds, row_seconds) if sleeps else (0, 0)
        self.calls = []
        """The numbers of each call, in the order in which the calls began."""

        self.threads = set()
        self.running = self.most_running = 0
        self._mutex = threading.Lock()

    def compute(self, table, _):
        with self._mutex:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.calls.append(table[:, 0].tolist())
            self.threads.add(threading.get_ident())
        try:
            assert self.gate.wait(20)
            time.sleep(self.seconds[0] + self.seconds[1] * len(table))
            if PANIC in table:
                raise Panic
            if (table < 0).any():
                raise ValueError("a negative value")
            return table[:, 0] * 2
        finally:
            with self._mutex:
                self.running -= 1


class Doubling:
    """The direct handler of models by path: a request sends a list of numbers, and the answer is a list.

    The header X-Mark comes back in the answer; with X-Direct: no, Flask serves the request.
    """

    bypasses_middleware = False

    def __init__(self, **models):
        self.models = {f"/{name}": model for name, model in models.items()}
        self.epoch = object()
        self.is_closed = False
        """True if no further target is found."""

        self.loop_thread = None
        self.lookups = 0
        self.reads = []
        """The length of each body that was read, and the thread."""

    def refresh(self):
        self.loop_thread = threading.get_ident()

    def find_target(self, method, path, query, headers):
        self.lookups += 1
        is_for_flask = self.is_closed or "EXPECT" in headers or headers.get("X_DIRECT") == "no"
        if is_for_flask or method != "POST" or path not in self.models:
            return None
        answer_headers = (("Content-Type", "application/json"), ("X-By", "loop"), ("X-Mark", headers.get("X_MARK", "")))
        return SimpleNamespace(key=path, headers=answer_headers)

    def is_prediction(self, path):
        return path in self.models

    def read(self, target, body):
        self.reads.append((len(body), threading.get_ident()))
        numbers = json.loads(body)
        if not isinstance(numbers, list):
            return None
        rows = Rows([(number,) for number in numbers], TABLE_BUILDER, is_single=False)
        return Prediction(self.models[target.key], "predict", rows)

    def answer(self, predictions):
        parts = [prediction.rows.values for prediction in predictions]
        rows = Rows(list(chain.from_iterable(parts)), TABLE_BUILDER, is_single=False)
        answers = iter(predictions[0].predictor.batcher.compute_alone(rows, "predict").tolist())
        return [json.dumps([next(answers) for _ in part]).encode() for part in parts]


def flask_app(handler):
    """Return an app that sends back the body of a request, with the status 422 if it has a negative number."""
    app = Flask(__name__)
    app.extensions["direct"] = handler
    app.gate = threading.Event()

    @app.post("/<path:path>")
    def send_back(path):
        numbers = request.get_json()
        is_wrong = isinstance(numbers, list) and min(numbers) < 0
        return request.data, 422 if is_wrong else 200, {"X-By": "Flask", "X-Mark": request.headers.get("X-Mark", "")}

    @app.get("/livez")
    def livez():
        return "live"

    @app.get("/gated")
    def gated():
        assert app.gate.wait(20)
        return "through"

    return app


@contextmanager
def doubling_server(policy=DEFAULT_POLICY, listening_socket=None, options=None, **models):
    """Run a server of models; yield the handler, the app and a function that connects a client.

    At the end, all gates open and all clients are closed.
    """
    handler, clients = Doubling(**models), []
    app = flask_app(handler)
    with event_loop_server(app, policy=policy, listening_socket=listening_socket, **options or {}) as port:

        def connect():
            clients.append(Client(port))
            return clients[-1]

        try:
            yield handler, app, connect
        finally:
            for gated in (app, *models.values()):
                gated.gate.set()
            for client in clients:
                client.close()


def post(path, content, *headers, version="1.1"):
    """Return the bytes of a request with a JSON body. Each header is a line."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = (f"POST {path} HTTP/{version}", "Host: h", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


class Client:
    """A connection on which requests may be sent before earlier ones are answered."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, *requests):
        self.socket.sendall(b"".join(requests))

    def read(self):
        """Return the next response, with the status, the headers, the body, and the server's part that gave it."""
        while (status := int(self.file.readline().split()[1])) == 100:
            self.file.readline()
        headers = parse_headers(self.file)
        body = self.file.read(int(headers["Content-Length"]))
        return SimpleNamespace(status=status, headers=headers, body=body, by=headers["X-By"])

    def ask(self, path, content, *headers):
        """Send one request and return its response."""
        self.send(post(path, content, *headers))
        return self.read()

    def close(self):
        self.file.close()
        self.socket.close()
