"""Tree ensembles as graphs: the same numbers as scikit-learn, and the same decision at a tie."""

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

from tests.support.numeric_cases import TREES, numeric_case

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from flaskml.runtimes.onnx import open_session  # noqa: E402
from flaskml.runtimes.onnx_export.conversion import export_graphs  # noqa: E402 - only where the extra is installed

METHODS = ("predict", "predict_proba", "decision_function")


def graph_answers(estimator, X, tables):
    """Return the answers of the estimator's graphs to each table, by method."""
    graphs = export_graphs(estimator, X[:32], [method for method in METHODS if hasattr(estimator, method)])
    sessions = {method: open_session(graph.content) for graph in graphs.values() for method in graph.methods}
    return {
        method: [session.run([method], {"rows": np.asarray(table, dtype=np.float64)})[0] for table in tables]
        for method, session in sessions.items()
    }


@pytest.mark.parametrize("name", TREES)
def test_numbers_equal_those_of_the_estimator(name):
    case = numeric_case(name)
    tables = [case.fresh, case.X, case.fresh[:1], np.where(np.isnan(case.fresh), np.nan, case.fresh * 1e6)]
    answers = graph_answers(case.estimator, case.X, tables)
    assert set(answers) == {method for method in METHODS if hasattr(case.estimator, method)}
    for method, method_answers in answers.items():
        for table, answer in zip(tables, method_answers, strict=True):
            expected = getattr(case.estimator, method)(table)
            if expected.dtype.kind == "f":
                assert np.allclose(answer, expected, rtol=1e-12, atol=0), method
            else:
                assert answer.tolist() == expected.tolist(), method


def corners(features):
    """Return all rows of zeros and ones."""
    return np.array(np.meshgrid(*[[0.0, 1.0]] * features)).reshape(features, -1).T


@pytest.mark.parametrize("trees", [2, 4, 10])
def test_a_tie_goes_to_the_first_class(trees):
    """Each tree splits on one feature only, so that trees tie at every second row."""
    X = np.repeat(corners(4), 8, axis=0)
    labels = np.random.default_rng(3).choice(["a", "b", "c"], len(X))
    forest = RandomForestClassifier(trees, max_depth=2, max_features=1, random_state=trees).fit(X, labels)
    answers = graph_answers(forest, X, [corners(4)])
    assert answers["predict"][0].tolist() == forest.predict(corners(4)).tolist()
    assert np.array_equal(answers["predict_proba"][0], forest.predict_proba(corners(4)))


def test_an_exact_tie_of_two_classes_goes_to_the_first():
    X = np.array([[0.0], [1.0]] * 20)
    forest = RandomForestClassifier(2, bootstrap=False, random_state=0).fit(X, [0, 1] * 20)
    other = RandomForestClassifier(2, bootstrap=False, random_state=0).fit(X, [1, 0] * 20)
    forest.estimators_[1] = other.estimators_[1]
    assert (forest.predict_proba(X) == 0.5).all()
    assert graph_answers(forest, X, [X])["predict"][0].tolist() == forest.predict(X).tolist() == [0] * 40


@pytest.mark.parametrize("kind", [GradientBoostingClassifier, HistGradientBoostingClassifier])
def test_a_score_of_exactly_zero_gives_the_estimators_class(kind):
    """Gradient boosting predicts the second class there, histogram boosting the first."""
    X, labels = np.array([[0.0], [0.0], [1.0], [1.0]] * 20), ["a", "b", "a", "b"] * 20
    estimator = kind(random_state=0).fit(X, labels)
    assert (estimator.decision_function(X) == 0).all()
    answers = graph_answers(estimator, X, [X])
    assert answers["predict"][0].tolist() == estimator.predict(X).tolist()
    assert (answers["decision_function"][0] == 0).all()


def test_values_next_to_a_threshold_are_rounded_like_the_estimators():
    X = np.array([[1.0], [1.0 + 2**-20]] * 20)
    tree = DecisionTreeRegressor().fit(X, [0.0, 1.0] * 20)
    threshold = tree.tree_.threshold[0]
    neighbors = [np.nextafter(threshold, side) for side in (-9, 9)] + [threshold, np.float32(threshold), 1 + 2**-30]
    table = np.array(neighbors, dtype=np.float64).reshape(-1, 1)
    assert graph_answers(tree, X, [table])["predict"][0].tolist() == tree.predict(table).tolist()


def test_a_missing_value_takes_the_branch_of_training():
    X = np.array([[0.0], [1.0], [np.nan]] * 20)
    for targets in ([0.0, 1.0, 0.0], [0.0, 1.0, 1.0]):
        tree = DecisionTreeRegressor().fit(X, targets * 20)
        assert graph_answers(tree, X, [X[:3]])["predict"][0].tolist() == tree.predict(X[:3]).tolist() == targets


def test_the_operator_has_double_precision():
    case = numeric_case("forest regressor")
    model = onnx.load_model_from_string(
        export_graphs(case.estimator, case.X[:32], ("predict",))["predict.onnx"].content
    )
    (trees,) = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    assert trees.domain == "ai.onnx.ml"
    assert {opset.domain: opset.version for opset in model.opset_import}["ai.onnx.ml"] == 5
    splits = {attribute.name: attribute for attribute in trees.attribute}["nodes_splits"]
    assert splits.t.data_type == onnx.TensorProto.DOUBLE


def test_a_large_sum_is_not_rounded():
    """Single precision would change the eighth digit of the sum."""
    X = np.random.default_rng(0).normal(size=(200, 3))
    forest = RandomForestRegressor(30, random_state=0).fit(X, 1e9 + X[:, 0])
    with warnings.catch_warnings(action="ignore"):
        answer = graph_answers(forest, X, [X])["predict"][0]
    assert np.array_equal(answer, forest.predict(X)) and len(set(np.float32(answer))) < len(set(answer))
