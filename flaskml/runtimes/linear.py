"""Converters of linear classifiers to ONNX, for skl2onnx to call: its own lose small probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flaskml.runtimes.writing import Writer


def _classes(scope: Any, operator: Any, container: Any, *, raw: bool) -> None:
    """The label, and the scores or the probabilities."""
    from onnx import TensorProto

    write, estimator = Writer(scope, operator, container), operator.raw_operator
    label, output = (variable.full_name for variable in operator.outputs[:2])
    rows = write.node("Cast", [write.rows], to=TensorProto.DOUBLE)
    product = write.node("MatMul", [rows, write.constant(estimator.coef_.T.astype(np.float64))])
    scores = write.node("Add", [product, write.constant(np.ravel(estimator.intercept_).astype(np.float64))])
    if raw:
        write.node("Identity", [scores], output)
    else:
        write.probabilities(scores, len(estimator.classes_), output)
    if len(estimator.classes_) > 2:
        write.best(scores, estimator.classes_, label)
    else:
        write.above_zero(scores, estimator.classes_, label)


def converters(*, raw: bool) -> Mapping[type, Callable[[Any, Any, Any], None]]:
    """What converts the classifiers whose probabilities follow from linear scores; `raw` asks for the scores."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    return dict.fromkeys((LogisticRegression, LogisticRegressionCV), partial(_classes, raw=raw))
