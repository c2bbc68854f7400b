"""Thread safety of estimators: answers to concurrent calls, and the lock for code that is not tested."""

import functools
import math
import operator
import pickle
import sys
import time
import warnings
from collections import defaultdict
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.spatial
import scipy.special
from scipy.stats import loguniform
from sklearn import (
    calibration,
    cluster,
    compose,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    kernel_approximation,
    kernel_ridge,
    linear_model,
    manifold,
    mixture,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    preprocessing,
    semi_supervised,
    svm,
    tree,
)
from sklearn.base import BaseEstimator
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - it adds `IterativeImputer` to `impute`
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flaskml.codecs.answer_equality import answers_equal, largest_absolute_number
from flaskml.publishing.inspection import inspect_sample
from flaskml.runtimes import sklearn as sklearn_runtime
from flaskml.runtimes import thread_safety
from flaskml.runtimes.onnx import OnnxRuntime
from flaskml.runtimes.sklearn import SklearnRuntime, _nested_estimators, estimator_methods, set_single_threaded
from flaskml.runtimes.thread_safety import is_thread_safe
from flaskml.schema.features import Feature, Schema
from flaskml.training.transformers import date_parts
from tests.support.concurrency import THREADS, OverlapDetector, call_at_once
from tests.support.numeric_cases import CASES as NUMERIC_CASES
from tests.support.numeric_cases import (
    ROWS,
    ROWS_WITH_NAN,
    STRING_CLASSES,
    TARGETS,
    THREE_CLASSES,
    TWO_CLASSES,
    numeric_case,
)
from tests.support.sampling import sampled
from tests.support.tables import mixed_table

ROUNDS = 3
"""Calls of each method by each thread."""

HOMES = mixed_table(120).dropna(subset=["sold", "note"])
SOLD = HOMES["sold"].to_numpy(dtype=object)
ADDRESSES = HOMES[["age", "rooms", "home city"]].assign(member=HOMES["member"].astype(int))
NOTES = HOMES[["note"]]
DATES = pd.DataFrame({"day": pd.Series(pd.date_range("2023-01-31 06:30", periods=60, freq="37h"))})


def fitted(estimator, X=ROWS, y=None):
    """Return a function that fits the estimator and returns it with its rows."""
    return lambda: (estimator.fit(X, y), X)


def columns(final_step):
    """Return a pipeline for the columns of `ADDRESSES`."""
    numbers = make_pipeline(impute.SimpleImputer(), StandardScaler())
    cities = preprocessing.OneHotEncoder(handle_unknown="ignore")
    return make_pipeline(
        compose.make_column_transformer((numbers, ["age", "rooms"]), (cities, ["home city"]), remainder="passthrough"),
        final_step,
    )


def words(vectorizer, *steps):
    """Return a pipeline for the texts of `NOTES`."""
    return make_pipeline(compose.make_column_transformer((vectorizer, "note")), *steps)


