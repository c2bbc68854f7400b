"""The least prediction service, to try the load benchmark on; run as `trivial_app.py PORT`."""

import sys

from flask import Flask, Response, jsonify, request
from waitress import serve

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Answer twice the feature."""
    return jsonify(prediction=2 * request.get_json()["feature"])


@app.get("/health")
def health() -> str:
    """Answer without reading anything."""
    return "ok"


if __name__ == "__main__":
    serve(app, host="127.0.0.1", port=int(sys.argv[1]))
