"""Converters of linear models to ONNX, which skl2onnx calls.

They replace the converters of skl2onnx, which lose small probabilities of classifiers, and write four nodes for a
regression where one suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flaskml.runtimes.onnx_export.graph_writer import GraphWriter


def _convert_classifier(scope: Any, operator: Any, container: Any, *, raw_scores: bool) -> None:
    """Write the labels, and the log-odds if `raw_scores`, else the probabilities."""
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    label, output = (variable.full_name for variable in operator.outputs[:2])
    coefficients = writer.add_constant(np.atleast_2d(estimator.coef_).T.astype(np.float64))
    product = writer.add_node("MatMul", [writer.cast_rows_to_double(), coefficients])
    intercepts = writer.add_constant(np.ravel(estimator.intercept_).astype(np.float64))
    scores = writer.add_node("Add", [product, intercepts])
    if raw_scores:
        writer.add_node("Identity", [scores], output)
    else:
        writer.add_probabilities(scores, len(estimator.classes_), output)
    if len(estimator.classes_) > 2:
        writer.add_argmax_label(scores, estimator.classes_, label)
    else:
        writer.add_binary_label(scores, estimator.classes_, label)


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Write the predictions as one Gemm node."""
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    coefficients = np.atleast_2d(estimator.coef_).astype(np.float64)
    intercepts = np.broadcast_to(np.asarray(estimator.intercept_, dtype=np.float64), len(coefficients))
    inputs = [writer.cast_rows_to_double(), writer.add_constant(coefficients.T), writer.add_constant(intercepts)]
    writer.add_node("Gemm", inputs, operator.outputs[0].full_name)


def without_probabilities() -> tuple[type, ...]:
    """Return the classifiers of which skl2onnx knows that they have no probabilities."""
    from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV
    from sklearn.svm import LinearSVC

    return RidgeClassifier, RidgeClassifierCV, LinearSVC


def linear_converters(*, raw_scores: bool) -> Mapping[type, Callable[[Any, Any, Any], None]]:
    """Return the converter of each linear model by its class; with `raw_scores`, classifiers output log-odds."""
    from sklearn import linear_model as models

    classifiers = (models.LogisticRegression, models.LogisticRegressionCV, models.Perceptron, *without_probabilities())
    regressors = (
        *(models.LinearRegression, models.Ridge, models.Lasso, models.ElasticNet),
        *(models.RidgeCV, models.LassoCV, models.ElasticNetCV),
    )
    convert_classifier = partial(_convert_classifier, raw_scores=raw_scores)
    return {**dict.fromkeys(classifiers, convert_classifier), **dict.fromkeys(regressors, _convert_regressor)}
