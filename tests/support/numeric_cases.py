"""Numeric cases: estimators of every kind that takes an array of numbers, with training rows and fresh rows."""

from dataclasses import dataclass

import numpy as np
from sklearn import (
    cluster,
    compose,
    decomposition,
    discriminant_analysis,
    ensemble,
    isotonic,
    linear_model,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.impute import SimpleImputer
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

from flaskml.publishing.inspection import inspect_sample
from flaskml.publishing.publish import complete_facts, estimator_task
from flaskml.store.manifest import VersionFacts

RNG = np.random.default_rng(5)
ROWS = RNG.normal(size=(240, 4))
FRESH_ROWS = RNG.normal(size=(200, 4)) * 1.5
TARGETS = ROWS @ [1.0, 2.0, -1.0, 0.5] + 0.1 * RNG.normal(size=240)
TWO_CLASSES = (TARGETS > 0).astype(int)
THREE_CLASSES = np.digitize(TARGETS, [-1, 1])
STRING_CLASSES = np.array(["low", "middle", "hïgh"])[THREE_CLASSES]
ROWS_WITH_NAN, FRESH_ROWS_WITH_NAN = ROWS.copy(), FRESH_ROWS.copy()
ROWS_WITH_NAN[RNG.random(ROWS_WITH_NAN.shape) < 0.1] = np.nan
FRESH_ROWS_WITH_NAN[RNG.random(FRESH_ROWS.shape) < 0.1] = np.nan
ROUNDED_ROWS, FRESH_ROUNDED_ROWS = np.round(ROWS), np.round(FRESH_ROWS)
INTEGER_ROWS, FRESH_INTEGER_ROWS = RNG.integers(0, 6, (240, 4)), RNG.integers(-9, 99, (200, 4))
ROWS_WITH_CATEGORY = np.c_[ROWS, RNG.integers(0, 5, 240)]
FRESH_ROWS_WITH_CATEGORY = np.c_[FRESH_ROWS, RNG.integers(0, 5, 200)]


@dataclass(frozen=True)
class NumericCase:
    """A fitted estimator, its training rows, and fresh rows."""

    estimator: object
    X: np.ndarray
    fresh: np.ndarray


def fit_on(X=ROWS, y=None, fresh=FRESH_ROWS):
    """Return a function that fits an estimator on these rows and returns the case."""
    return lambda estimator: NumericCase(estimator.fit(X, y), X, fresh)


def small_ensemble(kind, **options):
    """Return an ensemble of 10 estimators."""
    return kind(**{"random_state": 0, "n_estimators": 10, **options})


def small_boosting(kind, **options):
    """Return a histogram boosting estimator of 10 iterations."""
    return kind(random_state=0, max_iter=10, **options)


def scaled_pipeline(final_step):
    """Return a pipeline that imputes and scales before the final step."""
    return make_pipeline(SimpleImputer(), preprocessing.StandardScaler(), final_step)


LINEAR = {
    "linear": (linear_model.LinearRegression(), fit_on(y=TARGETS)),
    "several targets": (linear_model.LinearRegression(), fit_on(y=np.c_[TARGETS, -TARGETS])),
    "ridge": (linear_model.Ridge(), fit_on(y=TARGETS)),
    "integer features": (linear_model.LinearRegression(), fit_on(INTEGER_ROWS, TARGETS, FRESH_INTEGER_ROWS)),
    "boolean features": (linear_model.LogisticRegression(), fit_on(ROWS > 0, TWO_CLASSES, FRESH_ROWS > 0)),
    "two integer labels": (linear_model.LogisticRegression(), fit_on(y=TWO_CLASSES)),
    "two string labels": (linear_model.LogisticRegression(), fit_on(y=np.array(["no", "yes"])[TWO_CLASSES])),
    "two object labels": (
        linear_model.LogisticRegression(),
        fit_on(y=np.array(["no", "yes"], dtype=object)[TWO_CLASSES]),
    ),
    "boolean labels": (linear_model.LogisticRegression(), fit_on(y=TWO_CLASSES == 1)),
    "float labels": (linear_model.LogisticRegression(), fit_on(y=TWO_CLASSES * 2.0 + 1)),
    "three integer labels": (linear_model.LogisticRegression(), fit_on(y=THREE_CLASSES)),
    "three string labels": (linear_model.LogisticRegression(), fit_on(y=STRING_CLASSES)),
    "missing values, classifier": (
        scaled_pipeline(linear_model.LogisticRegression()),
        fit_on(ROWS_WITH_NAN, THREE_CLASSES, FRESH_ROWS_WITH_NAN),
    ),
    "missing values, regressor": (
        scaled_pipeline(linear_model.Ridge()),
        fit_on(ROWS_WITH_NAN, TARGETS, FRESH_ROWS_WITH_NAN),
    ),
    "nested pipeline": (
        make_pipeline(preprocessing.MinMaxScaler(), scaled_pipeline(linear_model.LogisticRegression())),
        fit_on(y=TWO_CLASSES),
    ),
    "grid search": (
        model_selection.GridSearchCV(
            scaled_pipeline(linear_model.LogisticRegression()), {"logisticregression__C": [1, 2]}
        ),
        fit_on(y=TWO_CLASSES),
    ),
    "column transformer": (
        make_pipeline(
            compose.make_column_transformer((preprocessing.StandardScaler(), [0, 1]), remainder="passthrough"),
            linear_model.LogisticRegression(),
        ),
        fit_on(y=TWO_CLASSES),
    ),
    "poisson regressor": (linear_model.PoissonRegressor(), fit_on(y=np.exp(TARGETS / 4))),
}

TREES = {
    "tree regressor": (tree.DecisionTreeRegressor(random_state=0), fit_on(y=TARGETS)),
    "tree classifier": (tree.DecisionTreeClassifier(max_depth=5, random_state=0), fit_on(y=STRING_CLASSES)),
    "tree, missing values": (
        tree.DecisionTreeClassifier(max_depth=5, random_state=0),
        fit_on(ROWS_WITH_NAN, TWO_CLASSES, FRESH_ROWS_WITH_NAN),
    ),
    "tree of one leaf": (tree.DecisionTreeRegressor(), fit_on(y=np.full(240, 0.1))),
    "forest regressor": (small_ensemble(ensemble.RandomForestRegressor), fit_on(y=TARGETS)),
    "forest, missing values": (
        small_ensemble(ensemble.RandomForestRegressor),
        fit_on(ROWS_WITH_NAN, TARGETS, FRESH_ROWS_WITH_NAN),
    ),
    "forest, ties": (
        small_ensemble(ensemble.RandomForestClassifier, max_depth=3),
        fit_on(ROUNDED_ROWS, TWO_CLASSES, FRESH_ROUNDED_ROWS),
    ),
    "forest of three classes": (small_ensemble(ensemble.RandomForestClassifier, n_jobs=-1), fit_on(y=STRING_CLASSES)),
    "forest, boolean labels": (small_ensemble(ensemble.RandomForestClassifier), fit_on(y=TWO_CLASSES == 1)),
    "forest, trees of one leaf": (small_ensemble(ensemble.RandomForestClassifier), fit_on(ROWS[:12], [0] * 11 + [1])),
    "forest, single precision": (
        small_ensemble(ensemble.RandomForestClassifier),
        fit_on(ROWS.astype(np.float32), TWO_CLASSES, FRESH_ROWS.astype(np.float32)),
    ),
    "forest, grid search": (
        model_selection.GridSearchCV(small_ensemble(ensemble.RandomForestClassifier), {"max_depth": [2, 3]}, cv=2),
        fit_on(y=TWO_CLASSES),
    ),
    "extra trees regressor": (small_ensemble(ensemble.ExtraTreesRegressor), fit_on(y=TARGETS)),
    "extra trees, ties": (
        small_ensemble(ensemble.ExtraTreesClassifier, n_estimators=2),
        fit_on(ROUNDED_ROWS, TWO_CLASSES, FRESH_ROUNDED_ROWS),
    ),
    "gradient boosting regressor": (small_ensemble(ensemble.GradientBoostingRegressor), fit_on(y=TARGETS)),
    "gradient boosting, two classes": (small_ensemble(ensemble.GradientBoostingClassifier), fit_on(y=TWO_CLASSES)),
    "gradient boosting, three classes": (small_ensemble(ensemble.GradientBoostingClassifier), fit_on(y=STRING_CLASSES)),
    "histogram boosting regressor": (
        small_boosting(ensemble.HistGradientBoostingRegressor),
        fit_on(ROWS_WITH_NAN, TARGETS, FRESH_ROWS_WITH_NAN),
    ),
    "histogram boosting, two classes": (
        small_boosting(ensemble.HistGradientBoostingClassifier),
        fit_on(ROWS_WITH_NAN, TWO_CLASSES, FRESH_ROWS_WITH_NAN),
    ),
    "histogram boosting, three classes": (
        small_boosting(ensemble.HistGradientBoostingClassifier),
        fit_on(ROWS_WITH_NAN, STRING_CLASSES, FRESH_ROWS_WITH_NAN),
    ),
    "histogram boosting, categories": (
        small_boosting(ensemble.HistGradientBoostingClassifier, categorical_features=[4]),
        fit_on(ROWS_WITH_CATEGORY, TWO_CLASSES, FRESH_ROWS_WITH_CATEGORY),
    ),
}

OTHERS = {
    "perceptron classifier": (
        neural_network.MLPClassifier((8,), solver="lbfgs", max_iter=3000, random_state=0),
        fit_on(y=THREE_CLASSES),
    ),
    "perceptron regressor": (
        neural_network.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", tol=1e-3, max_iter=5000, random_state=0),
        fit_on(y=TARGETS),
    ),
    "naive bayes": (naive_bayes.GaussianNB(), fit_on(y=THREE_CLASSES)),
    "principal components": (decomposition.PCA(2), fit_on()),
    "standard scaler": (preprocessing.StandardScaler(), fit_on()),
    "linear discriminant analysis": (discriminant_analysis.LinearDiscriminantAnalysis(), fit_on(y=THREE_CLASSES)),
    "voting regressor": (
        ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=3))]),
        fit_on(y=TARGETS),
    ),
}

