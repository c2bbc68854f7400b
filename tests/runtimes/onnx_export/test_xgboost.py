"""Graphs of XGBoost: the same answers as the library, on thresholds, their neighbours, missing and extreme values."""

import json

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from flaskml.errors import NotPublishable
from flaskml.runtimes.equivalence import SINGLE_PRECISION_TOLERANCE
from flaskml.runtimes.onnx import open_session
from flaskml.runtimes.onnx_export.conversion import export_graphs
from tests.runtimes.onnx_export.test_lightgbm import COMPLETE, GAPS, TARGET, THREE
from tests.runtimes.onnx_export.test_mixed import FRAME, LABELS, difference

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")
xgboost = pytest.importorskip("xgboost")

pytestmark = pytest.mark.filterwarnings("ignore")

RNG = np.random.default_rng(3)
TWO = (TARGET > 3).astype(int)
SMALL = {"n_estimators": 30, "max_depth": 4, "n_jobs": 1}


def regressor(**options):
    return xgboost.XGBRegressor(**SMALL | options)


def classifier(**options):
    return xgboost.XGBClassifier(**SMALL | options)


def unusual_rows(X, estimator):
    """Return rows with thresholds, their neighbours in both precisions, missing values and extreme numbers."""
    trees = json.loads(estimator.get_booster().save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    rows = [X]
    for feature in range(X.shape[1]):
        values = [np.nan, 0.0, -0.0, 1e-45, 1e-300, 1e30, -1e30]
        found = {
            np.float32(condition)
            for tree in trees
            for index, condition, child in zip(
                tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
            )
            if child >= 0 and index == feature
        }
        for threshold in sorted(found)[:60]:
            for bound in (np.float32(-np.inf), np.float32(np.inf)):
                values += [threshold, np.nextafter(threshold, bound), np.nextafter(float(threshold), float(bound))]
        changed = X[RNG.integers(0, len(X), len(values))].copy()
        changed[:, feature] = values
        rows.append(changed)
    return np.concatenate([*rows, np.full((1, X.shape[1]), np.nan)])


CASES = {
    "regression": (regressor(), TARGET),
    "large base": (regressor(), TARGET + 1000),
    "own base": (regressor(base_score=7.0), TARGET),
    "absolute error": (regressor(objective="reg:absoluteerror"), TARGET),
    "parallel trees": (regressor(num_parallel_tree=3, subsample=0.7, n_estimators=5), TARGET),
    "many trees": (regressor(n_estimators=300, max_depth=2), TARGET),
    "two classes": (classifier(), TWO),
    "two classes, own base": (classifier(base_score=0.2), TWO),
    "two classes, sure": (classifier(n_estimators=400, learning_rate=1.0, reg_lambda=0, min_child_weight=0), TWO),
    "three classes": (classifier(), THREE),
    "one leaf": (classifier(min_child_weight=1e9), TWO),
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_gives_the_answers_of_the_library(name):
    estimator, target = CASES[name]
    for X in (COMPLETE, GAPS):
        estimator.fit(X, target)
        table = unusual_rows(X, estimator)
        methods = [method for method in ("predict", "predict_proba") if hasattr(estimator, method)]
        graph = export_graphs(estimator, X[:32], methods)["predict.onnx"]
        assert set(graph.methods) == set(methods)
        session = open_session(graph.content)
        for method in methods:
            expected, answer = getattr(estimator, method)(table), session.run([method], {"rows": table})[0]
            if expected.dtype.kind == "i":
                assert answer.tolist() == expected.tolist()
            elif method == "predict":
                assert answer.dtype == np.float32 and np.array_equal(answer, expected)
            else:  # An exponential may differ in the last digit, and so does its difference from one.
                assert np.allclose(answer, expected, rtol=SINGLE_PRECISION_TOLERANCE, atol=np.finfo(np.float32).eps)
                assert (answer != expected).mean() < 0.01
            one = np.concatenate([session.run([method], {"rows": table[index : index + 1]})[0] for index in range(50)])
            assert one.tolist() == answer[:50].tolist()


def test_only_the_best_iterations_are_used():
    estimator = regressor(n_estimators=300, early_stopping_rounds=3)
    estimator.fit(GAPS[:300], TARGET[:300], eval_set=[(GAPS[300:], TARGET[300:])], verbose=False)
    assert 0 < estimator.best_iteration < 299
    session = open_session(export_graphs(estimator, GAPS[:32], ["predict"])["predict.onnx"].content)
    assert np.array_equal(session.run(["predict"], {"rows": GAPS})[0], estimator.predict(GAPS))


def test_mixed_columns_may_precede():
    texts = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((SimpleImputer(), ["age", "income", "debt"]), (texts, ["town", "color"]))
    estimator = make_pipeline(columns, classifier()).fit(FRAME, (LABELS == "yes").astype(int))
    assert not difference(estimator, FRAME, ["predict", "predict_proba"])


def test_sparse_rows_are_refused():
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["town", "color"]), sparse_threshold=1.0)
    estimator = make_pipeline(columns, regressor()).fit(FRAME, FRAME["debt"])
    with pytest.raises(NotPublishable, match="sparse rows"):
        difference(estimator, FRAME, ["predict"])


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (regressor(booster="dart"), "booster gbtree"),
        (regressor(missing=-1.0), "NaN marks missing"),
        (regressor(objective="count:poisson"), "objective count:poisson"),
    ],
    ids=["dart", "marker", "objective"],
)
def test_what_has_no_graph_is_refused_by_name(estimator, reason):
    with pytest.raises(NotPublishable, match=reason):
        export_graphs(estimator.fit(COMPLETE, np.abs(TARGET)), COMPLETE[:32], ["predict"])
