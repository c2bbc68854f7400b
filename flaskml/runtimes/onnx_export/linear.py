"""Converters of linear models to ONNX, for skl2onnx to call.

Its own lose small probabilities of classifiers, and write four nodes for a regression where one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flaskml.runtimes.onnx_export.graph_writer import GraphWriter


def _classes(scope: Any, operator: Any, container: Any, *, raw: bool) -> None:
    """The label, and the scores or the probabilities."""
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    label, output = (variable.full_name for variable in operator.outputs[:2])
    product = write.node("MatMul", [write.doubles(), write.constant(estimator.coef_.T.astype(np.float64))])
    scores = write.node("Add", [product, write.constant(np.ravel(estimator.intercept_).astype(np.float64))])
    if raw:
        write.node("Identity", [scores], output)
    else:
        write.probabilities(scores, len(estimator.classes_), output)
    if len(estimator.classes_) > 2:
        write.best(scores, estimator.classes_, label)
    else:
        write.above_zero(scores, estimator.classes_, label)


def _values(scope: Any, operator: Any, container: Any) -> None:
    """The predictions of a regression."""
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    coefficients = np.atleast_2d(estimator.coef_).astype(np.float64)
    intercepts = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), len(coefficients))
    inputs = [write.doubles(), write.constant(coefficients.T), write.constant(intercepts)]
    write.node("Gemm", inputs, operator.outputs[0].full_name)


def linear_converters(*, raw: bool) -> Mapping[type, Callable[[Any, Any, Any], None]]:
    """What converts regressions, and classifiers by linear scores; `raw` asks for the scores."""
    from sklearn import linear_model as models

    classifiers = (models.LogisticRegression, models.LogisticRegressionCV)
    plain = (models.LinearRegression, models.Ridge, models.Lasso, models.ElasticNet)
    searched = (models.RidgeCV, models.LassoCV, models.ElasticNetCV)
    return {**dict.fromkeys(classifiers, partial(_classes, raw=raw)), **dict.fromkeys((*plain, *searched), _values)}
