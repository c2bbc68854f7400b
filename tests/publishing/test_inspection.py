"""Inspection of estimators: schema, layout, methods and accepted inputs."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from flaskml.errors import InvalidSchema, NotPublishable
from flaskml.publishing.inspection import (
    check_round_trip,
    has_equal_answers,
    inspect_sample,
    with_magnitude_probed,
    with_unknown_categories_probed,
    working_methods,
)
from flaskml.runtimes.sklearn import estimator_methods
from flaskml.schema.features import MAX_FLOAT
from flaskml.schema.tables import SchemaTableBuilder

NUMBERS = np.random.default_rng(2).normal(size=(60, 3))
FRAME = pd.DataFrame(NUMBERS, columns=["a", "b", "c"])
TARGET = NUMBERS @ [1.0, 2.0, 3.0]
TOWNS = pd.DataFrame({"town": ["Oslo", "Rome", "Bern"] * 20, "floor": pd.Series([1, 2, 3] * 20, dtype="category")})


def test_a_dataframe_of_numbers_becomes_an_array_if_the_answers_are_equal():
    sample = inspect_sample(Ridge().fit(FRAME, TARGET), FRAME)
    assert sample.schema.layout == "array" and sample.schema.names == ("a", "b", "c")
    assert isinstance(sample.table, np.ndarray)


def test_a_pipeline_that_selects_columns_by_name_gets_a_dataframe():
    pipeline = make_pipeline(make_column_transformer(("passthrough", ["c", "a"])), Ridge()).fit(FRAME, TARGET)
    assert inspect_sample(pipeline, FRAME).schema.layout == "frame"


class FrameDependent(Ridge):
    """An estimator that answers a DataFrame slightly differently than its array."""

    def predict(self, X):
        return super().predict(X) + (1e-6 if hasattr(X, "columns") else 0)


def test_answers_that_differ_by_more_than_rounding_are_not_equal():
    assert not has_equal_answers(FrameDependent().fit(FRAME, TARGET), FRAME, NUMBERS)
    assert has_equal_answers(Ridge().fit(FRAME, TARGET), FRAME, NUMBERS)


def test_a_method_that_only_raises_is_left_out():
    estimator = SGDClassifier(loss="hinge").fit(NUMBERS, TARGET > 0)
    assert "predict_proba" not in estimator_methods(estimator)
    estimator.predict_proba = lambda X: 1 / 0
    assert "predict_proba" in estimator_methods(estimator)
    assert working_methods(estimator, NUMBERS) == ("predict", "decision_function")


class ConstantLabel(Ridge):
    """An estimator that answers each row with the same label."""

    label: object = None

    def predict(self, X):
        return np.array([self.label] * len(X), dtype=object)


@pytest.mark.parametrize(("label", "message"), [(b"yes", "bytes"), ("\ud800", "not valid Unicode")])
def test_labels_without_a_json_representation_are_refused(label, message):
    estimator = ConstantLabel().fit(FRAME, TARGET)
    estimator.label = "yes"
    assert working_methods(estimator, FRAME) == ("predict",)
    estimator.label = label
    with pytest.raises(NotPublishable, match=message):
        working_methods(estimator, FRAME)


def encoder_pipeline(encoder):
    """Return a fitted pipeline with the encoder, and its table of two category columns."""
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(
        TOWNS.assign(floor=TOWNS["floor"].astype(str)), [0, 1] * 30
    )
    return pipeline, TOWNS.assign(floor=TOWNS["floor"].astype(str))


@pytest.mark.parametrize(
    ("encoder", "unknown"),
    [
        (OneHotEncoder(handle_unknown="ignore"), "accept"),
        (OneHotEncoder(), "refuse"),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), "accept"),
    ],
)
def test_an_unknown_category_is_probed(encoder, unknown):
    pipeline, table = encoder_pipeline(encoder)
    sample = inspect_sample(pipeline, table)
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == [unknown, unknown]


def test_a_categorical_dtype_refuses_unknown_categories():
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), SVC()).fit(TOWNS, [0, 1] * 30)
    sample = inspect_sample(pipeline, TOWNS.assign(town=TOWNS["town"].astype("category")))
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == ["refuse", "refuse"]


def test_a_category_that_a_correction_refuses_is_not_probed():
    pipeline, table = encoder_pipeline(OneHotEncoder(handle_unknown="ignore"))
    sample = inspect_sample(pipeline, table, {"features": [{"name": "town", "unknown": "refuse"}]})
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == ["refuse", "accept"]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (FRAME[["b", "a", "c"]], "was fitted on the columns a, b, c, in this order"),
        (FRAME[:0], "no row"),
        (FRAME.rename(columns={"b": "a"}), "two columns with the same name"),
        (NUMBERS[0], "shape"),
    ],
)
def test_a_sample_that_does_not_match_the_estimator_is_refused(sample, message):
    with pytest.raises((NotPublishable, InvalidSchema), match=message):
        inspect_sample(Ridge().fit(FRAME, TARGET), sample)


class ByName:
    """A hand-written estimator that selects a column by name without recording `feature_names_in_`."""

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.asarray(X["b"] if hasattr(X, "columns") else X[:, 0], dtype=float)


@pytest.mark.parametrize("frame", [FRAME, FRAME.assign(town="Oslo")])
def test_an_estimator_without_recorded_names_gets_the_dataframe_if_answers_differ(frame):
    sample = inspect_sample(ByName().fit(frame), frame)
    assert sample.schema.layout == "frame" and sample.table is not None


def test_a_pipeline_with_pandas_output_gets_a_dataframe():
    steps = (StandardScaler().set_output(transform="pandas"), make_column_transformer(("passthrough", ["a"])), Ridge())
    pipeline = make_pipeline(*steps).fit(FRAME, TARGET)
    assert inspect_sample(pipeline, FRAME).schema.layout == "frame"


@pytest.mark.parametrize("marker", [None, np.nan])
def test_the_marker_of_missing_values_in_an_object_array_is_preserved(marker):
    array = np.array([["a", "x"], ["b", "y"]] * 30, dtype=object)
    array[7, 0] = marker
    sample = inspect_sample(OneHotEncoder(handle_unknown="ignore").fit(array), array)
    check_round_trip(sample.schema, sample.table)
    table = SchemaTableBuilder(sample.schema).build([(None, "x")])
    assert (table[0, 0] is None) is (marker is None)


def test_two_markers_of_missing_values_are_refused():
    frame = TOWNS.assign(town=TOWNS["town"].astype(object))
    frame.loc[7, "town"], frame.loc[9, "town"] = None, np.nan
    frame["town"] = frame["town"].astype(object)
    encoder = OneHotEncoder().fit(frame.assign(floor="1"))
    with pytest.raises(InvalidSchema, match=r'"town" marks missing values in several ways \(NaN, None\)'):
        inspect_sample(encoder, frame.assign(floor="1"))


def test_a_column_that_changes_in_the_round_trip_is_named():
    schema = inspect_sample(Ridge().fit(FRAME, TARGET), FRAME).schema
    changed = schema.model_copy(
        update={"features": tuple(f.model_copy(update={"kind": "integer"}) for f in schema.features)}
    )
    with pytest.raises(NotPublishable, match='Sent as integer, the values of column "a"'):
        check_round_trip(changed, NUMBERS)


@pytest.mark.parametrize("form", [list, pd.Series, np.array])
def test_a_list_of_texts_is_refused_with_a_remedy(form):
    texts = ["good case", "bad case"] * 10
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1] * 10)
    with pytest.raises(NotPublishable, match="make_column_transformer"):
        inspect_sample(pipeline, form(texts))


def magnitude_of(estimator, table):
    sample = inspect_sample(estimator, table)
    return with_magnitude_probed(sample.schema, estimator, sample.table[:5], estimator_methods(estimator)[0]).magnitude


@pytest.mark.parametrize(
    ("estimator", "magnitude"),
    [
        (Ridge(), MAX_FLOAT),
        (DecisionTreeRegressor(), float(np.finfo(np.float32).max)),
        (make_pipeline(PolynomialFeatures(10), Ridge()), 1e30),
        (make_pipeline(PolynomialFeatures(15), Ridge()), 1e15),
    ],
    ids=["linear", "trees", "tenth powers", "fifteenth powers"],
)
def test_the_largest_accepted_magnitude_is_probed(estimator, magnitude):
    column = NUMBERS[:, :1]
    assert magnitude_of(estimator.fit(column, TARGET), column) == magnitude


def test_the_magnitude_covers_the_values_of_the_sample():
    column = np.array([[1.0], [-3e30], [2e30]] * 10)
    pipeline = make_pipeline(PolynomialFeatures(10), Ridge()).fit(column / 1e30, np.arange(30.0))
    assert magnitude_of(pipeline, column) == 3e30


def test_without_float_features_the_magnitude_is_not_limited():
    integers = np.arange(40).reshape(20, 2)
    assert magnitude_of(DecisionTreeRegressor().fit(integers, integers[:, 0]), integers) == MAX_FLOAT
    assert magnitude_of(OneHotEncoder().fit(TOWNS), TOWNS) == MAX_FLOAT


def test_if_no_magnitude_is_accepted_the_magnitude_is_not_limited():
    column = NUMBERS[:, :1]
    pipeline = make_pipeline(PolynomialFeatures(25), LinearRegression()).fit(column, TARGET)
    assert magnitude_of(pipeline, column) == MAX_FLOAT


def test_single_precision_features_are_probed_within_their_range():
    single = NUMBERS.astype(np.float32)
    assert magnitude_of(DecisionTreeRegressor().fit(single, TARGET), single) == MAX_FLOAT