CLASSIFIERS = {
    f"{algorithm} neighbors": fitted(neighbors.KNeighborsClassifier(algorithm=algorithm), y=STRING_CLASSES)
    for algorithm in ("brute", "kd_tree", "ball_tree")
} | {
    "radius neighbors": fitted(neighbors.RadiusNeighborsClassifier(9.0), y=THREE_CLASSES),
    "neighbors by a distance function": fitted(
        neighbors.KNeighborsClassifier(metric=scipy.spatial.distance.cosine, algorithm="brute"),
        ROWS[:60],
        TWO_CLASSES[:60],
    ),
    "nearest centroid": fitted(neighbors.NearestCentroid(), y=STRING_CLASSES),
    "nu support vectors": fitted(svm.NuSVC(nu=0.1), y=TWO_CLASSES),
    "linear support vectors": fitted(svm.LinearSVC(), y=THREE_CLASSES),
    "calibrated support vectors": fitted(
        calibration.CalibratedClassifierCV(svm.SVC(), ensemble=False, cv=2), y=TWO_CLASSES
    ),
    "support vectors by a kernel function": fitted(svm.SVC(kernel=rbf_kernel), y=TWO_CLASSES),
    "gaussian process classifier": fitted(gaussian_process.GaussianProcessClassifier(), ROWS[:60], THREE_CLASSES[:60]),
    "quadratic discriminant analysis": fitted(discriminant_analysis.QuadraticDiscriminantAnalysis(), y=STRING_CLASSES),
    "label spreading": fitted(semi_supervised.LabelSpreading("knn"), y=THREE_CLASSES),
    "self-training": fitted(
        semi_supervised.SelfTrainingClassifier(naive_bayes.GaussianNB()), y=np.r_[TWO_CLASSES[:120], [-1] * 120]
    ),
    "gradient descent": fitted(linear_model.SGDClassifier(loss="log_loss", random_state=0), y=THREE_CLASSES),
    "one versus one": fitted(multiclass.OneVsOneClassifier(linear_model.LogisticRegression()), y=THREE_CLASSES),
    "output codes": fitted(
        multiclass.OutputCodeClassifier(linear_model.LogisticRegression(), random_state=0), y=THREE_CLASSES
    ),
    "classifier chain": fitted(
        multioutput.ClassifierChain(linear_model.LogisticRegression()), y=np.c_[TWO_CLASSES, TWO_CLASSES[::-1]]
    ),
    "bagging": fitted(ensemble.BaggingClassifier(random_state=0), y=THREE_CLASSES),
    "adaptive boosting": fitted(ensemble.AdaBoostRegressor(n_estimators=10, random_state=0), y=TARGETS),
    "stacking classifier": fitted(
        ensemble.StackingClassifier(
            [("bayes", naive_bayes.GaussianNB()), ("tree", tree.DecisionTreeClassifier(max_depth=3, random_state=0))],
            cv=2,
        ),
        y=THREE_CLASSES,
    ),
    "voting classifier": fitted(
        ensemble.VotingClassifier(
            [("bayes", naive_bayes.GaussianNB()), ("near", neighbors.KNeighborsClassifier())], voting="soft"
        ),
        y=STRING_CLASSES,
    ),
    "random search with a scorer of the user": fitted(
        model_selection.RandomizedSearchCV(
            linear_model.LogisticRegression(),
            {"C": loguniform(0.1, 10)},
            n_iter=2,
            cv=2,
            random_state=0,
            scoring=lambda estimator, X, y: estimator.score(X, y),
        ),
        y=TWO_CLASSES,
    ),
    "most frequent class": fitted(dummy.DummyClassifier(), y=STRING_CLASSES),
}

REGRESSORS = {
    "gaussian process regressor": fitted(gaussian_process.GaussianProcessRegressor(alpha=0.1), ROWS[:60], TARGETS[:60]),
    "partial least squares": fitted(cross_decomposition.PLSRegression(2), y=TARGETS),
    "kernel ridge": fitted(kernel_ridge.KernelRidge(kernel="rbf"), y=TARGETS),
    "robust regression": fitted(linear_model.HuberRegressor(), y=TARGETS),
    "random sample consensus": fitted(linear_model.RANSACRegressor(random_state=0), y=TARGETS),
    "stacking regressor": fitted(
        ensemble.StackingRegressor(
            [("ridge", linear_model.Ridge()), ("near", neighbors.KNeighborsRegressor())], cv=2, passthrough=True
        ),
        y=TARGETS,
    ),
    "transformed target": fitted(
        compose.TransformedTargetRegressor(linear_model.Ridge(), func=np.exp, inverse_func=np.log), y=TARGETS / 9
    ),
    "spline regression": fitted(make_pipeline(preprocessing.SplineTransformer(), linear_model.Ridge()), y=TARGETS),
}

