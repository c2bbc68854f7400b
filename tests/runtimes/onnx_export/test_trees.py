"""Tree ensembles as graphs: the same numbers, and the same decision at a tie."""

import warnings

import numpy as np
import pytest
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeRegressor

from tests.support.numeric_cases import TREES, case

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from flaskml.runtimes.onnx import open_session  # noqa: E402
from flaskml.runtimes.onnx_export.conversion import export_graphs  # noqa: E402 - only where the extra is installed

METHODS = ("predict", "predict_proba", "decision_function")


def by_graph(estimator, X, tables):
    """What graphs answer to tables, by method."""
    graphs = export_graphs(estimator, X[:32], [method for method in METHODS if hasattr(estimator, method)])
    sessions = {method: open_session(graph.content) for graph in graphs.values() for method in graph.methods}
    return {
        method: [session.run([method], {"rows": np.asarray(table, dtype=np.float64)})[0] for table in tables]
        for method, session in sessions.items()
    }


@pytest.mark.parametrize("name", TREES)
def test_the_numbers_are_the_estimators(name):
    made = case(name)
    tables = [made.fresh, made.X, made.fresh[:1], np.where(np.isnan(made.fresh), np.nan, made.fresh * 1e6)]
    answers = by_graph(made.estimator, made.X, tables)
    assert set(answers) == {method for method in METHODS if hasattr(made.estimator, method)}
    for method, found in answers.items():
        for table, answer in zip(tables, found, strict=True):
            expected = getattr(made.estimator, method)(table)
            if expected.dtype.kind == "f":
                assert np.allclose(answer, expected, rtol=1e-12, atol=0), method
            else:
                assert answer.tolist() == expected.tolist(), method


def corners(features):
    """All rows of zeros and ones."""
    return np.array(np.meshgrid(*[[0.0, 1.0]] * features)).reshape(features, -1).T


@pytest.mark.parametrize("trees", [2, 4, 10])
def test_a_tie_goes_to_the_first_class(trees):
    """Trees that know one feature each, of rows that these tell apart, tie at every second row."""
    X = np.repeat(corners(4), 8, axis=0)
    labels = np.random.default_rng(3).choice(["a", "b", "c"], len(X))
    forest = RandomForestClassifier(trees, max_depth=2, max_features=1, random_state=trees).fit(X, labels)
    found = by_graph(forest, X, [corners(4)])
    assert found["predict"][0].tolist() == forest.predict(corners(4)).tolist()
    assert np.array_equal(found["predict_proba"][0], forest.predict_proba(corners(4)))


def test_exact_ties_of_two_classes():
    X = np.array([[0.0], [1.0]] * 20)
    forest = RandomForestClassifier(2, bootstrap=False, random_state=0).fit(X, [0, 1] * 20)
    other = RandomForestClassifier(2, bootstrap=False, random_state=0).fit(X, [1, 0] * 20)
    forest.estimators_[1] = other.estimators_[1]
    assert (forest.predict_proba(X) == 0.5).all()
    assert by_graph(forest, X, [X])["predict"][0].tolist() == forest.predict(X).tolist() == [0] * 40


@pytest.mark.parametrize("kind", [GradientBoostingClassifier, HistGradientBoostingClassifier])
def test_a_score_of_exactly_zero(kind):
    """The one gives it to the second class, the other to the first."""
    X, labels = np.array([[0.0], [0.0], [1.0], [1.0]] * 20), ["a", "b", "a", "b"] * 20
    estimator = kind(random_state=0).fit(X, labels)
    assert (estimator.decision_function(X) == 0).all()
    found = by_graph(estimator, X, [X])
    assert found["predict"][0].tolist() == estimator.predict(X).tolist()
    assert (found["decision_function"][0] == 0).all()


def test_values_beside_a_threshold_are_rounded_as_by_the_estimator():
    X = np.array([[1.0], [1.0 + 2**-20]] * 20)
    tree = DecisionTreeRegressor().fit(X, [0.0, 1.0] * 20)
    threshold = tree.tree_.threshold[0]
    beside = [np.nextafter(threshold, side) for side in (-9, 9)] + [threshold, np.float32(threshold), 1 + 2**-30]
    table = np.array(beside, dtype=np.float64).reshape(-1, 1)
    assert by_graph(tree, X, [table])["predict"][0].tolist() == tree.predict(table).tolist()


def test_a_gap_goes_where_it_went_in_training():
    X = np.array([[0.0], [1.0], [np.nan]] * 20)
    for wanted in ([0.0, 1.0, 0.0], [0.0, 1.0, 1.0]):
        tree = DecisionTreeRegressor().fit(X, wanted * 20)
        assert by_graph(tree, X, [X[:3]])["predict"][0].tolist() == tree.predict(X[:3]).tolist() == wanted


def test_the_operator_is_the_one_of_double_precision():
    made = case("forest, quantity")
    model = onnx.load_model_from_string(
        export_graphs(made.estimator, made.X[:32], ("predict",))["predict.onnx"].content
    )
    (trees,) = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    assert trees.domain == "ai.onnx.ml"
    assert {opset.domain: opset.version for opset in model.opset_import}["ai.onnx.ml"] == 5
    splits = {attribute.name: attribute for attribute in trees.attribute}["nodes_splits"]
    assert splits.t.data_type == onnx.TensorProto.DOUBLE


def test_a_large_sum_is_not_rounded():
    """In single precision the sum would be off in its eighth place."""
    X = np.random.default_rng(0).normal(size=(200, 3))
    forest = RandomForestRegressor(30, random_state=0).fit(X, 1e9 + X[:, 0])
    with warnings.catch_warnings(action="ignore"):
        answer = by_graph(forest, X, [X])["predict"][0]
    assert np.array_equal(answer, forest.predict(X)) and len(set(np.float32(answer))) < len(set(answer))
