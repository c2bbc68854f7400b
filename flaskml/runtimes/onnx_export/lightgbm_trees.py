"""Converter of LightGBM to ONNX in double precision: its trees, and the function of its objective.

The trees come from the model as JSON, which LightGBM documents. They compare and sum in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter
from flaskml.runtimes.onnx_export.tree_ensemble import Ensemble, Tree, add_ensemble

ZERO_LIMIT = float(np.float32(1e-35))
"""LightGBM reads numbers up to this one, and down to its negative, as zero."""

INFINITE_THRESHOLD = 1e300
"""The number that stands for infinity in JSON."""

MAX_CATEGORY = 2.0**31
"""The number that stands for all larger ones: LightGBM has no category above the largest 32-bit integer."""

IDENTITY_OBJECTIVES = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})
"""Objectives whose prediction is the sum of the leaves."""

EXPONENTIAL_OBJECTIVES = frozenset({"poisson", "gamma", "tweedie"})
"""Objectives whose prediction is the exponential of the sum."""

CLASS_OBJECTIVES = frozenset({"binary", "cross_entropy", "multiclass", "multiclassova"})
"""Objectives with a probability for each class; all but the softmax of `multiclass` are sigmoids."""


def convert_lightgbm(scope: Any, operator: Any, container: Any, *, raw_scores: bool) -> None:
    """Write the predictions; of a classifier the labels, and the probabilities or the raw scores.

    Raises `NotPublishable`.
    """
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    outputs = [variable.full_name for variable in operator.outputs]
    model = estimator.booster_.dump_model()
    raw, mean = _add_scores(writer, model)
    objective, _, options = str(model.get("objective", "custom")).partition(" ")
    if not hasattr(estimator, "classes_"):
        _add_prediction(writer, mean, objective, options, outputs[0])
        return
    label, output = outputs
    if objective not in CLASS_OBJECTIVES or len(estimator.classes_) < 2:
        raise NotPublishable(f"There is no graph of LightGBM with classes and the objective {objective}.")
    probabilities = _add_probabilities(writer, mean, objective, options, None if raw_scores else output)
    if raw_scores:
        writer.add_node("Identity", [raw], output)
    writer.add_argmax_label(probabilities, estimator.classes_, label)


def _add_scores(writer: GraphWriter, model: Mapping[str, Any]) -> tuple[str, str]:
    """Add the sums of the leaves, and return their name, and that of their means in a random forest."""
    targets, trees = model["num_tree_per_iteration"], model["tree_info"]
    ensemble, categorical = Ensemble(targets=targets), set[int]()
    for index, entry in enumerate(trees):
        tree = _read_tree(entry["tree_structure"])
        categorical |= {int(tree.feature[node]) for node in tree.categories}
        ensemble.add_tree(tree, index % targets)
    if categorical:
        writer.rows = _add_truncation(writer, categorical, model["max_feature_idx"] + 1)
    scores = add_ensemble(writer, ensemble, round_rows=False)
    if not model["average_output"]:
        return scores, scores
    return scores, writer.add_node("Div", [scores, writer.add_constant([float(len(trees) // targets)])])


def _read_tree(root: Mapping[str, Any]) -> Tree:
    """Return a tree of the JSON model."""
    nodes: list[Mapping[str, Any]] = [root]
    children: list[tuple[int, int]] = []
    for node in nodes:  # The loop also visits the nodes that it appends.
        children.append((len(nodes), len(nodes) + 1))
        if "leaf_value" not in node:
            nodes += [node["left_child"], node["right_child"]]
        elif "leaf_coeff" in node:
            raise NotPublishable("There is no graph of LightGBM with linear trees.")
    splits = [_read_split(node) for node in nodes]
    left, right = np.array(children).T
    return Tree(
        left=left,
        right=right,
        feature=np.array([node.get("split_feature", 0) for node in nodes]),
        threshold=np.array([threshold for threshold, _ in splits]),
        missing_goes_left=np.array([missing for _, missing in splits]),
        is_leaf=np.array(["leaf_value" in node for node in nodes]),
        value=np.array([float(node.get("leaf_value", 0.0)) for node in nodes]),
        categories={
            index: [float(number) for number in node["threshold"].split("||")]
            for index, node in enumerate(nodes)
            if node.get("decision_type") == "=="
        },
    )


def _read_split(node: Mapping[str, Any]) -> tuple[float, bool]:
    """Return the threshold of a node, and whether missing values go left; a split by category has no threshold."""
    if "leaf_value" in node or node["decision_type"] == "==":
        return 0.0, False
    if node["missing_type"] not in ("None", "NaN"):
        raise NotPublishable("There is no graph of LightGBM with zero_as_missing.")
    threshold = float(node["threshold"])
    if abs(threshold) >= INFINITE_THRESHOLD:
        threshold = math.copysign(math.inf, threshold)
    elif abs(threshold) <= ZERO_LIMIT:  # All numbers up to the limit are zero, and are on the same side.
        threshold = ZERO_LIMIT if threshold >= 0 else math.nextafter(-ZERO_LIMIT, -math.inf)
    return threshold, bool(node["default_left"]) if node["missing_type"] == "NaN" else threshold >= 0


def _add_truncation(writer: GraphWriter, categorical: set[int], width: int) -> str:
    """Add the columns of categories as whole numbers, truncated as LightGBM does; missing values become -1."""
    from onnx import TensorProto

    filled = writer.add_node(
        "Where", [writer.add_node("IsNaN", [writer.rows]), writer.add_constant([-1.0]), writer.rows]
    )
    limits = (writer.add_scalar(-1.0), writer.add_scalar(MAX_CATEGORY))
    whole = writer.add_node("Cast", [writer.add_node("Clip", [filled, *limits])], to=TensorProto.INT64)
    is_category = writer.add_constant([index in categorical for index in range(width)], "BOOL")
    return writer.add_node("Where", [is_category, writer.add_node("Cast", [whole], to=TensorProto.DOUBLE), writer.rows])


def _add_prediction(writer: GraphWriter, scores: str, objective: str, options: str, output: str) -> None:
    """Add the prediction of a regression."""
    if objective in IDENTITY_OBJECTIVES and "sqrt" not in options.split():
        writer.add_node("Identity", [scores], output)
    elif objective in EXPONENTIAL_OBJECTIVES:
        writer.add_node("Exp", [scores], output)
    elif objective == "cross_entropy":
        _add_sigmoid(writer, scores, 1.0, output)
    else:
        raise NotPublishable(f"There is no graph of LightGBM with the objective {objective} {options}".rstrip() + ".")


def _add_probabilities(writer: GraphWriter, scores: str, objective: str, options: str, output: str | None) -> str:
    """Add the probabilities of all classes, and return the name of the output."""
    if objective == "multiclass":
        return writer.add_node("Softmax", [scores], output, axis=1)
    factors = [float(option.removeprefix("sigmoid:")) for option in options.split() if option.startswith("sigmoid:")]
    factor = factors[0] if factors else 1.0
    if objective == "multiclassova":
        return _add_sigmoid(writer, scores, factor, output)
    second = _add_sigmoid(writer, scores, factor)
    first = writer.add_node("Sub", [writer.add_constant([1.0]), second])
    return writer.add_node("Concat", [first, second], output, axis=1)


def _add_sigmoid(writer: GraphWriter, scores: str, factor: float, output: str | None = None) -> str:
    """Add the sigmoid of the scores multiplied by a factor, with full precision of small probabilities."""
    one = writer.add_constant([1.0])
    exponential = writer.add_node("Exp", [writer.add_node("Mul", [scores, writer.add_constant([-factor])])])
    return writer.add_node("Div", [one, writer.add_node("Add", [one, exponential])], output)
