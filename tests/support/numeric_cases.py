"""Estimators of every kind that takes an array of numbers, with rows to fit them on and fresh ones."""

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
FRESH = RNG.normal(size=(200, 4)) * 1.5
QUANTITY = ROWS @ [1.0, 2.0, -1.0, 0.5] + 0.1 * RNG.normal(size=240)
TWO = (QUANTITY > 0).astype(int)
THREE = np.digitize(QUANTITY, [-1, 1])
NAMES = np.array(["low", "middle", "hïgh"])[THREE]
GAPS, FRESH_GAPS = ROWS.copy(), FRESH.copy()
GAPS[RNG.random(GAPS.shape) < 0.1] = np.nan
FRESH_GAPS[RNG.random(FRESH.shape) < 0.1] = np.nan
COARSE, FRESH_COARSE = np.round(ROWS), np.round(FRESH)
WHOLE, FRESH_WHOLE = RNG.integers(0, 6, (240, 4)), RNG.integers(-9, 99, (200, 4))
COUNTED = np.c_[ROWS, RNG.integers(0, 5, 240)]
FRESH_COUNTED = np.c_[FRESH, RNG.integers(0, 5, 200)]


@dataclass(frozen=True)
class Numeric:
    """An estimator, the rows that it was fitted on, and others."""

    estimator: object
    X: np.ndarray
    fresh: np.ndarray


def on(X=ROWS, y=None, fresh=FRESH):
    return lambda estimator: Numeric(estimator.fit(X, y), X, fresh)


def few(kind, **options):
    """A small ensemble."""
    return kind(**{"random_state": 0, "n_estimators": 10, **options})


def boosted(kind, **options):
    return kind(random_state=0, max_iter=10, **options)


def scaled(last):
    return make_pipeline(SimpleImputer(), preprocessing.StandardScaler(), last)


LINEAR = {
    "linear": (linear_model.LinearRegression(), on(y=QUANTITY)),
    "several quantities": (linear_model.LinearRegression(), on(y=np.c_[QUANTITY, -QUANTITY])),
    "ridge": (linear_model.Ridge(), on(y=QUANTITY)),
    "whole numbers": (linear_model.LinearRegression(), on(WHOLE, QUANTITY, FRESH_WHOLE)),
    "booleans": (linear_model.LogisticRegression(), on(ROWS > 0, TWO, FRESH > 0)),
    "two whole": (linear_model.LogisticRegression(), on(y=TWO)),
    "two texts": (linear_model.LogisticRegression(), on(y=np.array(["no", "yes"])[TWO])),
    "two objects": (linear_model.LogisticRegression(), on(y=np.array(["no", "yes"], dtype=object)[TWO])),
    "two booleans": (linear_model.LogisticRegression(), on(y=TWO == 1)),
    "two floats": (linear_model.LogisticRegression(), on(y=TWO * 2.0 + 1)),
    "three whole": (linear_model.LogisticRegression(), on(y=THREE)),
    "three texts": (linear_model.LogisticRegression(), on(y=NAMES)),
    "gaps, classes": (scaled(linear_model.LogisticRegression()), on(GAPS, THREE, FRESH_GAPS)),
    "gaps, quantity": (scaled(linear_model.Ridge()), on(GAPS, QUANTITY, FRESH_GAPS)),
    "nested": (make_pipeline(preprocessing.MinMaxScaler(), scaled(linear_model.LogisticRegression())), on(y=TWO)),
    "searched": (
        model_selection.GridSearchCV(scaled(linear_model.LogisticRegression()), {"logisticregression__C": [1, 2]}),
        on(y=TWO),
    ),
    "columns": (
        make_pipeline(
            compose.make_column_transformer((preprocessing.StandardScaler(), [0, 1]), remainder="passthrough"),
            linear_model.LogisticRegression(),
        ),
        on(y=TWO),
    ),
    "poisson": (linear_model.PoissonRegressor(), on(y=np.exp(QUANTITY / 4))),
}

