"""The least prediction service, to try the load benchmark on; run as `trivial_app.py PORT`."""

import sys

from flask import Flask, Response, jsonify, request
from waitress import serve

app = Flask(__name__)
names: set[str] = set()


@app.post("/predict")
def predict() -> Response:
    """Answer twice the feature."""
    return jsonify(prediction=2 * request.get_json()["feature"])


@app.get("/once")
def once() -> tuple[str, int]:
    """Refuse a request without an id, and one whose id came before."""
    name = request.headers.get("X-Request-Id", "")
    if not name or name in names:
        return "seen", 409
    names.add(name)
    return "new", 200


@app.get("/health")
def health() -> str:
    """Answer without reading anything."""
    return "ok"


if __name__ == "__main__":
    serve(app, host="127.0.0.1", port=int(sys.argv[1]))
