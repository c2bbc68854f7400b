"""The two models of the strategy benchmark, fitted with scikit-learn and written to files."""

import pickle
from pathlib import Path

import joblib
import numpy
from sklearn.datasets import make_regression
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression

SEED = 42
TREES = 10
# A bootstrap leaves 0.63 of the rows in a tree as leaves, and a leaf and its parent are 72 bytes each on disk.
BYTES_PER_ROW_AND_TREE = 90.3


def small_model() -> LinearRegression:
    """Return a line fitted to one feature, about 500 bytes on disk."""
    features, target = make_regression(n_samples=100, n_features=1, noise=0.1, random_state=SEED)
    return LinearRegression().fit(features, target)


def large_model(megabytes: float) -> RandomForestRegressor:
    """Return a forest of about that many megabytes on disk, fitted to one feature.

    A forest grows with its rows while one row's answer stays a walk down ten trees, a millisecond at any size; it holds
    its arrays once in either format, where a k-d tree of neighbours is half as large again in joblib as in pickle.
    """
    rows = max(10, round(megabytes * 1e6 / BYTES_PER_ROW_AND_TREE / TREES))
    generator = numpy.random.default_rng(SEED)
    features = generator.normal(size=(rows, 1))
    # Noise makes every row's target its own, so that no tree stops early and the size is known beforehand.
    target = 42.0 * features[:, 0] + generator.normal(scale=0.1, size=rows)
    return RandomForestRegressor(TREES, random_state=SEED).fit(features, target)


def write_model(model: object, model_format: str, path: Path) -> None:
    """Write the model to the path with `pickle` or `joblib`, neither compressed."""
    if model_format == "joblib":
        joblib.dump(model, path)
    else:
        path.write_bytes(pickle.dumps(model))
