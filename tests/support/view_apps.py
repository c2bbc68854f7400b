"""Apps with views and streams of their own, the predictions that the views ask for, and clients that may leave."""

import time
from http.client import HTTPConnection

from flask import Flask, Response, current_app, request, stream_with_context

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder

TABLE_BUILDER = SchemaTableBuilder(Schema(features=(Feature(name="a", kind="float"),), layout="array"))


class Client(HTTPConnection):
    """A connection that is not opened again: a later request fails if the server has closed it."""

    auto_open = 0

    def start(self, path, method="GET", body=None, **headers):
        """Send a request; return the response, whose body is not read yet."""
        self.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return self.getresponse()

    def ask(self, *arguments, **headers):
        """Return the status and the body of the response."""
        response = self.start(*arguments, **headers)
        return response.status, response.read()


def leave(clients, streams):
    """Close connections whose responses are not read to their end."""
    for closable in (*streams, *clients):  # The connection stays open as long as either is.
        closable.close()


def app_with_model():
    """Return an app with a model that doubles a number. It is slow, so requests that ask for it at once share calls."""
    app = Flask(__name__)
    app.add_url_rule("/healthy", "healthy", lambda: "yes")

    def compute(table, _):
        time.sleep(0.01)
        return table[:, 0] * 2

    batcher = app.extensions["model"] = Batcher(compute, TABLE_BUILDER.build, ["predict"])
    batcher.costs["predict"].record(1, 0.01)
    return app


def predict(value=None):
    """Return the prediction for the value, by default that of the query. Needs the contexts of the request."""
    value = float(request.args["of"]) if value is None else value
    return float(current_app.extensions["model"].ask(Rows([(value,)], TABLE_BUILDER, is_single=True), "predict")[0])


def add_stream(app, path, parts, over, **options):
    """Add a view that streams the parts until `over` is set; return the lists of its streams that began and ended."""
    begun, ended = [], []

    def generate():
        begun.append(1)
        try:
            for part in parts():
                yield part
                if over.is_set():
                    return
        finally:
            ended.append(1)

    app.add_url_rule(path, path, lambda: Response(stream_with_context(generate()), **options))
    return begun, ended
