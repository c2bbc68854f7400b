"""What is found out by trying an estimator on a sample."""

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


def test_a_frame_of_numbers_is_asked_as_an_array_where_that_makes_no_difference():
    sample = inspect_sample(Ridge().fit(FRAME, TARGET), FRAME)
    assert sample.schema.layout == "array" and sample.schema.names == ("a", "b", "c")
    assert isinstance(sample.table, np.ndarray)


def test_a_pipeline_that_picks_columns_by_name_gets_a_frame():
    pipeline = make_pipeline(make_column_transformer(("passthrough", ["c", "a"])), Ridge()).fit(FRAME, TARGET)
    assert inspect_sample(pipeline, FRAME).schema.layout == "frame"


class Namely(Ridge):
    """Answers a frame otherwise than its array."""

    def predict(self, X):
        return super().predict(X) + (1e-6 if hasattr(X, "columns") else 0)


def test_a_small_difference_is_a_difference():
    assert not has_equal_answers(Namely().fit(FRAME, TARGET), FRAME, NUMBERS)
    assert has_equal_answers(Ridge().fit(FRAME, TARGET), FRAME, NUMBERS)


def test_a_method_that_only_raises_is_none():
    late = SGDClassifier(loss="hinge").fit(NUMBERS, TARGET > 0)
    assert "predict_proba" not in estimator_methods(late)
    late.predict_proba = lambda X: 1 / 0
    assert "predict_proba" in estimator_methods(late)
    assert working_methods(late, NUMBERS) == ("predict", "decision_function")


class Labelled(Ridge):
    """Answers each row with the same label."""

    label: object = None

    def predict(self, X):
        return np.array([self.label] * len(X), dtype=object)


@pytest.mark.parametrize(("label", "said"), [(b"yes", "bytes"), ("\ud800", "no Unicode")])
def test_labels_that_json_has_not_are_refused(label, said):
    estimator = Labelled().fit(FRAME, TARGET)
    estimator.label = "yes"
    assert working_methods(estimator, FRAME) == ("predict",)
    estimator.label = label
    with pytest.raises(NotPublishable, match=said):
        working_methods(estimator, FRAME)


def encoded(encoder):
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
def test_a_category_that_training_did_not_have_is_tried(encoder, unknown):
    pipeline, table = encoded(encoder)
    sample = inspect_sample(pipeline, table)
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == [unknown, unknown]


def test_a_categorical_has_no_place_for_another():
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), SVC()).fit(TOWNS, [0, 1] * 30)
    sample = inspect_sample(pipeline, TOWNS.assign(town=TOWNS["town"].astype("category")))
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == ["refuse", "refuse"]


def test_what_is_said_about_a_category_is_not_tried():
    pipeline, table = encoded(OneHotEncoder(handle_unknown="ignore"))
    sample = inspect_sample(pipeline, table, {"features": [{"name": "town", "unknown": "refuse"}]})
    schema = with_unknown_categories_probed(sample.schema, pipeline, sample.table, estimator_methods(pipeline))
    assert [feature.unknown for feature in schema.features] == ["refuse", "accept"]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (FRAME[["b", "a", "c"]], "was fitted on the columns a, b, c, in this order"),
        (FRAME[:0], "no row"),
        (FRAME.rename(columns={"b": "a"}), "two columns with the same name"),
        (NUMBERS[0], "shape"),
    ],
)
def test_samples_that_the_estimator_was_not_fitted_on(sample, said):
    with pytest.raises((NotPublishable, InvalidSchema), match=said):
        inspect_sample(Ridge().fit(FRAME, TARGET), sample)


class ByName:
    """Looks at the columns that it was fitted on and keeps no names, as many hand-written estimators do."""

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.asarray(X["b"] if hasattr(X, "columns") else X[:, 0], dtype=float)


@pytest.mark.parametrize("frame", [FRAME, FRAME.assign(town="Oslo")])
def test_an_estimator_that_keeps_no_names_gets_the_frame_where_it_makes_a_difference(frame):
    sample = inspect_sample(ByName().fit(frame), frame)
    assert sample.schema.layout == "frame" and sample.table is not None


def test_a_pipeline_that_passes_frames_on_gets_one():
    steps = (StandardScaler().set_output(transform="pandas"), make_column_transformer(("passthrough", ["a"])), Ridge())
    pipeline = make_pipeline(*steps).fit(FRAME, TARGET)
    assert inspect_sample(pipeline, FRAME).schema.layout == "frame"


@pytest.mark.parametrize("marker", [None, np.nan])
def test_what_is_missing_in_an_array_of_objects_is_marked_alike(marker):
    array = np.array([["a", "x"], ["b", "y"]] * 30, dtype=object)
    array[7, 0] = marker
    sample = inspect_sample(OneHotEncoder(handle_unknown="ignore").fit(array), array)
    check_round_trip(sample.schema, sample.table)
    made = SchemaTableBuilder(sample.schema).build([(None, "x")])
    assert (made[0, 0] is None) is (marker is None)


def test_two_ways_to_mark_what_is_missing_are_refused():
    frame = TOWNS.assign(town=TOWNS["town"].astype(object))
    frame.loc[7, "town"], frame.loc[9, "town"] = None, np.nan
    frame["town"] = frame["town"].astype(object)
    encoder = OneHotEncoder().fit(frame.assign(floor="1"))
    with pytest.raises(InvalidSchema, match=r'"town" marks missing values in several ways \(NaN, None\)'):
        inspect_sample(encoder, frame.assign(floor="1"))


def test_a_column_that_requests_cannot_make_again_is_named():
    schema = inspect_sample(Ridge().fit(FRAME, TARGET), FRAME).schema
    changed = schema.model_copy(
        update={"features": tuple(f.model_copy(update={"kind": "integer"}) for f in schema.features)}
    )
    with pytest.raises(NotPublishable, match='Sent as integer, the values of column "a"'):
        check_round_trip(changed, NUMBERS)


@pytest.mark.parametrize("form", [list, pd.Series, np.array])
def test_texts_alone_are_refused_with_the_remedy(form):
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
def test_the_largest_number_that_an_estimator_takes_is_tried(estimator, magnitude):
    column = NUMBERS[:, :1]
    assert magnitude_of(estimator.fit(column, TARGET), column) == magnitude


def test_what_the_sample_has_is_taken_in_any_case():
    column = np.array([[1.0], [-3e30], [2e30]] * 10)
    pipeline = make_pipeline(PolynomialFeatures(10), Ridge()).fit(column / 1e30, np.arange(30.0))
    assert magnitude_of(pipeline, column) == 3e30


def test_whole_numbers_and_texts_have_no_magnitude():
    whole = np.arange(40).reshape(20, 2)
    assert magnitude_of(DecisionTreeRegressor().fit(whole, whole[:, 0]), whole) == MAX_FLOAT
    assert magnitude_of(OneHotEncoder().fit(TOWNS), TOWNS) == MAX_FLOAT


def test_an_estimator_that_takes_no_large_number_is_asked_for_all():
    column = NUMBERS[:, :1]
    pipeline = make_pipeline(PolynomialFeatures(25), LinearRegression()).fit(column, TARGET)
    assert magnitude_of(pipeline, column) == MAX_FLOAT


def test_numbers_in_single_precision_are_tried_within_it():
    single = NUMBERS.astype(np.float32)
    assert magnitude_of(DecisionTreeRegressor().fit(single, TARGET), single) == MAX_FLOAT
