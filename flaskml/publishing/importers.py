"""Estimators and samples from files that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaskml.codecs.csv_tables import read_csv_frame
from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes.onnx_import import ImportedGraph

if TYPE_CHECKING:
    import pandas as pd


SAFE_SUFFIXES = (".skops", ".onnx")
"""The kinds of files that are loaded without running what is in them."""


def load_estimator(file: Path) -> Any:
    """The estimator in a `.skops` file, by a fixed list of types, or in a joblib file, which runs what is in it.

    A `.onnx` file is a graph, which is asked like one.
    """
    if file.suffix == ".skops":
        return _from_skops(file)
    if file.suffix == ".onnx":
        return ImportedGraph(file.read_bytes())
    import joblib

    try:
        return joblib.load(file)
    except Exception as error:  # Unpickling may raise anything.
        raise NotPublishable(f"{file.name} does not load here ({type(error).__name__}: {error}).") from error


def _from_skops(file: Path) -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise MissingExtra("skops", "A .skops file") from error
    try:
        return io.load(file, trusted=[])  # The library's own list; what the file asks for is never added to it.
    except Exception as error:  # Its format errors have no common root; whatever it refuses is refused.
        raise NotPublishable(f"{file.name} is not taken ({type(error).__name__}: {str(error)[:300]}).") from error


def load_sample(file: Path, target: str | None, estimator: Any) -> tuple[pd.DataFrame, pd.Series | None]:
    """The rows of a sample in the columns and the order of the estimator, and the targets if their column is named."""
    table = read_csv_frame(file, file.name)
    targets = None
    if target is not None:
        if target not in table.columns:
            raise NotPublishable(f'{file.name} has no column "{target}".')
        targets = table.pop(target)
    wanted = getattr(estimator, "feature_names_in_", None)
    if wanted is not None:
        missing = [name for name in wanted if name not in table.columns]
        if missing:
            raise NotPublishable(f"{file.name} lacks columns that the estimator was fitted on: {', '.join(missing)}.")
        table = table[list(wanted)]
    return table, targets
