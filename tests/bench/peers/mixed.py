"""Models of mixed columns: six numbers and six texts, or a table of customers with twelve columns."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from peers.workload import ROWS, SEED, Workload

NUMBERS = tuple(f"number_{index}" for index in range(6))
TEXTS = tuple(f"text_{index}" for index in range(6))

WORDS: Mapping[str, tuple[str, ...]] = {
    "gender": ("female", "male"),
    "partner": ("yes", "no"),
    "phone": ("yes", "no"),
    "internet": ("dsl", "fiber", "none"),
    "security": ("yes", "no", "no internet"),
    "support": ("yes", "no", "no internet"),
    "contract": ("month", "one year", "two years"),
    "billing": ("paper", "electronic"),
    "payment": ("card", "transfer", "check", "electronic check"),
}
"""The texts of the columns of the table of customers."""


def _plain_table() -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    numbers = {name: rng.normal(size=ROWS).round(4) for name in NUMBERS}
    texts = {name: rng.choice([f"value {index}" for index in range(8)], ROWS) for name in TEXTS}
    return pd.DataFrame(numbers | texts)


def _customers() -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    numbers = {
        "tenure": rng.integers(0, 73, ROWS).astype(float),
        "monthly": rng.uniform(18, 119, ROWS).round(2),
        "total": rng.uniform(18, 8_700, ROWS).round(2),
    }
    return pd.DataFrame(numbers | {name: rng.choice(words, ROWS) for name, words in WORDS.items()})


MIXED: Mapping[str, tuple[Callable[[], Any], Callable[[], pd.DataFrame]]] = {
    "mixed-logistic": (lambda: LogisticRegression(max_iter=1_000), _plain_table),
    "mixed-forest": (lambda: RandomForestClassifier(random_state=SEED), _plain_table),
    "mixed-boosting": (lambda: HistGradientBoostingClassifier(random_state=SEED), _plain_table),
    "customers": (lambda: LogisticRegression(max_iter=1_000), _customers),
}
"""The last step of each model, and its table."""


class MixedWorkload(Workload):
    """A fitted pipeline of mixed columns."""

    @property
    def frame(self) -> pd.DataFrame:
        """The rows that it was fitted to."""
        return pd.DataFrame(self.table.tolist(), columns=list(self.features))

    @property
    def questions(self) -> np.ndarray:
        """Rows that a server is tried with."""
        return self.table[:5]

    @property
    def expected(self) -> list[Any]:
        """The predictions of the estimator for the questions."""
        predictions: list[Any] = self.estimator.predict(self.frame[:5]).tolist()
        return predictions

    def _graph(self) -> bytes:
        """Return the pipeline as an ONNX graph with one input for each column, in 32-bit floats."""
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType

        kinds = [StringTensorType if isinstance(value, str) else FloatTensorType for value in self.table[0]]
        inputs = [(name, kind([None, 1])) for name, kind in zip(self.features, kinds, strict=True)]
        graph: bytes = to_onnx(
            self.estimator, initial_types=inputs, options={"zipmap": False}, target_opset=18
        ).SerializeToString()
        return graph


def make_mixed(name: str, folder: Path) -> MixedWorkload:
    """Return the workload of that name with its files in a new folder below the given one."""
    build, make_table = MIXED[name]
    table = make_table()
    numbers = [column for column in table if table[column].dtype.kind == "f"]
    texts = [column for column in table if column not in numbers]
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts),
    )
    score = table[numbers[0]].rank(pct=True) + table[texts[0]].rank(pct=True)
    targets = (score > score.median()).astype(int).to_numpy()
    estimator = make_pipeline(columns, build()).fit(table, targets)
    (folder / name).mkdir()
    return MixedWorkload(name, estimator, tuple(table), table.to_numpy(dtype=object), targets, folder / name)
