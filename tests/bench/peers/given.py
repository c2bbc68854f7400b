"""The input of a peer's app, from environment variables: a model's files, and the names of its features."""

import os
from typing import Any

FEATURES = tuple(os.environ["FEATURES"].split(","))
KINDS = tuple({"text": str, "number": float}[kind] for kind in os.environ["KINDS"].split(","))
PREDICTION: type = {"float": float, "int": int}[os.environ["PREDICTION"]]


def estimator() -> Any:
    """Return the fitted estimator."""
    import joblib

    return joblib.load(os.environ["MODEL"])


def session() -> Any:
    """Return an onnxruntime session of the estimator's graph, which computes on the thread that asks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
