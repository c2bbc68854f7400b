"""Graphs of trees that split by category: arrays, texts, numbers, missing and unknown categories."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx import open_session
from flaskml.runtimes.onnx_export.conversion import export_graphs
from tests.runtimes.onnx_export.test_mixed import difference

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")
lightgbm = pytest.importorskip("lightgbm")

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 800
RNG = np.random.default_rng(11)
TOWNS = np.array(["Oslo", "Rome", "", "nan", "None", "Bonn", "Wien", "ä€😀"], dtype=object)
MANY = np.array([f"code {number}" for number in range(150)], dtype=object)


def with_gaps(values, share=0.1):
    column = pd.Series(values, dtype=object)
    column[RNG.random(ROWS) < share] = None
    return column


FRAME = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, ROWS),
        "town": with_gaps(RNG.choice(TOWNS, ROWS)).astype("category"),
        "income": np.where(RNG.random(ROWS) < 0.1, np.nan, RNG.normal(30, 10, ROWS).round(2)),
        "floor": pd.Categorical(RNG.choice([3, 10, 7, -2, 99], ROWS), categories=[99, 3, 10, 7, -2]),
        "code": pd.Series(RNG.choice(MANY, ROWS)).astype("category"),
        "size": pd.Categorical(RNG.choice(["small", "large"], ROWS), categories=["small", "large", "never"]),
    }
)
EFFECTS = dict(zip(MANY, RNG.normal(size=len(MANY)), strict=True))
TARGET = (
    FRAME["town"].cat.codes % 3
    + FRAME["floor"].cat.codes % 2
    + FRAME["code"].astype(object).map(EFFECTS)
    + FRAME["age"] / 60
    + RNG.normal(0, 0.3, ROWS)
)
THREE = np.digitize(TARGET, TARGET.quantile([0.3, 0.7]))
TWO = np.where(TARGET.median() < TARGET, "yes", "no")

NUMBERS = np.c_[
    RNG.normal(size=(ROWS, 2)).round(2),
    RNG.integers(0, 90, ROWS),
    RNG.choice([-1.5, 0.25, 7, 64, 65], ROWS),
    RNG.integers(0, 4, ROWS),
]
NUMBERS[RNG.random(NUMBERS.shape) < 0.1] = np.nan
NUMBER_TARGET = np.nan_to_num(NUMBERS[:, 0] + NUMBERS[:, 2] % 5 + (NUMBERS[:, 3] == 64)) + RNG.normal(0, 0.3, ROWS)


def histogram(kind=HistGradientBoostingRegressor, **options):
    return kind(max_iter=30, random_state=0, min_samples_leaf=5, **options)


def unusual_numbers():
    """Return rows with known, unknown, fractional, extreme and missing categories."""
    values = [np.nan, -1, -1.5, -0.5, 0, 0.25, 0.5, 1, 1.5, 2, 7, 7.5, 31, 32, 63, 64, 65, 66, 89, 90]
    values += [1e9, 1e300, -1e300]
    rows = [NUMBERS]
    for feature in range(NUMBERS.shape[1]):
        changed = NUMBERS[RNG.integers(0, ROWS, 5 * len(values))]
        changed[:, feature] = values * 5
        rows.append(changed)
    return np.concatenate([*rows, np.full((1, NUMBERS.shape[1]), np.nan)])


@pytest.mark.parametrize("complete", [False, True], ids=["gaps", "complete"])
@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (histogram(categorical_features=[2, 3, 4]), NUMBER_TARGET),
        (histogram(HistGradientBoostingClassifier, categorical_features=[4, 3]), NUMBER_TARGET > 2),
        (histogram(HistGradientBoostingClassifier, categorical_features=[2]), np.digitize(NUMBER_TARGET, [1, 3])),
        (histogram(categorical_features=[True] * 5), NUMBER_TARGET),
    ],
    ids=["regression", "two classes", "three classes", "categories only"],
)
def test_an_array_may_have_columns_of_categories(estimator, target, complete):
    rows = np.nan_to_num(NUMBERS) if complete else NUMBERS
    if estimator.get_params()["categorical_features"] == [True] * 5:
        rows = np.round(rows)  # A column has at most 255 categories.
        rows = np.clip(rows, -1, 100)
    estimator.fit(rows, target)
    table = unusual_numbers()
    methods = [name for name in ("predict", "predict_proba", "decision_function") if hasattr(estimator, name)]
    graphs = export_graphs(estimator, rows[:32], methods)
    assert {method for graph in graphs.values() for method in graph.methods} == set(methods)
    for graph in graphs.values():
        session = open_session(graph.content)
        for method in graph.methods:
            expected, answer = getattr(estimator, method)(table), session.run([method], {"rows": table})[0]
            if expected.dtype.kind == "f":
                assert np.allclose(answer, expected, rtol=1e-12, atol=0)
            else:
                assert answer.tolist() == expected.tolist()


ESTIMATORS = {
    "histogram regression": (histogram(), TARGET),
    "histogram of two classes": (histogram(HistGradientBoostingClassifier), TWO),
    "histogram of three classes": (histogram(HistGradientBoostingClassifier), THREE),
    "LightGBM regression": (
        lightgbm.LGBMRegressor(n_estimators=40, min_data_per_group=5, cat_smooth=1, verbose=-1),
        TARGET,
    ),
    "LightGBM of two classes": (lightgbm.LGBMClassifier(n_estimators=40, verbose=-1), TWO),
    "LightGBM of three classes": (lightgbm.LGBMClassifier(n_estimators=20, min_data_per_group=5, verbose=-1), THREE),
}


@pytest.mark.parametrize("dtype", [object, pytest.param("str", marks=pytest.mark.gauntlet)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_frame_may_have_columns_of_categories(name, dtype):
    estimator, target = ESTIMATORS[name]
    frame = FRAME.copy()
    for column in ("town", "code", "size"):
        frame[column] = frame[column].cat.rename_categories(frame[column].cat.categories.astype(dtype))
    estimator.fit(frame, target)
    methods = [method for method in ("predict", "predict_proba") if hasattr(estimator, method)]
    assert not difference(estimator, frame, methods)


def test_ordered_categories_are_numbers_for_lightgbm():
    order = pd.CategoricalDtype(list(TOWNS), ordered=True)
    frame = FRAME.assign(town=FRAME["town"].astype(object).astype(order))
    estimator = lightgbm.LGBMRegressor(n_estimators=40, verbose=-1).fit(frame, TARGET)
    assert not difference(estimator, frame, ["predict"])


def test_an_encoder_may_number_the_categories():
    frame = FRAME[["age", "town", "income", "code"]].astype({"town": object, "code": object})
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan)
    columns = make_column_transformer((encoder, ["town", "code"]), remainder="passthrough")
    for final_step in (
        histogram(categorical_features=[0, 1]),
        lightgbm.LGBMRegressor(n_estimators=40, categorical_feature=[0, 1], cat_smooth=1, verbose=-1),
    ):
        estimator = make_pipeline(columns, final_step).fit(frame, TARGET)
        assert not difference(estimator, frame, ["predict"])


def test_a_frame_between_the_steps_keeps_its_categories():
    columns = make_column_transformer(("passthrough", ["town", "income"]), ("drop", ["code"]), remainder="passthrough")
    frame = FRAME.drop(columns="floor")
    for final_step in (histogram(), lightgbm.LGBMRegressor(n_estimators=20, verbose=-1)):
        estimator = make_pipeline(columns.set_output(transform="pandas"), final_step).fit(frame, TARGET)
        assert not difference(estimator, frame, ["predict"])


def test_categories_of_numbers_behind_other_steps_are_refused():
    columns = make_column_transformer(("passthrough", ["floor", "town"]), remainder="passthrough")
    estimator = make_pipeline(
        columns.set_output(transform="pandas"), lightgbm.LGBMRegressor(n_estimators=5, verbose=-1)
    )
    with pytest.raises(NotPublishable, match="categories that other steps return"):
        difference(estimator.fit(FRAME, TARGET), FRAME, ["predict"])
