"""Converters of tree ensembles to ONNX that keep double precision, for skl2onnx to call.

They write the TreeEnsemble operator (ai.onnx.ml, version 5), which sums leaves as scikit-learn does, one tree after the
other in double precision; the older operators round to single precision, and a sum near zero is then off by far more
than a millionth. skl2onnx does not know that version yet, so the nodes carry a domain of our own until the conversion
is over (`finalize_tree_nodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.graph_writer import GraphWriter

PLACEHOLDER_DOMAIN = "flaskml.trees"
"""The domain of nodes that are to be TreeEnsembles."""

MAX_CLASSES = 10
"""Classes up to which a forest is converted: the operator has one number in a leaf, so each class takes all trees."""

BRANCH_LEQ = 0
"""The operator's number for the comparison of all nodes."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree: its inner nodes and leaves in the arrays of scikit-learn, node 0 first."""

    left: np.ndarray
    """The node that follows when a value is at most the threshold; for a leaf any number."""

    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_goes_left: np.ndarray
    is_leaf: np.ndarray
    value: np.ndarray
    """What each leaf adds."""


@dataclass(slots=True)
class Ensemble:
    """Trees as the attributes of one operator; inner nodes and leaves are numbered apart, across all trees."""

    targets: int = 1
    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    missing_true: list[int] = field(default_factory=list)
    branches: dict[str, list[int]] = field(
        default_factory=lambda: {"trueleafs": [], "truenodeids": [], "falseleafs": [], "falsenodeids": []}
    )
    leaf_weights: list[float] = field(default_factory=list)
    leaf_targets: list[int] = field(default_factory=list)

    def start(self, values: np.ndarray) -> None:
        """Adds to each target what comes before its trees; it is first in the sum, as it is for the estimator."""
        for target, value in enumerate(values):
            self.add(_leaf(value), target)

    def add(self, tree: Tree, target: int = 0) -> None:
        """Adds a tree that adds to a target."""
        if tree.is_leaf[0]:
            tree = _leaf(tree.value[0])
        inner, leaves = np.flatnonzero(~tree.is_leaf), np.flatnonzero(tree.is_leaf)
        place = np.empty(len(tree.is_leaf), dtype=np.int64)
        place[inner] = np.arange(len(inner)) + len(self.splits)
        place[leaves] = np.arange(len(leaves)) + len(self.leaf_weights)
        self.roots.append(len(self.splits))
        for side, children in (("true", tree.left[inner]), ("false", tree.right[inner])):
            self.branches[f"{side}leafs"] += tree.is_leaf[children].astype(int).tolist()
            self.branches[f"{side}nodeids"] += place[children].tolist()
        self.features += tree.feature[inner].tolist()
        self.splits += tree.threshold[inner].tolist()
        self.missing_true += tree.missing_goes_left[inner].astype(int).tolist()
        self.leaf_weights += tree.value[leaves].tolist()
        self.leaf_targets += [target] * len(leaves)

    def attributes(self) -> dict[str, Any]:
        """What the operator takes."""
        from onnx.numpy_helper import from_array

        return {
            "n_targets": self.targets,
            "aggregate_function": 1,
            "post_transform": 0,
            "tree_roots": self.roots,
            "nodes_featureids": self.features,
            "nodes_splits": from_array(np.array(self.splits, dtype=np.float64)),
            "nodes_modes": from_array(np.full(len(self.splits), BRANCH_LEQ, dtype=np.uint8)),
            "nodes_missing_value_tracks_true": self.missing_true,
            **{f"nodes_{name}": numbers for name, numbers in self.branches.items()},
            "leaf_weights": from_array(np.array(self.leaf_weights, dtype=np.float64)),
            "leaf_targetids": self.leaf_targets,
        }


