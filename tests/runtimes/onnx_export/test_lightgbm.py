"""Graphs of LightGBM: the same answers as the library on thresholds, their neighbours, missing and extreme values."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx import VOCABULARIES_KEY, open_session
from flaskml.runtimes.onnx_export.conversion import export_graphs
from tests.runtimes.onnx_export.test_mixed import FRAME, LABELS, QUANTITY, difference

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")
lightgbm = pytest.importorskip("lightgbm")

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 600
RNG = np.random.default_rng(7)
COMPLETE = np.c_[RNG.normal(size=(ROWS, 3)).round(2), RNG.integers(0, 90, ROWS), RNG.integers(0, 5, ROWS)]
GAPS = np.where(RNG.random(COMPLETE.shape) < 0.1, np.nan, COMPLETE)
TARGET = COMPLETE[:, 0] * 2 - COMPLETE[:, 1] + (COMPLETE[:, 3] % 7) + RNG.normal(size=ROWS)
TWO = np.where(TARGET > 3, "yes", "no")
THREE = np.digitize(TARGET, [1, 4])
METHODS = ("predict", "predict_proba", "decision_function")
SMALL = {"n_estimators": 30, "num_leaves": 12, "verbose": -1, "n_jobs": 1}


def regressor(**options):
    return lightgbm.LGBMRegressor(**SMALL | options)


def classifier(**options):
    return lightgbm.LGBMClassifier(**SMALL | options)


def thresholds_of(estimator):
    """Return the thresholds of each feature."""
    found = {}

    def visit(node):
        if "leaf_value" not in node:
            if node["decision_type"] == "<=":
                found.setdefault(node["split_feature"], []).append(node["threshold"])
            visit(node["left_child"])
            visit(node["right_child"])

    for tree in estimator.booster_.dump_model()["tree_info"]:
        visit(tree["tree_structure"])
    return found


def unusual_rows(X, estimator):
    """Return rows with thresholds, their neighbours, missing values, and extreme, tiny and fractional numbers."""
    extremes = [np.nan, 0.0, -0.0, 1e-36, -1e-36, 1e-35, 1.5, -0.5, 0.5, -1, -7, 63, 64, 65, 2**31, 2**40]
    extremes += [1e300, -1e300, 1.7e308, np.inf, -np.inf]
    rows, found = [], thresholds_of(estimator)
    for feature in range(X.shape[1]):
        values = list(extremes)
        for threshold in sorted(set(found.get(feature, [])))[:60]:
            values += [threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf)]
        changed = X[RNG.integers(0, len(X), len(values))].astype(np.float64)
        changed[:, feature] = values
        rows.append(changed)
    return np.concatenate([*rows, np.full((1, X.shape[1]), np.nan)])


def assert_same_answers(estimator, X, final_step=None):
    """Compare the graphs with the estimator."""
    methods = [method for method in METHODS if hasattr(estimator, method)]
    tables = [X, np.asarray(X[:1])]
    if X.dtype.kind == "f":
        tables.append(unusual_rows(X, final_step or estimator).astype(X.dtype))
    graphs = export_graphs(estimator, X[:32], methods)
    compared = []
    for graph in graphs.values():
        session = open_session(graph.content)
        assert VOCABULARIES_KEY not in session.get_modelmeta().custom_metadata_map
        for method in graph.methods:
            compared.append(method)
            for table in tables:
                answer = session.run([method], {"rows": np.asarray(table, dtype=np.float64)})[0]
                expected = getattr(estimator, method)(table)
                if expected.dtype.kind == "f":
                    assert answer.dtype == np.float64
                    assert np.allclose(answer, expected, rtol=1e-12, atol=0), method
                else:
                    assert answer.tolist() == expected.tolist()
    assert set(compared) == set(methods)


REGRESSIONS = {
    "plain": regressor(),
    "l1": regressor(objective="l1"),
    "huber": regressor(objective="huber"),
    "fair": regressor(objective="fair"),
    "quantile": regressor(objective="quantile", alpha=0.8),
    "mape": regressor(objective="mape"),
    "dart": regressor(boosting_type="dart", random_state=0),
    "goss": regressor(data_sample_strategy="goss"),
    "random forest": regressor(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7),
    "no missing values": regressor(use_missing=False),
    "one leaf": regressor(min_child_samples=ROWS),
    "categories": regressor(categorical_feature=[3, 4], min_data_per_group=5, cat_smooth=1, max_cat_to_onehot=2),
}


@pytest.mark.parametrize("rows", [COMPLETE, GAPS], ids=["complete", "gaps"])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_a_regression_gives_the_numbers_of_the_library(name, rows):
    assert_same_answers(REGRESSIONS[name].fit(rows, TARGET), rows)


@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie", "cross_entropy"])
def test_the_prediction_may_be_a_function_of_the_sum(objective):
    target = np.abs(TARGET) + 0.1
    target = target / target.max() if objective == "cross_entropy" else target
    assert_same_answers(regressor(objective=objective).fit(GAPS, target), GAPS)


CLASSIFIERS = {
    "two classes": (classifier(), TWO),
    "two numbers": (classifier(), (TWO == "yes") * 5),
    "booleans": (classifier(), TWO == "yes"),
    "steep sigmoid": (classifier(sigmoid=2.5), TWO),
    "random forest": (classifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7), TWO),
    "class weights": (classifier(class_weight="balanced"), TWO),
    "three classes": (classifier(), THREE),
    "one against all": (classifier(objective="multiclassova"), THREE),
    "categories": (classifier(categorical_feature=[3, 4], min_data_per_group=5, cat_smooth=1), THREE),
    "one leaf": (classifier(min_child_samples=ROWS), TWO),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_gives_the_labels_and_the_probabilities_of_the_library(name):
    estimator, labels = CLASSIFIERS[name]
    for rows in (COMPLETE, GAPS):
        assert_same_answers(estimator.fit(rows, labels), rows)


def test_a_tie_goes_to_the_first_class():
    X = np.zeros((40, 1))
    estimator = classifier().fit(X, ["a", "b"] * 20)
    assert (estimator.predict_proba(X) == 0.5).all()
    assert_same_answers(estimator, X)


def test_zero_is_on_one_side_of_a_tiny_threshold():
    values = np.repeat([-1.0, 0.0, 1.0], 100).reshape(-1, 1)
    for target in ([0, 1, 1], [0, 0, 1]):
        estimator = regressor().fit(values, np.repeat(target, 100))
        assert any(abs(threshold) < 1e-30 for threshold in thresholds_of(estimator)[0])
        assert_same_answers(estimator, values)


def test_only_the_best_iterations_are_used():
    estimator, stop = regressor(n_estimators=300, learning_rate=0.3), lightgbm.early_stopping(3)
    estimator.fit(GAPS[:300], TARGET[:300], eval_set=[(GAPS[300:], TARGET[300:])], callbacks=[stop])
    assert 0 < estimator.best_iteration_ < 300
    assert_same_answers(estimator, GAPS)


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_other_dtypes_of_arrays_are_rounded_as_the_library_does(dtype):
    rows = np.nan_to_num(COMPLETE * 1000).astype(dtype)
    rows[:, 3] *= 300_000  # Integers beyond 2**24 lose digits.
    rows[:, 3] += np.arange(ROWS) % 5
    assert_same_answers(regressor().fit(rows, TARGET), rows)


def test_the_steps_before_may_be_numbers():
    pipeline = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), classifier()).fit(GAPS, THREE)
    graphs = export_graphs(pipeline, GAPS[:32], ["predict", "predict_proba"])
    session = open_session(graphs["predict.onnx"].content)
    assert np.allclose(session.run(["predict_proba"], {"rows": GAPS})[0], pipeline.predict_proba(GAPS), rtol=1e-9)
    assert session.run(["predict"], {"rows": GAPS})[0].tolist() == pipeline.predict(GAPS).tolist()


@pytest.mark.parametrize(("final_step", "target"), [(classifier(), LABELS), (regressor(), QUANTITY)])
def test_mixed_columns_may_precede(final_step, target):
    columns = make_column_transformer(
        (SimpleImputer(), ["age", "income", "debt"]), (OneHotEncoder(handle_unknown="ignore"), ["town", "color"])
    )
    estimator = make_pipeline(columns, final_step).fit(FRAME, target)
    methods = [method for method in ("predict", "predict_proba") if hasattr(estimator, method)]
    assert not difference(estimator, FRAME, methods)


def test_a_frame_of_numbers_needs_no_steps():
    frame = pd.DataFrame(GAPS, columns=list("abcde")).assign(f=RNG.random(ROWS) < 0.5)
    assert not difference(classifier().fit(frame, THREE), frame, ["predict", "predict_proba"])


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (regressor(zero_as_missing=True), "zero_as_missing"),
        (regressor(linear_tree=True), "linear trees"),
        (regressor(reg_sqrt=True), "objective regression sqrt"),
        (regressor(objective=lambda truth, guess: (guess - truth, np.ones_like(truth))), "objective custom"),
        (regressor(objective="cross_entropy_lambda"), "objective cross_entropy_lambda"),
    ],
    ids=["zeros", "linear trees", "root", "own objective", "other objective"],
)
def test_what_has_no_graph_is_refused_by_name(estimator, reason):
    target = (TARGET > 3).astype(float)
    with pytest.raises(NotPublishable, match=reason):
        export_graphs(estimator.fit(COMPLETE, target), COMPLETE[:32], ["predict"])