WITHOUT_GRAPH = {
    "nearest neighbors": (neighbors.KNeighborsClassifier(), fit_on(y=STRING_CLASSES)),
    "support vector classifier": (svm.SVC(), fit_on(y=TWO_CLASSES)),
    "support vector regressor": (svm.SVR(), fit_on(y=TARGETS)),
    "k-means": (cluster.KMeans(4, random_state=0), fit_on()),
    "isolation forest": (small_ensemble(ensemble.IsolationForest), fit_on()),
    "multi-output tree": (tree.DecisionTreeRegressor(random_state=0), fit_on(y=np.c_[TARGETS, -TARGETS])),
    "multi-output forest": (
        small_ensemble(ensemble.RandomForestClassifier),
        fit_on(y=np.c_[TWO_CLASSES, THREE_CLASSES]),
    ),
    "multi-output linear": (
        MultiOutputClassifier(linear_model.LogisticRegression()),
        fit_on(y=np.c_[TWO_CLASSES, THREE_CLASSES]),
    ),
    "many classes": (small_ensemble(ensemble.RandomForestClassifier), fit_on(y=np.arange(240) % 12)),
    "histogram boosting, poisson loss": (
        small_boosting(ensemble.HistGradientBoostingRegressor, loss="poisson"),
        fit_on(y=np.exp(TARGETS / 4)),
    ),
    "gradient boosting, exponential loss": (
        small_ensemble(ensemble.GradientBoostingClassifier, loss="exponential"),
        fit_on(y=TWO_CLASSES),
    ),
    "gradient boosting, init estimator": (
        small_ensemble(ensemble.GradientBoostingRegressor, init=linear_model.LinearRegression()),
        fit_on(y=TARGETS),
    ),
    "isotonic": (
        isotonic.IsotonicRegression(out_of_bounds="clip"),
        fit_on(ROWS[:, :1], TARGETS, FRESH_ROWS[:, :1]),
    ),
    "ordinal encoder": (
        make_pipeline(preprocessing.OrdinalEncoder(), tree.DecisionTreeClassifier()),
        fit_on(np.repeat([[1, 10], [10, 100], [100, 1]], 80, axis=0), TWO_CLASSES, np.array([[1, 10], [10, 100]])),
    ),
}

WITH_GRAPH = LINEAR | TREES | OTHERS
CASES = WITH_GRAPH | WITHOUT_GRAPH


def numeric_case(name):
    """Return the case of that name, newly fitted."""
    estimator, fit = CASES[name]
    return fit(estimator)


def facts_of(estimator, X):
    """Return the facts of an estimator before its runtime is chosen, its golden rows, and the table of its sample."""
    sample = inspect_sample(estimator, X)
    facts = VersionFacts(
        task=estimator_task(estimator), estimator="made", data="made", rows=len(X), schema_=sample.schema
    )
    return *complete_facts(facts, estimator, sample.table), sample.table