TREES = {
    "tree, quantity": (tree.DecisionTreeRegressor(random_state=0), on(y=QUANTITY)),
    "tree, texts": (tree.DecisionTreeClassifier(max_depth=5, random_state=0), on(y=NAMES)),
    "tree, gaps": (tree.DecisionTreeClassifier(max_depth=5, random_state=0), on(GAPS, TWO, FRESH_GAPS)),
    "tree of a leaf": (tree.DecisionTreeRegressor(), on(y=np.full(240, 0.1))),
    "forest, quantity": (few(ensemble.RandomForestRegressor), on(y=QUANTITY)),
    "forest, gaps": (few(ensemble.RandomForestRegressor), on(GAPS, QUANTITY, FRESH_GAPS)),
    "forest, ties": (few(ensemble.RandomForestClassifier, max_depth=3), on(COARSE, TWO, FRESH_COARSE)),
    "forest, three": (few(ensemble.RandomForestClassifier, n_jobs=-1), on(y=NAMES)),
    "forest, booleans": (few(ensemble.RandomForestClassifier), on(y=TWO == 1)),
    "forest, leaves": (few(ensemble.RandomForestClassifier), on(ROWS[:12], [0] * 11 + [1])),
    "forest, single": (
        few(ensemble.RandomForestClassifier),
        on(ROWS.astype(np.float32), TWO, FRESH.astype(np.float32)),
    ),
    "forest, searched": (
        model_selection.GridSearchCV(few(ensemble.RandomForestClassifier), {"max_depth": [2, 3]}, cv=2),
        on(y=TWO),
    ),
    "extra trees, quantity": (few(ensemble.ExtraTreesRegressor), on(y=QUANTITY)),
    "extra trees, ties": (few(ensemble.ExtraTreesClassifier, n_estimators=2), on(COARSE, TWO, FRESH_COARSE)),
    "gradient, quantity": (few(ensemble.GradientBoostingRegressor), on(y=QUANTITY)),
    "gradient, two": (few(ensemble.GradientBoostingClassifier), on(y=TWO)),
    "gradient, three": (few(ensemble.GradientBoostingClassifier), on(y=NAMES)),
    "histogram, quantity": (
        boosted(ensemble.HistGradientBoostingRegressor), on(GAPS, QUANTITY, FRESH_GAPS),
    ),
    "histogram, two": (boosted(ensemble.HistGradientBoostingClassifier), on(GAPS, TWO, FRESH_GAPS)),
    "histogram, three": (boosted(ensemble.HistGradientBoostingClassifier), on(GAPS, NAMES, FRESH_GAPS)),
}  # fmt: skip

OTHERS = {
    "perceptron, three": (
        neural_network.MLPClassifier((8,), solver="lbfgs", max_iter=3000, random_state=0),
        on(y=THREE),
    ),
    "perceptron, quantity": (
        neural_network.MLPRegressor(hidden_layer_sizes=(8,), solver="lbfgs", tol=1e-3, max_iter=5000, random_state=0),
        on(y=QUANTITY),
    ),
    "naive bayes": (naive_bayes.GaussianNB(), on(y=THREE)),
    "components": (decomposition.PCA(2), on()),
    "standardised": (preprocessing.StandardScaler(), on()),
    "discriminant": (discriminant_analysis.LinearDiscriminantAnalysis(), on(y=THREE)),
    "voting": (
        ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(max_depth=3))]),
        on(y=QUANTITY),
    ),
}  # fmt: skip

WITHOUT_GRAPH = {
    "neighbours": (neighbors.KNeighborsClassifier(), on(y=NAMES)),
    "vectors, classes": (svm.SVC(), on(y=TWO)),
    "vectors, quantity": (svm.SVR(), on(y=QUANTITY)),
    "clusters": (cluster.KMeans(4, random_state=0), on()),
    "outliers": (few(ensemble.IsolationForest), on()),
    "several trees": (tree.DecisionTreeRegressor(random_state=0), on(y=np.c_[QUANTITY, -QUANTITY])),
    "several labels": (few(ensemble.RandomForestClassifier), on(y=np.c_[TWO, THREE])),
    "several models": (MultiOutputClassifier(linear_model.LogisticRegression()), on(y=np.c_[TWO, THREE])),
    "many classes": (few(ensemble.RandomForestClassifier), on(y=np.arange(240) % 12)),
    "histogram, counts": (
        boosted(ensemble.HistGradientBoostingRegressor, loss="poisson"), on(y=np.exp(QUANTITY / 4)),
    ),
    "histogram, categories": (
        boosted(ensemble.HistGradientBoostingClassifier, categorical_features=[4]),
        on(COUNTED, TWO, FRESH_COUNTED),
    ),
    "gradient, exponential": (
        few(ensemble.GradientBoostingClassifier, loss="exponential"), on(y=TWO),
    ),
    "gradient, from another": (
        few(ensemble.GradientBoostingRegressor, init=linear_model.LinearRegression()), on(y=QUANTITY),
    ),
    "isotonic": (
        isotonic.IsotonicRegression(out_of_bounds="clip"), on(ROWS[:, :1], QUANTITY, FRESH[:, :1]),
    ),
    "categories by number": (
        make_pipeline(preprocessing.OrdinalEncoder(), tree.DecisionTreeClassifier()),
        on(np.repeat([[1, 10], [10, 100], [100, 1]], 80, axis=0), TWO, np.array([[1, 10], [10, 100]])),
    ),
}  # fmt: skip

WITH_GRAPH = LINEAR | TREES | OTHERS
CASES = WITH_GRAPH | WITHOUT_GRAPH


def case(name):
    """The case of that name, fitted anew."""
    estimator, fit = CASES[name]
    return fit(estimator)


def facts_of(estimator, X):
    """What is known of an estimator before its runtime is chosen, its golden rows, and the table of its sample."""
    sample = inspect_sample(estimator, X)
    facts = VersionFacts(
        task=estimator_task(estimator), estimator="made", data="made", rows=len(X), schema_=sample.schema
    )
    return *complete_facts(facts, estimator, sample.table), sample.table
