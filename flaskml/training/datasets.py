"""Tables to train on: scikit-learn's own by name, and CSV files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.errors import InvalidTraining, nearest

if TYPE_CHECKING:
    import pandas as pd


_READING: dict[str, Any] = {
    "encoding": "utf-8-sig",
    "compression": None,  # Not inferred from a name: a small file must not become a large table.
    "on_bad_lines": "error",
    "keep_default_na": False,
}

GAPS = frozenset({"NA", "N/A", "NaN", "nan", "NULL", "null", "None", "#N/A"})
"""Words that stand for a gap in a column of numbers. Only nothing stands for one in a column of texts."""


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


def read_csv(source: Path, name: str, target: str | None) -> Dataset:
    """The data set in a CSV file. Raises `InvalidTraining` saying what is wrong with it."""
    return _dataset(read_table(source, name), name, target)


def read_table(source: Path, name: str) -> pd.DataFrame:
    """The table of a CSV file with a header, in UTF-8. Raises `InvalidTraining` saying what is wrong with it."""
    import pandas as pd

    try:
        # A first row with more fields than the header is an error here; below it would move every column by one.
        head = pd.read_csv(source, header=None, nrows=2, dtype=str, **_READING)
        table = pd.read_csv(source, low_memory=False, na_values=[""], **_READING)
    except OSError as error:
        raise InvalidTraining(f"{name} cannot be read ({error.strerror}).") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise InvalidTraining(f"{name} is not a CSV table in UTF-8 ({str(error).strip()[:200]}).") from error
    _refuse_equal_names(head.iloc[0].tolist(), name)
    table.columns = table.columns.map(str)
    mended: pd.DataFrame = table.apply(_numbers_with_gaps)
    return mended


def _refuse_equal_names(header: list[str], name: str) -> None:
    """Of two columns with one name, the second would be read under another and hide what it is."""
    twice = {column for column in header if column and header.count(column) > 1}
    if twice:
        raise InvalidTraining(f'{name} has more than one column called "{_cut(min(twice))}".')


def _numbers_with_gaps(column: pd.Series) -> pd.Series:
    """A column of numbers in which gaps are written in words; in a column of texts such a word is a text."""
    import pandas as pd

    if column.dtype.kind in "biuf" or not column.isin(GAPS).any():
        return column
    try:
        return pd.to_numeric(column.mask(column.isin(GAPS)))
    except (ValueError, TypeError):
        return column


def _cut(text: object) -> str:
    return str(text)[:40]


def _dataset(table: pd.DataFrame, name: str, target: str | None) -> Dataset:
    columns = ", ".join(f'"{_cut(column)}"' for column in table.columns[:20])
    if target is None:
        raise InvalidTraining(f"Say which column of {name} is the target; it has {columns}.")
    if target not in table.columns:
        offer = nearest(target, table.columns)
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
