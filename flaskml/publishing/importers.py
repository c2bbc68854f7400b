"""Load estimators and sample rows from files: joblib, skops, ONNX and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaskml.codecs.csv_tables import read_csv_frame
from flaskml.errors import MissingExtra, NotPublishable
from flaskml.runtimes.onnx_import import ImportedGraph

if TYPE_CHECKING:
    import pandas as pd


SAFE_SUFFIXES = (".skops", ".onnx")
"""Suffixes of files that load without running code from the file."""


def load_estimator(file: Path) -> Any:
    """Return the estimator in a file.

    A `.skops` file may contain only types that skops trusts by default. A `.onnx` file becomes an `ImportedGraph`,
    which has the methods of an estimator. joblib loads any other file: it unpickles the file, which runs code from it.
    Raises `NotPublishable` for a file that does not load, `MissingExtra` if skops or onnx is not installed.
    """
    if file.suffix == ".skops":
        return _load_skops(file)
    if file.suffix == ".onnx":
        return ImportedGraph(file.read_bytes())
    import joblib

    try:
        return joblib.load(file)
    except Exception as error:  # Unpickling may raise anything.
        raise NotPublishable(
            f"{file.name} does not load here ({type(error).__name__}: {error}). Write it with joblib.dump, with the "
            "library versions of this environment."
        ) from error


def _load_skops(file: Path) -> Any:
    try:
        from skops import io
    except ImportError as error:
        raise MissingExtra("skops", "A .skops file") from error
    try:
        # Only the library's own list of types is trusted; types that the file names are never added to it.
        return io.load(file, trusted=[])
    except Exception as error:  # The format errors of skops have no common base class.
        raise NotPublishable(
            f"{file.name} is refused ({type(error).__name__}: {str(error)[:300]}). A .skops file may contain only "
            "types that skops trusts by default; for other types, write a joblib file."
        ) from error


def load_sample(file: Path, target: str | None, estimator: Any) -> tuple[pd.DataFrame, pd.Series | None]:
    """Return the features of a CSV file and, if `target` names a column, the targets.

    The features are in the columns and the order that the estimator was fitted on, if it recorded their names.
    Raises `NotPublishable` for a missing column.
    """
    table = read_csv_frame(file, file.name)
    targets = None
    if target is not None:
        if target not in table.columns:
            raise NotPublishable(f'{file.name} has no column "{target}"; the target must be one of its columns.')
        targets = table.pop(target)
    fitted_names = getattr(estimator, "feature_names_in_", None)
    if fitted_names is not None:
        missing = [name for name in fitted_names if name not in table.columns]
        if missing:
            raise NotPublishable(
                f"{file.name} lacks columns that the estimator was fitted on: {', '.join(missing)}. Add them."
            )
        table = table[list(fitted_names)]
    return table, targets
