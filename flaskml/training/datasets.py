"""Data sets to train on: the built-in ones of scikit-learn, and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaskml.codecs.csv_tables import read_csv_frame
from flaskml.errors import InvalidTraining, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table of features and the column to predict, without missing targets."""

    name: str
    """A built-in name, or a file's name without its folder."""

    features: pd.DataFrame
    target: pd.Series
    dropped_rows: int = 0
    """Rows that were left out because their target is missing."""

    dropped_columns: tuple[str, ...] = ()
    """Columns that were left out because they hold no value at all."""


def built_in(name: str) -> Dataset:
    """One of the data sets in `BUILT_IN`."""
    features, target = BUILT_IN[name]()
    return Dataset(name=name, features=features, target=target)


def read_csv_dataset(source: Path, name: str, target: str | None) -> Dataset:
    """The data set in a CSV file. Raises `InvalidTraining` saying what is wrong with it."""
    return _dataset(read_csv_frame(source, name), name, target)


def _cut(text: object) -> str:
    return str(text)[:40]


def _dataset(table: pd.DataFrame, name: str, target: str | None) -> Dataset:
    columns = ", ".join(f'"{_cut(column)}"' for column in table.columns[:20])
    if target is None:
        raise InvalidTraining(f"Say which column of {name} is the target; it has {columns}.")
    if target not in table.columns:
        offer = did_you_mean(target, table.columns)
        raise InvalidTraining(f'{name} has no column "{target[:100]}"{offer}. It has {columns}.')
    known = table[table[target].notna()]
    features = known.drop(columns=target)
    empty = [column for column in features.columns if features[column].isna().all()]
    features = features.drop(columns=empty)
    _refuse_infinite(known.drop(columns=empty), name)
    if features.shape[1] == 0:
        raise InvalidTraining(f'{name} has no column with values besides the target "{target}".')
    return Dataset(name, features, known[target], len(table) - len(known), tuple(empty))


def _refuse_infinite(table: pd.DataFrame, name: str) -> None:
    numbers = table.select_dtypes("number")
    for column in numbers.columns:
        if np.isinf(numbers[column].to_numpy(dtype=np.float64, na_value=np.nan)).any():
            raise InvalidTraining(
                f'Column "{_cut(column)}" of {name} holds infinite values; make them empty or finite.'
            )


def _regression() -> tuple[pd.DataFrame, pd.Series]:
    import pandas as pd
    from sklearn.datasets import make_regression

    values, target = make_regression(n_samples=100, n_features=1, noise=0.1, random_state=42)
    return pd.DataFrame({"feature": values[:, 0]}), pd.Series(target, name="target")


def _bundled(loader: str) -> Callable[[], tuple[pd.DataFrame, pd.Series]]:
    """A loader of scikit-learn's that needs no download; classes come by their names."""

    def load() -> tuple[pd.DataFrame, pd.Series]:
        import sklearn.datasets

        bunch = getattr(sklearn.datasets, loader)(as_frame=True)
        names = getattr(bunch, "target_names", None)
        target = bunch.target if names is None else bunch.target.map(lambda code: str(names[code]))
        return bunch.data, target.rename("target")

    return load


BUILT_IN: Mapping[str, Callable[[], tuple[pd.DataFrame, pd.Series]]] = {
    "regression": _regression,
    "iris": _bundled("load_iris"),
    "wine": _bundled("load_wine"),
    "diabetes": _bundled("load_diabetes"),
    "breast_cancer": _bundled("load_breast_cancer"),
}
"""Data sets that need no file, by the name that `--data` takes. `regression` is made: 100 rows of one feature."""
