"""A plain Flask view that answers a constant, on the product's own loop; run as `flask_constant.py PORT`."""

import gc
import sys

from flask import Flask, Response, jsonify

from flaskml.server.setup import build_server

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Answer a constant."""
    return jsonify(prediction=0.5)


if __name__ == "__main__":
    server = build_server(app, host="127.0.0.1", port=int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    server.run()