CLUSTERERS_AND_OUTLIER_DETECTORS = {
    "mini-batch k-means": fitted(cluster.MiniBatchKMeans(4, n_init=1, random_state=0)),
    "bisecting k-means": fitted(cluster.BisectingKMeans(4, random_state=0)),
    "birch": fitted(cluster.Birch(n_clusters=3)),
    "mean shift": fitted(cluster.MeanShift(bandwidth=2)),
    "affinity propagation": fitted(cluster.AffinityPropagation(damping=0.9, random_state=0), ROWS[:60]),
    "gaussian mixture": fitted(mixture.GaussianMixture(3, random_state=0)),
    "local outlier factor": fitted(neighbors.LocalOutlierFactor(novelty=True)),
    "one-class support vectors": fitted(svm.OneClassSVM()),
}

TRANSFORMERS = {
    "robust scaler": fitted(preprocessing.RobustScaler()),
    "quantile transformer": fitted(preprocessing.QuantileTransformer(n_quantiles=50)),
    "power transformer": fitted(preprocessing.PowerTransformer()),
    "discretizer": fitted(preprocessing.KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"))
    if "quantile_method" in preprocessing.KBinsDiscretizer().get_params()
    else fitted(preprocessing.KBinsDiscretizer(3)),
    "splines": fitted(preprocessing.SplineTransformer(extrapolation="linear")),
    "polynomial features": fitted(preprocessing.PolynomialFeatures(3)),
    "numpy function": fitted(FunctionTransformer(np.log1p), np.abs(ROWS)),
    "kernel principal components": fitted(decomposition.KernelPCA(2, kernel="rbf")),
    "independent components": fitted(decomposition.FastICA(2, random_state=0, tol=1e-2)),
    "factor analysis": fitted(decomposition.FactorAnalysis(2)),
    "truncated singular values": fitted(decomposition.TruncatedSVD(2, random_state=0)),
    "dictionary learning": fitted(decomposition.MiniBatchDictionaryLearning(3, max_iter=5, random_state=0)),
    "mini-batch factorization": fitted(decomposition.MiniBatchNMF(2, tol=0.1, random_state=0), np.abs(ROWS)),
    "nystroem kernel": fitted(kernel_approximation.Nystroem(n_components=20, random_state=0)),
    "fourier features": fitted(kernel_approximation.RBFSampler(random_state=0)),
    "chi-squared features": fitted(kernel_approximation.AdditiveChi2Sampler(), np.abs(ROWS)),
    "tree embedding": fitted(ensemble.RandomTreesEmbedding(10, random_state=0)),
    "isomap": fitted(manifold.Isomap(), ROWS[:60]),
    "locally linear embedding": fitted(manifold.LocallyLinearEmbedding(random_state=0), ROWS[:60]),
    "neighbor components": fitted(
        neighbors.NeighborhoodComponentsAnalysis(2, max_iter=10, random_state=0), ROWS[:60], TWO_CLASSES[:60]
    ),
    "feature selection": fitted(feature_selection.SelectKBest(k=2), y=TWO_CLASSES),
    "feature elimination": fitted(feature_selection.RFE(linear_model.Ridge()), y=TARGETS),
    "feature union": fitted(FeatureUnion([("scale", StandardScaler()), ("project", decomposition.PCA(2))])),
    "iterative imputer": fitted(impute.IterativeImputer(random_state=0, tol=0.1), ROWS_WITH_NAN),
    "nearest neighbor imputer": fitted(impute.KNNImputer(add_indicator=True), ROWS_WITH_NAN),
    "missing indicator": fitted(impute.MissingIndicator(), ROWS_WITH_NAN),
}

FRAMES = {
    "columns of strings and numbers": fitted(columns(linear_model.LogisticRegression()), ADDRESSES, SOLD),
    "columns and a forest": fitted(columns(ensemble.RandomForestClassifier(10, random_state=0)), ADDRESSES, SOLD),
    "target encoder": fitted(
        make_pipeline(
            compose.make_column_transformer((preprocessing.TargetEncoder(), ["home city"])),
            linear_model.LogisticRegression(),
        ),
        ADDRESSES[["home city"]].fillna("?"),
        SOLD,
    ),
    "ordinal encoder of strings": fitted(
        make_pipeline(preprocessing.OrdinalEncoder(), impute.SimpleImputer(), linear_model.Ridge()),
        ADDRESSES[["home city"]],
        ADDRESSES["rooms"],
    ),
    "categories of histogram boosting": fitted(
        ensemble.HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=10, random_state=0),
        ADDRESSES.astype({"home city": "category"}),
        SOLD,
    ),
    "weighted words": fitted(words(TfidfVectorizer(), linear_model.LogisticRegression()), NOTES, SOLD),
    "hashed letters": fitted(
        words(
            HashingVectorizer(n_features=64, analyzer="char", ngram_range=(1, 2)),
            linear_model.SGDClassifier(random_state=0),
        ),
        NOTES,
        SOLD,
    ),
    "topics of words": fitted(
        words(CountVectorizer(), decomposition.LatentDirichletAllocation(3, max_iter=2, random_state=0)), NOTES
    ),
    "dates": fitted(
        make_pipeline(FunctionTransformer(date_parts), StandardScaler(), linear_model.Ridge()), DATES, TARGETS[:60]
    ),
}


