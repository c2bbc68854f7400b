"""Measure common pipelines on a table of mixed columns: microseconds of a row in scikit-learn, and by a graph.

Each pipeline is fitted to the same made-up table of customers: six numbers, one of them an integer, and six texts, with
missing values. The runtimes are compared and timed as when a version is published; a row begins as the values of a
request in both, so scikit-learn's time contains the construction of its DataFrame.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from arguments import some_of
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from flaskml import publish
from flaskml.store.manifest import Measurement
from flaskml.store.model_store import ModelStore

ROWS = 2_000
SEED = 42
NUMBERS = [f"number_{index}" for index in range(6)]
TEXTS = [f"text_{index}" for index in range(6)]

FILLED = SimpleImputer(strategy="median")
ONE_HOT = OneHotEncoder(handle_unknown="ignore")
ORDINAL = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


def columns(*numbers: Any, texts: Any = ONE_HOT, dense: bool = False) -> Any:
    """Return a transformer of both kinds of columns; `numbers` are the steps after the imputer."""
    steps = make_pipeline(FILLED, *(numbers or (StandardScaler(),)))
    return make_column_transformer((steps, NUMBERS), (texts, TEXTS), sparse_threshold=0 if dense else 0.3)


def with_logistic(*numbers: Any, texts: Any = ONE_HOT) -> Any:
    """Return a pipeline that ends in a logistic regression."""
    return make_pipeline(columns(*numbers, texts=texts), LogisticRegression(max_iter=5_000))


def before(estimator: Any, *, texts: Any = ONE_HOT) -> Any:
    """Return a pipeline of dense columns that ends in the estimator."""
    return make_pipeline(columns(texts=texts, dense=True), estimator)


PIPELINES: Mapping[str, Callable[[], Any]] = {
    "imputer, scaler, one-hot; logistic regression": with_logistic,
    "min-max scaler": lambda: with_logistic(MinMaxScaler()),
    "robust scaler": lambda: with_logistic(RobustScaler()),
    "polynomials": lambda: with_logistic(StandardScaler(), PolynomialFeatures(2)),
    "bins": lambda: with_logistic(KBinsDiscretizer(5, encode="onehot-dense")),
    "power transformer": lambda: with_logistic(PowerTransformer()),
    "quantiles": lambda: with_logistic(QuantileTransformer(n_quantiles=100)),
    "first category dropped": lambda: with_logistic(texts=OneHotEncoder(drop="first", handle_unknown="ignore")),
    "infrequent categories": lambda: with_logistic(
        texts=OneHotEncoder(min_frequency=0.05, handle_unknown="infrequent_if_exist")
    ),
    "texts imputed": lambda: with_logistic(texts=make_pipeline(SimpleImputer(strategy="most_frequent"), ONE_HOT)),
    "target encoder": lambda: with_logistic(texts=TargetEncoder()),
    "ten best columns": lambda: make_pipeline(columns(), SelectKBest(k=10), LogisticRegression(max_iter=5_000)),
    "principal components": lambda: make_pipeline(columns(dense=True), PCA(8), LogisticRegression(max_iter=5_000)),
    "linear regression": lambda: before(LinearRegression()),
    "ridge": lambda: before(Ridge()),
    "stochastic gradient descent": lambda: before(SGDClassifier(loss="log_loss", random_state=SEED)),
    "decision tree": lambda: before(DecisionTreeClassifier(random_state=SEED)),
    "forest of 100": lambda: before(RandomForestClassifier(random_state=SEED)),
    "extra trees": lambda: before(ExtraTreesClassifier(random_state=SEED)),
    "gradient boosting": lambda: before(GradientBoostingClassifier(random_state=SEED)),
    "histogram boosting, one-hot": lambda: before(HistGradientBoostingClassifier(random_state=SEED)),
    "histogram boosting, ordinal": lambda: before(HistGradientBoostingClassifier(random_state=SEED), texts=ORDINAL),
    "naive Bayes": lambda: before(GaussianNB()),
    "linear support vectors": lambda: before(LinearSVC()),
    "support vectors": lambda: before(SVC()),
    "nearest neighbors": lambda: before(KNeighborsClassifier()),
    "neural network": lambda: before(MLPClassifier((32,), random_state=SEED, max_iter=300)),
    "LightGBM, one-hot": lambda: before(_lightgbm()),
    "LightGBM, ordinal": lambda: before(_lightgbm(), texts=ORDINAL),
    "XGBoost, one-hot": lambda: before(_xgboost()),
}


def customers() -> tuple[pd.DataFrame, np.ndarray]:
    """Return the table and the labels."""
    rng = np.random.default_rng(SEED)
    table = {name: rng.normal(size=ROWS).round(3) for name in NUMBERS}
    table |= {name: rng.choice(list("abcdefgh"), ROWS).astype(object) for name in TEXTS}
    score = table["number_0"] + 2.0 * (table["text_0"] == "a") + rng.normal(scale=0.5, size=ROWS)
    for column in table.values():
        column[rng.random(ROWS) < 0.05] = np.nan
    frame = pd.DataFrame(table)
    frame["number_5"] = rng.integers(0, 60, ROWS)
    return frame, (score > 0).astype(int)


def measure(name: str) -> dict[str, Measurement]:
    """Return the measurements of a pipeline by runtime."""
    frame, labels = customers()
    estimator = PIPELINES[name]().fit(frame, labels)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "instance"
        publish(estimator, frame, instance_path=path, activate=False)
        measurements = ModelStore(path).manifest("default", "1").measurements
    return {measurement.runtime: measurement for measurement in measurements}


def rows(names: list[str]) -> Iterator[str]:
    """Yield a table of the pipelines."""
    yield "| pipeline | graph | scikit-learn, µs | graph, µs | ratio |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name in names:
        found = measure(name)
        own, graph = found["sklearn"].one_row_microseconds or 0.0, found["onnx"].one_row_microseconds
        if graph is None:
            yield f"| {name} | {found['onnx'].note} | {own:,.0f} | | |"
        else:
            yield f"| {name} | yes | {own:,.0f} | {graph:,.0f} | {own / graph:,.0f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pipelines", type=some_of(PIPELINES), metavar="NAME,...", help="all unless given")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for line in rows(options.pipelines or list(PIPELINES)):
        print(line, flush=True)


def _lightgbm() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(verbose=-1, random_state=SEED)


def _xgboost() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(random_state=SEED)


if __name__ == "__main__":
    sys.exit(main())