def _leaf(value: float) -> Tree:
    """A tree that adds the same everywhere; a leaf alone cannot be the root of one."""
    whole, values = np.array([1, 0, 0]), np.array([0.0, value, value])
    is_leaf = np.array([False, True, True])
    return Tree(whole, whole * 2, whole * 0, values * 0, whole * 0, is_leaf, values)


def _add_trees(write: GraphWriter, ensemble: Ensemble, *, single: bool) -> str:
    """Adds the operator; `single` compares values as scikit-learn's own trees do, rounded to single precision."""
    from onnx import TensorProto

    rows = write.rows
    if single:
        rows = write.node("Cast", [write.node("Cast", [rows], to=TensorProto.FLOAT)], to=TensorProto.DOUBLE)
    return write.add("Trees", [rows], PLACEHOLDER_DOMAIN, **ensemble.attributes())


def _of_sklearn(tree: Any, values: np.ndarray) -> Tree:
    """A tree of scikit-learn's, with what each node would add if it were a leaf."""
    missing = getattr(tree, "missing_go_to_left", None)
    missing = np.zeros(tree.node_count, dtype=np.uint8) if missing is None else missing
    left, right = tree.children_left, tree.children_right
    return Tree(left, right, tree.feature, tree.threshold, missing, left < 0, values)


def _of_histogram(predictor: Any) -> Tree:
    """A tree of histogram boosting's."""
    nodes = predictor.nodes
    if nodes["is_categorical"].any():
        raise NotPublishable("A graph has no splits by category.")
    is_leaf = nodes["is_leaf"].astype(bool)
    names = ("left", "right", "feature_idx", "num_threshold", "missing_go_to_left")
    left, right, feature, threshold, missing = (nodes[name] for name in names)
    return Tree(left.astype(np.int64), right.astype(np.int64), feature, threshold, missing, is_leaf, nodes["value"])


def _trees_of(estimator: Any) -> Sequence[Any]:
    return [part.tree_ for part in getattr(estimator, "estimators_", [estimator])]


def _mean(scope: Any, operator: Any, container: Any) -> None:
    """A tree, or the mean of a forest, for one quantity."""
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    if estimator.n_outputs_ != 1:
        raise NotPublishable("A graph of trees has one output.")
    ensemble, trees = Ensemble(), _trees_of(estimator)
    for tree in trees:
        ensemble.add(_of_sklearn(tree, tree.value[:, 0, 0]))
    total = _add_trees(write, ensemble, single=True)
    write.node("Div", [total, write.constant([len(trees)])], operator.outputs[0].full_name)


def _vote(scope: Any, operator: Any, container: Any) -> None:
    """The mean of what trees hold for probable."""
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    trees, labels = _trees_of(estimator), estimator.classes_
    if estimator.n_outputs_ != 1 or not 2 <= len(labels) <= MAX_CLASSES:
        raise NotPublishable(f"A graph of trees has one output, and 2 to {MAX_CLASSES} classes.")
    ensemble = Ensemble(targets=len(labels))
    for label in range(len(labels)):
        for tree in trees:
            ensemble.add(_of_sklearn(tree, tree.value[:, 0, label]), label)
    total = _add_trees(write, ensemble, single=True)
    probable = write.node("Div", [total, write.constant([len(trees)])], operator.outputs[1].full_name)
    write.best(probable, labels, operator.outputs[0].full_name)


def _gradient_scores(write: GraphWriter, estimator: Any) -> str:
    """The sums of gradient boosting, without a link."""
    ensemble = Ensemble(targets=estimator.estimators_.shape[1])
    # Where it starts from is one constant, unless another estimator was set to say it: the graph is then found false.
    ensemble.start(np.ravel(estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))))
    for stage in estimator.estimators_:
        for target, part in enumerate(stage):
            ensemble.add(_of_sklearn(part.tree_, estimator.learning_rate * part.tree_.value[:, 0, 0]), target)
    return _add_trees(write, ensemble, single=True)


