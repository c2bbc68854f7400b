"""The models that are served, each in every form that a server wants: a pickle, an ONNX graph, a published version."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import is_classifier
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from flaskml import publish
from flaskml.errors import NotPublishable

SEED = 42
ROWS = 1000
WIDTH = 20
NARROW = 5
WIDE = 1_000
RUNTIMES = ("sklearn", "onnx")
ESTIMATORS: Mapping[str, tuple[Callable[[], Any], int]] = {
    "linear": (LinearRegression, 1),
    "wide": (LinearRegression, WIDE),
    "pipeline": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), WIDTH),
    "forest": (lambda: RandomForestRegressor(random_state=SEED), WIDTH),
    "small-forest": (lambda: RandomForestRegressor(random_state=SEED), NARROW),
    "gradient-boosting": (lambda: GradientBoostingRegressor(random_state=SEED), NARROW),
    "histogram-boosting": (lambda: HistGradientBoostingRegressor(random_state=SEED), NARROW),
    "neighbours": (KNeighborsRegressor, NARROW),
    "support-vectors": (SVC, NARROW),
}
"""The factory of each estimator, and the number of its features."""


@dataclass(frozen=True)
class Workload:
    """A fitted estimator with the rows that it was fitted to, and a folder for its files."""

    name: str
    estimator: Any
    features: tuple[str, ...]
    table: np.ndarray
    targets: np.ndarray
    folder: Path

    @property
    def kind(self) -> str:
        """The type of a prediction, `int` for a label and `float` for a number."""
        return "int" if is_classifier(self.estimator) else "float"

    @property
    def questions(self) -> np.ndarray:
        """Rows that a server is tried with; all the load is the first of them."""
        return np.concatenate([np.full((1, len(self.features)), 0.5), self.table[:4]])

    @property
    def frame(self) -> pd.DataFrame:
        """The rows that it was fitted to."""
        return pd.DataFrame(self.table, columns=list(self.features))

    @property
    def expected(self) -> list[Any]:
        """The predictions of the estimator for the questions."""
        predictions: list[Any] = self.estimator.predict(self.questions).tolist()
        return predictions

    def model_file(self) -> Path:
        """Return the estimator's joblib file."""
        return self._once("model.joblib", lambda path: joblib.dump(self.estimator, path))

    def graph_file(self) -> Path:
        """Return the estimator as an ONNX graph of one matrix of 32-bit floats, as the converter makes it."""
        return self._once("model.onnx", lambda path: path.write_bytes(self._graph()))

    def instance(self, runtime: str) -> Path:
        """Return an instance folder with the published estimator; raise NotPublishable if the runtime cannot."""
        chosen = {"runtime": runtime} if takes_runtime() else {}
        return self._once(
            f"instance-{runtime}",
            lambda path: publish(
                self.estimator, self.frame, self.targets, name="default", instance_path=path, **chosen
            ),
        )

    def graph_instance(self) -> Path:
        """Return an instance folder with the published estimator and its graph, without one if none can be made."""
        try:
            return self.instance("onnx")
        except NotPublishable:
            return self.instance("sklearn")

    def _once(self, name: str, write: Callable[[Path], object]) -> Path:
        path = self.folder / name
        if not path.exists():
            write(path)
        return path

    def _graph(self) -> bytes:
        # Imported here, as the converter is needed for the peers that serve graphs alone.
        from skl2onnx import to_onnx

        options = {"zipmap": False} if is_classifier(self.estimator) else None
        graph: bytes = to_onnx(self.estimator, self.table[:1].astype(np.float32), options=options).SerializeToString()
        return graph


def make_workload(name: str, folder: Path) -> Workload:
    """Return the workload of that name, the same each time, with its files in a new folder below the given one."""
    build, width = ESTIMATORS[name]
    estimator = build()
    make_data = make_classification if is_classifier(estimator) else make_regression
    table, targets = make_data(n_samples=ROWS, n_features=width, random_state=SEED, **_shape(width, estimator))
    # Four decimals are what such numbers have in practice.
    table = table.round(4)
    # Fitted to an array, as an estimator that knows its columns' names warns of each array that a peer gives it.
    estimator.fit(table, targets)
    features = ("feature",) if width == 1 else tuple(f"x{index}" for index in range(width))
    (folder / name).mkdir()
    return Workload(name, estimator, features, table, targets, folder / name)


def takes_runtime() -> bool:
    """Return whether the product lets its publisher choose what computes a version."""
    return "runtime" in inspect.signature(publish).parameters


def _shape(width: int, estimator: Any) -> dict[str, float]:
    return {} if is_classifier(estimator) else {"n_informative": min(width, 10), "noise": 0.1}
