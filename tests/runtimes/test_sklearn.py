"""The scikit-learn runtime."""

import threading

import numpy as np
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler

from flaskml.runtimes.sklearn import _nested_estimators, set_single_threaded, warm_up_sklearn

VALUES = np.random.default_rng(0).normal(size=(40, 3))
LABELS = (VALUES[:, 0] > 0).astype(int)


def forest():
    return RandomForestClassifier(n_estimators=3, n_jobs=-1)


def estimators():
    yield forest()
    yield make_pipeline(StandardScaler(), forest())
    yield VotingClassifier([("forest", forest()), ("near", KNeighborsClassifier(n_jobs=2))])
    yield make_pipeline(FeatureUnion([("scale", StandardScaler())], n_jobs=-1), forest())
    union = make_column_transformer((FeatureUnion([("scale", StandardScaler())], n_jobs=-1), [0, 1]), n_jobs=2)
    yield make_pipeline(union, forest())


@pytest.mark.parametrize("estimator", list(estimators()), ids=lambda estimator: type(estimator).__name__)
def test_every_nested_estimator_gets_one_job(estimator):
    for part in _nested_estimators(estimator, set()):
        if type(part).__name__ in ("FeatureUnion", "ColumnTransformer"):
            part.n_jobs = None
    estimator.fit(VALUES, LABELS)
    before = estimator.predict(VALUES)
    set_single_threaded(estimator)
    assert {getattr(part, "n_jobs", 1) for part in _nested_estimators(estimator, set())} == {1}
    assert np.array_equal(estimator.predict(VALUES), before)


def test_a_cycle_of_estimators_is_visited_once():
    estimator = StandardScaler()
    estimator.itself = [estimator]
    assert list(_nested_estimators(estimator, set())) == [estimator]


@pytest.mark.parametrize("layout", ["array", "frame"])
def test_the_warm_up_starts_no_thread(layout):
    before = threading.active_count()
    warm_up_sklearn(layout)
    assert threading.active_count() == before