def xgboost(booster="gbtree", **options):
    """Return a fitted classifier of XGBoost with its rows."""
    library = pytest.importorskip("xgboost")
    return library.XGBClassifier(n_estimators=10, booster=booster, **options).fit(ROWS, THREE_CLASSES), ROWS


def xgboost_forest():
    library = pytest.importorskip("xgboost")
    return library.XGBRFRegressor(n_estimators=10).fit(ROWS, TARGETS), ROWS


def lightgbm(boosting="gbdt"):
    """Return a fitted classifier of LightGBM with its rows."""
    library = pytest.importorskip("lightgbm")
    estimator = library.LGBMClassifier(n_estimators=10, boosting_type=boosting, n_jobs=1, verbose=-1)
    return estimator.fit(ROWS, THREE_CLASSES), ROWS


def lightgbm_categories():
    library = pytest.importorskip("lightgbm")
    X = ADDRESSES.rename(columns={"home city": "city"}).astype({"city": "category"})
    return library.LGBMRegressor(n_estimators=10, n_jobs=1, verbose=-1).fit(X, X["age"].fillna(0)), X


OTHER_LIBRARIES = {
    "xgboost": xgboost,
    "xgboost dart": partial(xgboost, "dart"),
    "xgboost forest": xgboost_forest,
    "lightgbm": lightgbm,
    "lightgbm dart": partial(lightgbm, "dart"),
    "lightgbm categories": lightgbm_categories,
}


def support_vector_probabilities():
    """Return a fitted support vector classifier with probabilities, which scikit-learn 1.9 deprecates, and its rows."""
    with warnings.catch_warnings(action="ignore"):
        return svm.SVC(probability=True, random_state=0).fit(ROWS, STRING_CLASSES), ROWS


def numeric(name):
    """Return the fitted estimator and the rows of a numeric case."""
    case = numeric_case(name)
    return case.estimator, case.X


CASES = {
    **{name: partial(numeric, name) for name in NUMERIC_CASES},
    "support vector probabilities": support_vector_probabilities,
    **CLASSIFIERS,
    **REGRESSORS,
    **CLUSTERERS_AND_OUTLIER_DETECTORS,
    **TRANSFORMERS,
    **FRAMES,
    **OTHER_LIBRARIES,
}


