"""The app with two views of its user's own that `bench_beside.py` calls beside predictions: one waits, one computes."""

import time

from flask import Response, jsonify

from flaskml import create_app

WAIT_SECONDS = 0.1
COMPUTE_SECONDS = 0.5

app = create_app()


@app.get("/wait")
def wait() -> Response:
    """Answer after a wait without the GIL, as for a database."""
    time.sleep(WAIT_SECONDS)
    return jsonify(waited=WAIT_SECONDS)


@app.get("/compute")
def compute() -> Response:
    """Answer after a computation in pure Python, which wants the GIL all the time."""
    end = time.perf_counter() + COMPUTE_SECONDS
    turns = 0
    while time.perf_counter() < end:
        turns += 1
    return jsonify(turns=turns)
