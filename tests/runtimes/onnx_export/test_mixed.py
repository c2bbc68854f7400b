"""Graphs of mixed columns: every kind of preprocessing gives the estimator's own answers, also to unusual rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge, RidgeClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from flaskml.errors import NotPublishable
from flaskml.runtimes import equivalence
from flaskml.runtimes.equivalence import Comparison
from flaskml.runtimes.mixed_rows import value_rows
from flaskml.runtimes.onnx import OnnxRuntime, coded_rows_of, open_session
from flaskml.runtimes.onnx_export.conversion import export_graphs
from flaskml.runtimes.sklearn import SklearnRuntime
from flaskml.schema.from_sample import schema_from_frame
from flaskml.training.transformers import date_parts
from tests.support.sampling import sampled

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")

pytestmark = pytest.mark.filterwarnings("ignore")  # Encoders warn of unknown categories, and some fits do not converge.

ROWS = 200
NUMBERS, TEXTS = ["age", "income", "debt"], ["town", "color"]
RNG = np.random.default_rng(0)


def with_gaps(values, marker):
    column = pd.Series(values, dtype=object)
    column[RNG.random(ROWS) < 0.1] = marker
    return column


FRAME = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, ROWS),
        "income": pd.to_numeric(with_gaps(RNG.normal(30, 10, ROWS).round(2), np.nan)),
        "town": with_gaps(RNG.choice(["Oslo", "Rome", "", "nan", "None"], ROWS), np.nan),
        "debt": RNG.exponential(3, ROWS).round(3),
        "color": RNG.choice(["red", "green", "blue", "ä€😀"], ROWS, p=[0.6, 0.3, 0.05, 0.05]),
        "member": RNG.random(ROWS) < 0.5,
        "rooms": RNG.integers(1, 6, ROWS),
    }
)
LABELS = np.where(FRAME["income"].fillna(30) + 5 * (FRAME["town"] == "Oslo") + RNG.normal(0, 3, ROWS) > 31, "yes", "no")
QUANTITY = FRAME["debt"] * 2 + (FRAME["color"] == "red")

FILLED = SimpleImputer(strategy="median")
SCALED = make_pipeline(FILLED, StandardScaler())
ONE_HOT = OneHotEncoder(handle_unknown="ignore")


def on_columns(numbers=SCALED, texts=ONE_HOT, **options):
    return make_column_transformer((numbers, NUMBERS), (texts, TEXTS), **options)


def numbers_only(*steps):
    return on_columns(make_pipeline(FILLED, *steps))


def texts_only(*steps):
    return on_columns(texts=make_pipeline(*steps))


MOST_FREQUENT = SimpleImputer(strategy="most_frequent")
PREPROCESSING = {
    "scaled and one-hot": on_columns(),
    "sparse": on_columns(sparse_threshold=1.0),
    "powers": make_column_transformer(
        (make_pipeline(FILLED, PowerTransformer()), NUMBERS),
        (make_pipeline(StandardScaler(), FILLED, PowerTransformer(standardize=False)), ["debt", "age"]),
        (ONE_HOT, TEXTS),
    ),
    "remainder": on_columns(remainder="passthrough"),
    "remainder transformed": on_columns(remainder=MinMaxScaler()),
    "positions": ColumnTransformer([("n", SCALED, [3, 0, 1]), ("t", ONE_HOT, [4])]),
    "a mask": ColumnTransformer([("n", SCALED, [True, True, False, True, False, False, False])]),
    "selectors": make_column_transformer(
        (SCALED, make_column_selector(pattern="age|income|debt")), (ONE_HOT, make_column_selector(pattern="town|color"))
    ),
    "columns used twice": ColumnTransformer(
        [
            ("a", SCALED, NUMBERS),
            ("b", make_pipeline(FILLED, MinMaxScaler()), NUMBERS),
            ("c", ONE_HOT, ["town", "color"]),
        ]
    ),
    "columns dropped": ColumnTransformer(
        [("d", "drop", ["age"]), ("n", SCALED, ["income"]), ("p", "passthrough", ["rooms"])]
    ),
    "weights": ColumnTransformer([("n", SCALED, NUMBERS), ("t", ONE_HOT, TEXTS)], transformer_weights={"n": 0.25}),
    "frames between steps": make_pipeline(
        make_column_transformer(
            (SCALED, NUMBERS), (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["color"])
        ),
        make_column_transformer((StandardScaler(), ["pipeline__age", "pipeline__debt"]), remainder="passthrough"),
    ).set_output(transform="pandas"),
    "nested": make_column_transformer(
        (make_pipeline(make_column_transformer((FILLED, [1, 0]), remainder="passthrough"), StandardScaler()), NUMBERS),
        (ONE_HOT, TEXTS),
    ),
    "union": on_columns(make_pipeline(FILLED, FeatureUnion([("s", StandardScaler()), ("m", MaxAbsScaler())]))),
    "indicator": on_columns(make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())),
    "indicator alone": on_columns(FeatureUnion([("v", SimpleImputer()), ("i", MissingIndicator())])),
    "constant": on_columns(SimpleImputer(strategy="constant", fill_value=-1)),
    "constant text": texts_only(SimpleImputer(strategy="constant", fill_value="missing"), ONE_HOT),
    "most frequent text": texts_only(MOST_FREQUENT, ONE_HOT),
    "text marked missing": texts_only(
        MOST_FREQUENT, SimpleImputer(missing_values="None", strategy="most_frequent"), ONE_HOT
    ),
    "min max clipped": numbers_only(MinMaxScaler(clip=True)),
    "max abs": numbers_only(MaxAbsScaler()),
    "robust": numbers_only(RobustScaler()),
    "functions": numbers_only(FunctionTransformer(np.abs), FunctionTransformer(np.sqrt), FunctionTransformer(None)),
    "drop first": on_columns(texts=OneHotEncoder(drop="first", handle_unknown="ignore")),
    "drop binary": ColumnTransformer([("o", OneHotEncoder(drop="if_binary"), ["member"]), ("n", SCALED, NUMBERS)]),
    "infrequent": on_columns(texts=OneHotEncoder(min_frequency=0.1, handle_unknown="infrequent_if_exist")),
    "one infrequent": on_columns(texts=OneHotEncoder(min_frequency=0.06, handle_unknown="infrequent_if_exist")),
    "infrequent ignored": on_columns(texts=OneHotEncoder(max_categories=3, handle_unknown="ignore")),
    "infrequent dropped": on_columns(
        texts=OneHotEncoder(max_categories=3, drop="first", handle_unknown="infrequent_if_exist")
    ),
    "one-hot integers": ColumnTransformer([("o", ONE_HOT, ["rooms", "member"]), ("n", SCALED, NUMBERS)]),
    "ordinal": on_columns(
        texts=OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    ),
    "ordinal infrequent": on_columns(
        texts=OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=9, encoded_missing_value=-2, max_categories=3
        )
    ),
    "ordinal of numbers": ColumnTransformer(
        [
            ("o", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["rooms", "town"]),
            ("n", FILLED, NUMBERS),
        ]
    ),
    "target": on_columns(texts=TargetEncoder(random_state=0)),
    "polynomial": numbers_only(StandardScaler(), PolynomialFeatures(3)),
    "interactions": numbers_only(PolynomialFeatures(2, interaction_only=True, include_bias=False)),
    "bins": numbers_only(KBinsDiscretizer(4, encode="ordinal")),
    "bins one-hot": numbers_only(KBinsDiscretizer(3, strategy="uniform", encode="onehot-dense")),
    "best columns": make_pipeline(on_columns(), SelectKBest(k=4)),
    "components": make_pipeline(on_columns(sparse_threshold=0), PCA(3)),
    "sparse components": make_pipeline(on_columns(), TruncatedSVD(3, random_state=0)),
}
WITHOUT_GRAPH = {
    "Box-Cox": (numbers_only(MinMaxScaler((1, 2)), PowerTransformer("box-cox")), "PowerTransformer"),
    "own function": (numbers_only(FunctionTransformer(np.cbrt)), "FunctionTransformer(cbrt)"),
}


def fitted(preprocessing, final_step, target):
    # Ordinal encoders leave missing values as NaN, which only trees take.
    return make_pipeline(preprocessing, final_step).fit(FRAME, target)


def schema_of(frame):
    """Return the schema of a frame whose categories may be unknown, except in columns of the dtype category."""
    schema = schema_from_frame(frame)
    features = [
        feature
        if feature.kind != "category" or feature.dtype.startswith("category[")
        else feature.model_copy(update={"unknown": "accept"})
        for feature in schema.features
    ]
    return schema.model_copy(update={"features": tuple(features), "magnitude": 1e30})


@pytest.fixture(autouse=True)
def brief_comparison(monkeypatch):
    """Halve the distance to a decision boundary few times: each step calls the pipeline, which takes milliseconds."""
    monkeypatch.setattr(equivalence, "BISECTION_STEPS", 6)
    monkeypatch.setattr(equivalence, "MAX_EXTREME_FEATURES", 2)


def difference(estimator, frame, methods):
    """Return how a graph differs from the estimator; None if it gives the same answers to all rows compared."""
    schema = schema_of(frame)
    graph = export_graphs(estimator, frame[:32], methods, schema)["predict.onnx"]
    assert set(graph.methods) == set(methods)
    session = open_session(graph.content)
    runtime = OnnxRuntime(dict.fromkeys(graph.methods, session), schema, coded_rows=coded_rows_of([session], schema))
    reference = SklearnRuntime(estimator, methods, schema)

    def expected(table, method):
        return reference.compute(reference.table_builder.build(list(table)), method)

    comparison = Comparison(expected, methods, schema, value_rows(schema, frame))
    return comparison.find_difference(runtime.compute, methods)


@pytest.mark.parametrize("name", sampled(PREPROCESSING, 3))
def test_the_graph_of_a_preprocessing_answers_as_the_estimator(name):
    final_step = LogisticRegression(max_iter=2000)
    if "ordinal" in name:
        final_step = DecisionTreeClassifier(max_depth=5, random_state=0)
    estimator = fitted(PREPROCESSING[name], final_step, LABELS)
    assert not difference(estimator, FRAME, ["predict", "predict_proba"])


@pytest.mark.parametrize(
    ("final_step", "target", "methods"),
    [
        (RandomForestClassifier(20, random_state=0), LABELS, ["predict", "predict_proba"]),
        (HistGradientBoostingClassifier(max_iter=20, random_state=0), LABELS, ["predict", "predict_proba"]),
        (Ridge(), QUANTITY, ["predict"]),
        (LinearSVC(), LABELS, ["predict"]),
        (RidgeClassifier(), LABELS, ["predict"]),
        (Perceptron(), FRAME["color"], ["predict"]),
    ],
    ids=["forest", "boosting", "ridge", "support vectors", "ridge classifier", "perceptron"],
)
def test_every_final_step_with_a_graph_may_follow(final_step, target, methods):
    estimator = fitted(on_columns(sparse_threshold=0), final_step, target)
    assert not difference(estimator, FRAME, methods)


def test_a_target_of_several_classes_is_encoded_for_each():
    columns = ColumnTransformer(
        [("t", TargetEncoder(random_state=0), ["town", "color", "rooms"]), ("n", SCALED, NUMBERS)]
    )
    labels = np.digitize(QUANTITY, [2, 6])
    assert not difference(
        fitted(columns, LogisticRegression(max_iter=2000), labels), FRAME, ["predict", "predict_proba"]
    )
    assert not difference(columns.fit(FRAME, labels), FRAME, ["transform"])


def test_preprocessing_alone_has_a_graph():
    assert not difference(on_columns(sparse_threshold=0).fit(FRAME), FRAME, ["transform"])


@pytest.mark.parametrize("unit", ["ns", "us", "s"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_dates_are_taken_apart_as_in_training(unit, zone):
    moments = pd.Series(pd.to_datetime(RNG.integers(-(10**9), 4 * 10**9, 2_000), unit="s", utc=zone == "UTC"))
    edges = ["1970-01-01", "1972-02-29T23:59:59", "2000-02-29", "2000-03-01", "2100-02-28", "1900-12-31T23:59:59"]
    moments[: len(edges)] = pd.to_datetime(edges, utc=zone == "UTC", format="ISO8601")
    moments[10:20] = pd.NaT
    kind = f"datetime64[{unit}, {zone}]" if zone else f"datetime64[{unit}]"
    frame = pd.DataFrame({"when": moments.astype(kind)})
    parts = FunctionTransformer(date_parts).fit(frame)
    schema = schema_of(frame)
    [graph] = export_graphs(parts, frame[:32], ["transform"], schema).values()
    session = open_session(graph.content)
    runtime = OnnxRuntime({"transform": session}, schema, coded_rows=coded_rows_of([session], schema))
    computed = runtime.compute(value_rows(schema, frame), "transform")
    assert np.array_equal(computed, date_parts(frame), equal_nan=True)


@pytest.mark.parametrize("name", WITHOUT_GRAPH)
def test_a_step_without_a_graph_is_refused_by_name(name):
    preprocessing, step = WITHOUT_GRAPH[name]
    estimator = fitted(preprocessing, LogisticRegression(max_iter=2000), LABELS)
    with pytest.raises(NotPublishable, match=step.replace("(", r"\(").replace(")", r"\)")):
        export_graphs(estimator, FRAME[:32], ["predict"], schema_of(FRAME))
