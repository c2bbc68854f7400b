"""Trees as attributes of the TreeEnsemble operator (ai.onnx.ml, opset 5), in double precision.

The operator sums leaves as the libraries of trees do, one tree after the other. The older operators round to single
precision: a sum near zero then has a relative error far above a millionth. skl2onnx does not support that opset yet, so
the nodes have a placeholder domain until the conversion is complete (`finalize_tree_nodes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaskml.runtimes.onnx_export.graph_writer import GraphWriter

PLACEHOLDER_DOMAIN = "flaskml.trees"
"""The domain of nodes that become TreeEnsemble operators."""

BRANCH_LEQ = 0
"""The node mode of the operator for `value <= threshold`."""

BRANCH_MEMBER = 6
"""The node mode of the operator for splits by category: whether the value is one of a set.

onnxruntime truncates the values of some of these splits, so the columns hold whole numbers or NaN (`categories`).
"""

NO_CATEGORY = -2.0
"""The number in an empty set, which the operator does not allow: no category has it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree as the node arrays of scikit-learn, for inner nodes and leaves alike; node 0 is the root."""

    left: np.ndarray
    """The child for values up to the threshold, or in the set of categories; any number for a leaf."""

    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_goes_left: np.ndarray
    is_leaf: np.ndarray
    value: np.ndarray
    """The number that each leaf adds to the sum."""

    categories: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """The set of each node that splits by category."""


@dataclass(slots=True)
class Ensemble:
    """Trees as the attributes of one TreeEnsemble; inner nodes and leaves have separate numbers across all trees."""

    targets: int = 1
    dtype: type[np.floating] = np.float64
    """The precision of the rows, the thresholds and the sums."""

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    sets: list[float] = field(default_factory=list)
    """The categories of all sets, NaN after each set."""

    missing_true: list[int] = field(default_factory=list)
    branches: dict[str, list[int]] = field(
        default_factory=lambda: {"trueleafs": [], "truenodeids": [], "falseleafs": [], "falsenodeids": []}
    )
    leaf_weights: list[float] = field(default_factory=list)
    leaf_targets: list[int] = field(default_factory=list)

    def add_baseline(self, values: np.ndarray) -> None:
        """Add the initial value of each target; it is the first summand, as in the estimator."""
        for target, value in enumerate(values):
            self.add_tree(_constant_tree(value), target)

    def add_tree(self, tree: Tree, target: int = 0) -> None:
        """Add a tree to the sum of a target."""
        if tree.is_leaf[0]:
            tree = _constant_tree(tree.value[0])
        inner, leaves = np.flatnonzero(~tree.is_leaf), np.flatnonzero(tree.is_leaf)
        number = np.empty(len(tree.is_leaf), dtype=np.int64)
        number[inner] = np.arange(len(inner)) + len(self.splits)
        number[leaves] = np.arange(len(leaves)) + len(self.leaf_weights)
        self.roots.append(len(self.splits))
        for side, children in (("true", tree.left[inner]), ("false", tree.right[inner])):
            self.branches[f"{side}leafs"] += tree.is_leaf[children].astype(int).tolist()
            self.branches[f"{side}nodeids"] += number[children].tolist()
        self.features += tree.feature[inner].tolist()
        self.splits += tree.threshold[inner].tolist()
        self.modes += [BRANCH_MEMBER if node in tree.categories else BRANCH_LEQ for node in inner.tolist()]
        for node in inner.tolist():
            if node in tree.categories:
                self.sets += [*(tree.categories[node] or [NO_CATEGORY]), float("nan")]
        self.missing_true += tree.missing_goes_left[inner].astype(int).tolist()
        self.leaf_weights += tree.value[leaves].tolist()
        self.leaf_targets += [target] * len(leaves)

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the operator."""
        from onnx.numpy_helper import from_array

        sets = {"membership_values": from_array(np.array(self.sets, dtype=np.float64))} if self.sets else {}
        return {
            **sets,
            "n_targets": self.targets,
            "aggregate_function": 1,
            "post_transform": 0,
            "tree_roots": self.roots,
            "nodes_featureids": self.features,
            "nodes_splits": from_array(np.array(self.splits, dtype=self.dtype)),
            "nodes_modes": from_array(np.array(self.modes, dtype=np.uint8)),
            "nodes_missing_value_tracks_true": self.missing_true,
            **{f"nodes_{name}": values for name, values in self.branches.items()},
            "leaf_weights": from_array(np.array(self.leaf_weights, dtype=self.dtype)),
            "leaf_targetids": self.leaf_targets,
        }


def _constant_tree(value: float) -> Tree:
    """Return a tree that adds the same value to every row; the operator allows no leaf as a root."""
    left, values = np.array([1, 0, 0]), np.array([0.0, value, value])
    is_leaf = np.array([False, True, True])
    return Tree(left, left * 2, left * 0, values * 0, left * 0, is_leaf, values)


def add_ensemble(writer: GraphWriter, ensemble: Ensemble, *, round_rows: bool) -> str:
    """Add the operator; `round_rows` rounds rows to single precision, as the trees of scikit-learn do."""
    from onnx import TensorProto

    rows, is_single = writer.rows, ensemble.dtype == np.float32
    if round_rows or is_single:
        rows = writer.add_node("Cast", [rows], to=TensorProto.FLOAT)
    if round_rows and not is_single:
        rows = writer.add_node("Cast", [rows], to=TensorProto.DOUBLE)
    return writer.add_custom_node("Trees", [rows], PLACEHOLDER_DOMAIN, **ensemble.attributes())


def finalize_tree_nodes(model: Any) -> None:
    """Replace the placeholder domain in a converted model by the TreeEnsemble operator and its opset."""
    nodes = [node for node in model.graph.node if node.domain == PLACEHOLDER_DOMAIN]
    if not nodes:
        return
    for node in nodes:
        node.op_type, node.domain = "TreeEnsemble", "ai.onnx.ml"
    other_opsets = [opset for opset in model.opset_import if opset.domain not in (PLACEHOLDER_DOMAIN, "ai.onnx.ml")]
    del model.opset_import[:]
    model.opset_import.extend(other_opsets)
    model.opset_import.add(domain="ai.onnx.ml", version=5)
