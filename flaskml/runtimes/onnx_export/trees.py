"""Converters of the tree ensembles of scikit-learn to ONNX in double precision, which skl2onnx calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter
from flaskml.runtimes.onnx_export.tree_ensemble import Ensemble, Tree, add_ensemble
from flaskml.schema.tables import json_value

MAX_CLASSES = 10
"""Classes of a forest, at most: a leaf of the operator holds one number, so each class needs a copy of all trees."""


def _tree_from_sklearn(tree: Any, values: np.ndarray) -> Tree:
    """Return a tree of scikit-learn; `values` holds for each node the number that it adds as a leaf."""
    missing = getattr(tree, "missing_go_to_left", None)
    missing = np.zeros(tree.node_count, dtype=np.uint8) if missing is None else missing
    left, right = tree.children_left, tree.children_right
    return Tree(left, right, tree.feature, tree.threshold, missing, left < 0, values)


def _tree_from_histogram(predictor: Any, counts: Sequence[int]) -> Tree:
    """Return a tree of histogram gradient boosting; `counts` holds the number of categories of the first columns."""
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"].astype(bool)
    names = ("left", "right", "feature_idx", "num_threshold", "missing_go_to_left")
    left, right, feature, threshold, missing = (nodes[name].astype(np.float64) for name in names)
    left, right = left.astype(np.int64), right.astype(np.int64)
    feature, missing = feature.astype(np.int64), missing.astype(np.int64)
    sets: dict[int, list[float]] = {}
    for index in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~is_leaf).tolist():
        members = _members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][index]])
        if missing[index]:  # Only the other known categories go right, so the set is of these, and the sides change.
            members = set(range(counts[int(feature[index])])) - members
            left[index], right[index], missing[index] = right[index], left[index], 0
        sets[index] = sorted(map(float, members))
    return Tree(left, right, feature, threshold, missing, is_leaf, nodes["value"], sets)


def _members(bitset: np.ndarray) -> set[int]:
    """Return the numbers whose bits are set; a bitset is an array of 32-bit integers."""
    bits = np.unpackbits(np.ascontiguousarray(bitset, dtype="<u4").view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def _category_counts(estimator: Any) -> Sequence[int]:
    """Return the number of categories of each of the first columns of histogram gradient boosting."""
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    return [sum(json_value(value) is not None for value in column.tolist()) for column in encoder.categories_]


def _sklearn_trees(estimator: Any) -> Sequence[Any]:
    """Return the trees of a forest, or the only tree of a single-tree estimator."""
    return [part.tree_ for part in getattr(estimator, "estimators_", [estimator])]


def _convert_regression_forest(scope: Any, operator: Any, container: Any) -> None:
    """Write the mean of the trees of a regression forest, or of a single tree."""
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    if estimator.n_outputs_ != 1:
        raise NotPublishable("A graph of trees has one output; fit one estimator for each target.")
    ensemble, trees = Ensemble(), _sklearn_trees(estimator)
    for tree in trees:
        ensemble.add_tree(_tree_from_sklearn(tree, tree.value[:, 0, 0]))
    total = add_ensemble(writer, ensemble, round_rows=True)
    writer.add_node("Div", [total, writer.add_constant([len(trees)])], operator.outputs[0].full_name)


def _convert_classification_forest(scope: Any, operator: Any, container: Any) -> None:
    """Write the labels of a forest, and the mean of the probabilities that its trees give."""
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    trees, labels = _sklearn_trees(estimator), estimator.classes_
    if estimator.n_outputs_ != 1 or not 2 <= len(labels) <= MAX_CLASSES:
        raise NotPublishable(f"A graph of trees has one output, and 2 to {MAX_CLASSES} classes.")
    ensemble = Ensemble(targets=len(labels))
    for label in range(len(labels)):
        for tree in trees:
            ensemble.add_tree(_tree_from_sklearn(tree, tree.value[:, 0, label]), label)
    total = add_ensemble(writer, ensemble, round_rows=True)
    probabilities = writer.add_node("Div", [total, writer.add_constant([len(trees)])], operator.outputs[1].full_name)
    writer.add_argmax_label(probabilities, labels, operator.outputs[0].full_name)


def _add_gradient_boosting(writer: GraphWriter, estimator: Any) -> str:
    """Add the raw scores of gradient boosting, and return the name of the output."""
    ensemble = Ensemble(targets=estimator.estimators_.shape[1])
    # The baseline is constant unless `init` is another estimator; the comparison then rejects the graph.
    baseline = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))
    ensemble.add_baseline(np.ravel(baseline))
    for stage in estimator.estimators_:
        for target, part in enumerate(stage):
            values = estimator.learning_rate * part.tree_.value[:, 0, 0]
            ensemble.add_tree(_tree_from_sklearn(part.tree_, values), target)
    return add_ensemble(writer, ensemble, round_rows=True)


def _convert_gradient_regressor(scope: Any, operator: Any, container: Any) -> None:
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    writer.add_node("Identity", [_add_gradient_boosting(writer, estimator)], operator.outputs[0].full_name)


def _convert_gradient_classifier(scope: Any, operator: Any, container: Any, *, raw_scores: bool) -> None:
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    _check_loss(estimator, "log_loss")
    log_odds = _add_gradient_boosting(writer, estimator)
    _add_classifier_outputs(writer, operator, log_odds, raw_scores=raw_scores, or_zero=True)


def _add_histogram_boosting(writer: GraphWriter, estimator: Any) -> str:
    """Add the raw scores of histogram gradient boosting, and return the name of the output."""
    counts: Sequence[int] = ()
    if getattr(estimator, "is_categorical_", None) is not None:  # The estimator then reorders its columns.
        if not writer.has_category_numbers:
            raise NotPublishable("A graph has splits by category only in the last step of a pipeline.")
        counts = _category_counts(estimator)
    ensemble = Ensemble(targets=estimator.n_trees_per_iteration_)
    ensemble.add_baseline(np.ravel(estimator._baseline_prediction))
    for stage in estimator._predictors:
        for target, predictor in enumerate(stage):
            ensemble.add_tree(_tree_from_histogram(predictor, counts), target)
    return add_ensemble(writer, ensemble, round_rows=False)


def _convert_histogram_regressor(scope: Any, operator: Any, container: Any) -> None:
    writer, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    _check_loss(estimator, "squared_error", "absolute_error", "quantile")
    writer.add_node("Identity", [_add_histogram_boosting(writer, estimator)], operator.outputs[0].full_name)


def _convert_histogram_classifier(scope: Any, operator: Any, container: Any, *, raw_scores: bool) -> None:
    writer = GraphWriter(scope, operator, container)
    log_odds = _add_histogram_boosting(writer, operator.raw_operator)
    _add_classifier_outputs(writer, operator, log_odds, raw_scores=raw_scores, or_zero=False)


def _check_loss(estimator: Any, *supported: str) -> None:
    """Raise `NotPublishable` for an estimator with another loss."""
    if estimator.loss not in supported:
        name, losses = type(estimator).__name__, ", ".join(supported)
        raise NotPublishable(f"There is no graph of {name} with the loss {estimator.loss}, only with {losses}.")


def _add_classifier_outputs(
    writer: GraphWriter, operator: Any, log_odds: str, *, raw_scores: bool, or_zero: bool
) -> None:
    """Add the labels, and the log-odds if `raw_scores`, else the probabilities.

    With `or_zero`, log-odds of zero mean the second of two classes.
    """
    labels = operator.raw_operator.classes_
    label, output = (variable.full_name for variable in operator.outputs[:2])
    if raw_scores:
        writer.add_node("Identity", [log_odds], output)
    else:
        writer.add_probabilities(log_odds, len(labels), output)
    if len(labels) > 2:
        writer.add_argmax_label(log_odds, labels, label)
    else:
        writer.add_binary_label(log_odds, labels, label, or_zero=or_zero)


def tree_converters(*, raw_scores: bool) -> Mapping[type, Callable[[Any, Any, Any], None]]:
    """Return the converter of each tree ensemble by its class; with `raw_scores`, boosted classifiers output log-odds.

    The classes are those that an ONNX graph computes faster.
    """
    from sklearn import ensemble, tree

    return {
        tree.DecisionTreeRegressor: _convert_regression_forest,
        tree.ExtraTreeRegressor: _convert_regression_forest,
        ensemble.RandomForestRegressor: _convert_regression_forest,
        ensemble.ExtraTreesRegressor: _convert_regression_forest,
        tree.DecisionTreeClassifier: _convert_classification_forest,
        tree.ExtraTreeClassifier: _convert_classification_forest,
        ensemble.RandomForestClassifier: _convert_classification_forest,
        ensemble.ExtraTreesClassifier: _convert_classification_forest,
        ensemble.GradientBoostingRegressor: _convert_gradient_regressor,
        ensemble.GradientBoostingClassifier: partial(_convert_gradient_classifier, raw_scores=raw_scores),
        ensemble.HistGradientBoostingRegressor: _convert_histogram_regressor,
        ensemble.HistGradientBoostingClassifier: partial(_convert_histogram_classifier, raw_scores=raw_scores),
    }