def _gradient_sum(scope: Any, operator: Any, container: Any) -> None:
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    write.node("Identity", [_gradient_scores(write, estimator)], operator.outputs[0].full_name)


def _gradient_classes(scope: Any, operator: Any, container: Any, *, raw: bool) -> None:
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    _refuse_loss(estimator, "log_loss")
    _boosted(write, operator, _gradient_scores(write, estimator), raw=raw, or_zero=True)


def _histogram_scores(write: GraphWriter, estimator: Any) -> str:
    if getattr(estimator, "is_categorical_", None) is not None:  # Its columns are then in another order.
        raise NotPublishable("A graph has no splits by category.")
    ensemble = Ensemble(targets=estimator.n_trees_per_iteration_)
    ensemble.start(np.ravel(estimator._baseline_prediction))
    for stage in estimator._predictors:
        for target, predictor in enumerate(stage):
            ensemble.add(_of_histogram(predictor), target)
    return _add_trees(write, ensemble, single=False)


def _histogram_sum(scope: Any, operator: Any, container: Any) -> None:
    write, estimator = GraphWriter(scope, operator, container), operator.raw_operator
    _refuse_loss(estimator, "squared_error", "absolute_error", "quantile")
    write.node("Identity", [_histogram_scores(write, estimator)], operator.outputs[0].full_name)


def _histogram_classes(scope: Any, operator: Any, container: Any, *, raw: bool) -> None:
    write = GraphWriter(scope, operator, container)
    _boosted(write, operator, _histogram_scores(write, operator.raw_operator), raw=raw, or_zero=False)


def _refuse_loss(estimator: Any, *known: str) -> None:
    if estimator.loss not in known:
        raise NotPublishable(f"There is no graph of {type(estimator).__name__} with the loss {estimator.loss}.")


def _boosted(write: GraphWriter, operator: Any, scores: str, *, raw: bool, or_zero: bool) -> None:
    """The label, and the scores or the probabilities; `or_zero` gives a score of zero to the second of two classes."""
    labels = operator.raw_operator.classes_
    label, output = (variable.full_name for variable in operator.outputs[:2])
    if raw:
        write.node("Identity", [scores], output)
    else:
        write.probabilities(scores, len(labels), output)
    if len(labels) > 2:
        write.best(scores, labels, label)
    else:
        write.above_zero(scores, labels, label, or_zero=or_zero)


def tree_converters(*, raw: bool) -> Mapping[type, Callable[[Any, Any, Any], None]]:
    """What converts the kinds of ensembles that are worth it, by their class; `raw` asks for scores before the link."""
    from sklearn import ensemble, tree

    return {
        tree.DecisionTreeRegressor: _mean,
        tree.ExtraTreeRegressor: _mean,
        ensemble.RandomForestRegressor: _mean,
        ensemble.ExtraTreesRegressor: _mean,
        tree.DecisionTreeClassifier: _vote,
        tree.ExtraTreeClassifier: _vote,
        ensemble.RandomForestClassifier: _vote,
        ensemble.ExtraTreesClassifier: _vote,
        ensemble.GradientBoostingRegressor: _gradient_sum,
        ensemble.GradientBoostingClassifier: partial(_gradient_classes, raw=raw),
        ensemble.HistGradientBoostingRegressor: _histogram_sum,
        ensemble.HistGradientBoostingClassifier: partial(_histogram_classes, raw=raw),
    }


def finalize_tree_nodes(graph: Any) -> None:
    """Gives the nodes of ours in a converted model the operator and the version that they are of."""
    ours = [node for node in graph.graph.node if node.domain == PLACEHOLDER_DOMAIN]
    if not ours:
        return
    for node in ours:
        node.op_type, node.domain = "TreeEnsemble", "ai.onnx.ml"
    kept = [opset for opset in graph.opset_import if opset.domain not in (PLACEHOLDER_DOMAIN, "ai.onnx.ml")]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    graph.opset_import.add(domain="ai.onnx.ml", version=5)
