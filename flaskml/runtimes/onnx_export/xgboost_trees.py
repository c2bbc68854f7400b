"""Converter of XGBoost to ONNX: its trees and the function of its objective, in single precision as in the library.

XGBoost rounds rows to single precision, and sums leaves in single precision, one tree after the other, as the operator
does. Its exponential function may differ from the graph's in the last digit of single precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter
from flaskml.runtimes.onnx_export.tree_ensemble import Ensemble, Tree, add_ensemble

SUM_OBJECTIVES = frozenset({"reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror"})
"""Objectives whose prediction is the sum of the leaves."""

PROBABILITY_OBJECTIVES = frozenset({"binary:logistic", "multi:softprob"})
"""Objectives with a probability for each class, the sigmoid or the softmax of the sums."""

MAX_EXPONENT = 88.7
"""The largest exponent of the sigmoid, which XGBoost limits to avoid an overflow."""


def convert_xgboost(scope: Any, operator: Any, container: Any, *, raw_scores: bool) -> None:
    """Write the predictions; of a classifier the labels and the probabilities. Raises `NotPublishable`."""
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    outputs = [variable.full_name for variable in operator.outputs]
    learner = json.loads(estimator.get_booster().save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    supported = PROBABILITY_OBJECTIVES if len(outputs) > 1 else SUM_OBJECTIVES
    if objective not in supported or raw_scores:
        raise NotPublishable(f"There is no graph of XGBoost with the objective {objective}.")
    scores = add_ensemble(writer, _read_ensemble(estimator, learner, objective), round_rows=False)
    if objective == "binary:logistic":
        _add_binary(writer, scores, estimator.classes_, outputs)
    elif objective == "multi:softprob":
        writer.add_argmax_label(_add_softmax(writer, scores, outputs[1]), estimator.classes_, outputs[0])
    else:
        writer.add_node("Identity", [scores], outputs[0])


def _read_ensemble(estimator: Any, learner: Mapping[str, Any], objective: str) -> Ensemble:
    """Return the trees that a prediction uses, after the base score."""
    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    if booster["name"] != "gbtree" or int(parameters.get("num_target", 1)) != 1:
        raise NotPublishable("There is a graph of XGBoost with the booster gbtree and one target only.")
    if estimator.missing is not None and not np.isnan(estimator.missing):
        raise NotPublishable("There is a graph of XGBoost only if NaN marks missing values.")
    model = booster["model"]
    count = len(model["trees"])
    if (best := learner["attributes"].get("best_iteration")) is not None:
        count = model["iteration_indptr"][int(best) + 1]
    targets = max(int(parameters["num_class"]), 1)
    base = np.ravel(json.loads(parameters["base_score"])).astype(np.float32)
    if objective == "binary:logistic":  # The base score is a probability; the logarithm of numpy is less precise.
        base = -np.log((np.float32(1) / base - np.float32(1)).astype(np.float64)).astype(np.float32)
    ensemble = Ensemble(targets=targets, dtype=np.float32)
    ensemble.add_baseline(np.broadcast_to(base, targets))
    for tree, target in zip(model["trees"][:count], model["tree_info"][:count], strict=True):
        ensemble.add_tree(_read_tree(tree), target)
    return ensemble


def _read_tree(tree: Mapping[str, Any]) -> Tree:
    """Return a tree: values below the threshold go left, so the largest number below it is the new threshold."""
    if any(tree["split_type"]):
        raise NotPublishable("There is no graph of XGBoost with splits by category.")
    left, right, feature, missing = (
        np.array(tree[name]) for name in ("left_children", "right_children", "split_indices", "default_left")
    )
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    return Tree(
        left=left,
        right=right,
        feature=feature,
        threshold=np.nextafter(conditions, np.float32(-np.inf)),
        missing_goes_left=missing,
        is_leaf=left < 0,
        value=conditions,
    )


def _add_exponential(writer: GraphWriter, exponents: str) -> str:
    """Add the exponential in double precision, rounded to single precision."""
    from onnx import TensorProto

    doubles = writer.add_node("Cast", [exponents], to=TensorProto.DOUBLE)
    return writer.add_node("Cast", [writer.add_node("Exp", [doubles])], to=TensorProto.FLOAT)


def _add_binary(writer: GraphWriter, scores: str, labels: np.ndarray, outputs: list[str]) -> None:
    """Add the sigmoid, the probabilities of both classes, and the second label if its probability is above a half."""
    from onnx import TensorProto

    one = writer.add_constant([1.0], "FLOAT")
    exponents = writer.add_node("Min", [writer.add_node("Neg", [scores]), writer.add_constant([MAX_EXPONENT], "FLOAT")])
    second = writer.add_node("Div", [one, writer.add_node("Add", [_add_exponential(writer, exponents), one])])
    writer.add_node("Concat", [writer.add_node("Sub", [one, second]), second], outputs[1], axis=1)
    half = writer.add_constant([0.5], "FLOAT")
    difference = writer.add_node("Cast", [writer.add_node("Sub", [second, half])], to=TensorProto.DOUBLE)
    writer.add_binary_label(difference, labels, outputs[0])


def _add_softmax(writer: GraphWriter, scores: str, output: str) -> str:
    """Add the softmax with the sum in double precision."""
    from onnx import TensorProto

    largest = writer.add_node("ReduceMax", [scores], axes=[1], keepdims=1)
    exponential = _add_exponential(writer, writer.add_node("Sub", [scores, largest]))
    doubles = writer.add_node("Cast", [exponential], to=TensorProto.DOUBLE)
    total = writer.add_node("ReduceSum", [doubles, writer.add_constant([1], "INT64")], keepdims=1)
    return writer.add_node("Div", [exponential, writer.add_node("Cast", [total], to=TensorProto.FLOAT)], output)