@pytest.fixture
def swift_switches():
    """Make threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    yield
    sys.setswitchinterval(before)


def cold_runtime(estimator, X):
    """Return the runtime of a copy of the estimator that has never computed, as it is when a version is loaded."""
    # A function of the user cannot be pickled; the only estimator with one does not use it for predictions.
    estimator = getattr(estimator, "best_estimator_", estimator)
    copy = pickle.loads(pickle.dumps(estimator))
    set_single_threaded(copy)
    return SklearnRuntime(copy, estimator_methods(copy), inspect_sample(estimator, X).schema)


def subset(table, index):
    """Return rows of a table that differ in their number and order for each index."""
    rows = np.random.default_rng(index).permutation(len(table))[: 1 + 5 * index]
    return table[rows] if isinstance(table, np.ndarray) else table.iloc[rows]


def wrong_answers(runtime, alone, tables, methods):
    """Return the methods that give threads other answers than one thread, which calls `alone`."""
    expected = [{method: alone.compute(table, method) for method in methods} for table in tables]

    def find_wrong(table, answers):
        return [method for method in methods * ROUNDS if not equal(answers[method], runtime.compute(table, method))]

    return set().union(*call_at_once(partial(find_wrong, *case) for case in zip(tables, expected, strict=True)))


@pytest.mark.usefixtures("swift_switches")
@pytest.mark.parametrize("name", sampled(CASES, 3))
def test_concurrent_calls_get_the_answers_of_one_thread(name):
    estimator, X = CASES[name]()
    table, runtime = inspect_sample(estimator, X).table, cold_runtime(estimator, X)
    assert is_thread_safe(estimator) and runtime.is_thread_safe
    tables = [subset(table, index) for index in range(THREADS)]
    assert wrong_answers(runtime, cold_runtime(estimator, X), tables, estimator_methods(estimator)) == set()


class RacingRegressor(linear_model.LinearRegression):
    """A regressor that keeps its rows in an attribute during a call."""

    def predict(self, X):
        self.rows_ = X
        time.sleep(0)
        return super().predict(self.rows_)


@pytest.mark.parametrize(("is_trusted", "expected"), [(False, set()), (True, {"predict"})])
def test_wrong_answers_are_found(is_trusted, expected, monkeypatch):
    monkeypatch.setattr(sklearn_runtime, "is_thread_safe", lambda _: is_trusted)
    estimator = RacingRegressor().fit(ROWS, TARGETS)
    runtime, alone = cold_runtime(estimator, ROWS), cold_runtime(estimator, ROWS)
    tables = [subset(ROWS, index) for index in range(THREADS)]
    assert wrong_answers(runtime, alone, tables, ("predict",) * 20) == expected


def equal(expected, answer):
    absolute = 1e-12 * largest_absolute_number(expected)
    return answers_equal(expected, answer, relative=1e-12, absolute=absolute)


def replaced_attributes(estimator, X):
    """Return the attributes of the estimator that calls replace by other values, even if they restore them later."""
    parts, replaced = {id(part) for part in _nested_estimators(estimator, set())}, set()

    def record(part, name, value):
        if id(part) in parts and name in vars(part) and pickle.dumps(vars(part)[name]) != pickle.dumps(value):
            replaced.add((type(part).__name__, name))
        object.__setattr__(part, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseEstimator, "__setattr__", record, raising=False)
        for index in range(3):
            for method in estimator_methods(estimator):
                with np.errstate(all="ignore"):
                    getattr(estimator, method)(subset(X, index))
    return replaced


@pytest.mark.parametrize("name", CASES)
def test_calls_replace_no_attribute(name):
    """A race may be too rare to be seen by threads."""
    assert replaced_attributes(*CASES[name]()) == set()


def factorization():
    X = np.abs(ROWS)
    return decomposition.NMF("auto", tol=1e-2, random_state=0).fit(X), X


def test_replaced_attributes_are_found():
    assert replaced_attributes(*factorization()) == {("NMF", "_n_components")}


@pytest.mark.parametrize("make", [factorization, partial(xgboost, "gblinear")])
def test_exceptions_are_called_under_a_lock(make):
    estimator, X = make()
    assert not is_thread_safe(estimator) and not is_thread_safe(make_pipeline(StandardScaler(), estimator))
    assert not cold_runtime(estimator, X).is_thread_safe


detector = OverlapDetector()


def detect_overlaps(X):
    """Return the rows; a function of the user for a transformer."""
    with detector:
        return X


class DetectingRegressor(linear_model.LinearRegression):
    """A regressor of the user that detects overlapping calls of both its methods."""

    def predict(self, X):
        with detector:
            return super().predict(X)

    def transform(self, X):
        with detector:
            return X


def detecting_estimators():
    yield DetectingRegressor()
    yield make_pipeline(StandardScaler(), DetectingRegressor())
    yield ensemble.VotingRegressor([("user", DetectingRegressor()), ("ridge", linear_model.Ridge())])
    yield FunctionTransformer(detect_overlaps)
    yield make_pipeline(FunctionTransformer(detect_overlaps), linear_model.Ridge())
    yield FunctionTransformer(partial(np.apply_along_axis, detect_overlaps, 1))


@pytest.fixture(params=list(detecting_estimators()), ids=lambda estimator: type(estimator).__name__)
def detecting_estimator(request):
    return request.param.fit(ROWS[:9], TARGETS[:9])


def overlaps_of(runtime, methods):
    """Return how many concurrent calls of the runtime overlap."""
    detector.__init__()
    call_at_once(partial(runtime.compute, ROWS[:9], methods[index % len(methods)]) for index in range(THREADS))
    assert detector.uses >= THREADS
    return detector.overlaps


def test_code_of_the_user_is_called_by_one_thread_at_a_time(detecting_estimator):
    methods = estimator_methods(detecting_estimator)
    runtime = SklearnRuntime(detecting_estimator, methods, inspect_sample(detecting_estimator, ROWS[:9]).schema)
    assert not runtime.is_thread_safe
    assert overlaps_of(runtime, methods) == 0


def test_calls_without_the_lock_overlap(detecting_estimator, monkeypatch):
    monkeypatch.setattr(sklearn_runtime, "is_thread_safe", lambda _: True)
    methods = estimator_methods(detecting_estimator)
    runtime = SklearnRuntime(detecting_estimator, methods, inspect_sample(detecting_estimator, ROWS[:9]).schema)
    assert overlaps_of(runtime, methods) > 0


def test_the_lock_is_released_after_an_error():
    estimator = make_pipeline(FunctionTransformer(detect_overlaps), linear_model.Ridge()).fit(ROWS, TARGETS)
    runtime = cold_runtime(estimator, ROWS)
    for _ in range(2):
        with pytest.raises(ValueError, match="features"):
            runtime.compute(ROWS[:, :2], "predict")
    assert len(runtime.compute(ROWS, "predict")) == len(ROWS)


def test_a_thread_safe_estimator_is_called_directly():
    estimator, X = CASES["brute neighbors"]()
    runtime = SklearnRuntime(estimator, ("predict",), inspect_sample(estimator, X).schema)
    assert runtime._methods == {"predict": estimator.predict}


class Callable:
    """An object of the user."""

    def __call__(self, X):
        return X

    def method(self, X):
        return X


@functools.wraps(np.mean)
def named_like_a_function_of_numpy(X):
    return X


USER_CODE = {
    "function": detect_overlaps,
    "lambda": lambda X: X,
    "object": Callable(),
    "class": Callable,
    "bound method": Callable().method,
    "partial": partial(detect_overlaps),
    "argument of a partial": partial(np.apply_along_axis, Callable()),
    "wrapped function": named_like_a_function_of_numpy,
    "cached function": functools.lru_cache(detect_overlaps),
    "vectorized function": np.vectorize(detect_overlaps),
    "ufunc": np.frompyfunc(detect_overlaps, 1, 1),
    "method of a list": [Callable()].index,
    "method of an estimator": FunctionTransformer(detect_overlaps).transform,
    "nested value": {"a": [(1, {"b": Callable()})]},
    "key": {Callable(): 1},
    "default of a dict": defaultdict(Callable),
    "array of objects": np.array([[1, Callable()]], dtype=object),
    "set": {Callable()},
    "module": pytest,
}


@pytest.mark.parametrize("code", USER_CODE.values(), ids=USER_CODE)
def test_code_of_the_user_is_found(code):
    assert not is_thread_safe(FunctionTransformer(kw_args={"argument": code}))
    assert not is_thread_safe(make_pipeline(StandardScaler(), FunctionTransformer(code)))


@pytest.mark.parametrize(
    "estimator",
    [
        TfidfVectorizer(analyzer=detect_overlaps),
        CountVectorizer(tokenizer=Callable()),
        neighbors.KNeighborsClassifier(metric=detect_overlaps),
        svm.SVC(kernel=detect_overlaps),
        make_pipeline(Callable(), linear_model.Ridge()),
        compose.make_column_transformer((StandardScaler(), detect_overlaps)),
        compose.TransformedTargetRegressor(func=detect_overlaps),
        ensemble.BaggingClassifier(DetectingRegressor()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_parameters_with_code_of_the_user_are_found(estimator):
    assert not is_thread_safe(estimator)


def test_an_attribute_that_replaces_a_method_is_found():
    estimator = linear_model.Ridge().fit(ROWS, TARGETS)
    estimator.predict = detect_overlaps
    assert not is_thread_safe(estimator)


class Unreadable:
    """An object of the user that raises an error when a missing attribute is read."""

    def __getattr__(self, name):
        raise RuntimeError(f"{name} is read")


def test_no_attribute_of_an_object_of_the_user_is_read():
    assert not is_thread_safe(FunctionTransformer(kw_args={"argument": Unreadable()}))


TESTED_CODE = {
    "ufunc": np.log1p,
    "compiled function": tree._tree._build_pruned_tree_ccp,
    "ufunc of scipy": scipy.special.expit,
    "function of numpy": np.nan_to_num,
    "function of pandas": pd.to_numeric,
    "method of pandas": pd.DataFrame.abs,
    "function of scikit-learn": euclidean_distances,
    "function of flaskml": date_parts,
    "built-in function": abs,
    "function of math": math.sqrt,
    "operator": operator.neg,
    "item getter": operator.itemgetter(0),
    "method of str": str.lower,
    "partial": partial(np.clip, a_min=0, a_max=1),
    "vectorized function": np.vectorize(math.sqrt),
    "method of a dict": {"a": 1}.get,
    "method of an estimator": StandardScaler().transform,
    "values": [1, 2.5, "a", b"b", None, np.int8(1), np.datetime64("2020-01-01"), pd.Timestamp(0), pd.NA, slice(1)],
    "frame": pd.DataFrame({"a": [1], "b": ["c"]}),
    "random state": np.random.RandomState(0),
    "type": np.float32,
    "class": linear_model.Ridge,
}


@pytest.mark.parametrize("code", TESTED_CODE.values(), ids=TESTED_CODE)
def test_code_of_tested_libraries_is_thread_safe(code):
    assert is_thread_safe(FunctionTransformer(code, kw_args={"argument": code}))


def test_a_cache_folder_is_thread_safe(tmp_path):
    assert is_thread_safe(make_pipeline(StandardScaler(), linear_model.Ridge(), memory=joblib.Memory(tmp_path)))


def test_a_tree_costs_few_steps(monkeypatch):
    steps, is_tested = [], thread_safety._is_tested
    monkeypatch.setattr(thread_safety, "_is_tested", lambda part: steps.append(part) or is_tested(part))
    trees = 200
    assert is_thread_safe(ensemble.RandomForestClassifier(trees, max_depth=2, random_state=0).fit(ROWS, TWO_CLASSES))
    assert len(steps) < 10 * trees


def test_a_cycle_of_estimators_is_visited_once():
    estimator = StandardScaler()
    estimator.itself = [estimator]
    assert is_thread_safe(estimator)


class Fallback:
    """A runtime for other methods, thread-safe or not."""

    def __init__(self, is_thread_safe):
        self.is_thread_safe = is_thread_safe


@pytest.mark.parametrize(("fallback", "expected"), [(None, True), (Fallback(True), True), (Fallback(False), False)])
def test_graphs_are_as_thread_safe_as_the_estimator_beside_them(fallback, expected):
    schema = Schema(features=(Feature(name="a", kind="float"),), layout="array")
    assert OnnxRuntime({}, schema, fallback).is_thread_safe is expected
