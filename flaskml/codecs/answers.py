"""Answers of an estimator as JSON values and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from pydantic_core import to_json

from flaskml.schema.tables import json_value

Answer: TypeAlias = "np.ndarray | list[np.ndarray]"
"""An array of shape (rows,) or (rows, columns). For several outputs, some methods return a list with one per output."""

ClassNames: TypeAlias = Sequence[str]
"""The names of the classes of one output, in column order."""

PER_CLASS_METHODS = frozenset({"predict_proba", "predict_log_proba"})
"""The methods whose columns are classes."""

FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters by which a spreadsheet recognizes a formula (CSV injection)."""


def class_name(label: Any) -> str:
    """Return the name of a class as a JSON key: booleans as JSON writes them, other labels as `str` does."""
    if isinstance(label, (np.datetime64, np.timedelta64)):
        return str(label)
    label = label.item() if isinstance(label, np.generic) else label
    return str(label).lower() if isinstance(label, bool) else str(label)


def json_answers(answer: Answer, method: str, classes: Sequence[ClassNames] = (), top: int | None = None) -> list[Any]:
    """Return one JSON value per row: a number, a label, a list of them, or an object from class to probability.

    `classes` holds the class names of each output. With `top`, an object has only that many classes, the most probable
    first. Probabilities of several outputs are a list of objects. An answer to zero rows may have any shape.
    """
    if method not in PER_CLASS_METHODS or not len(answer):
        return _json_values(np.asarray(answer))
    if isinstance(answer, list):
        outputs = [
            _class_objects(output, _column_names(classes, index, output), top) for index, output in enumerate(answer)
        ]
        return [list(row) for row in zip(*outputs, strict=True)]
    return _class_objects(answer, _column_names(classes if len(classes) == 1 else (), 0, answer), top)


def _json_values(answer: np.ndarray) -> list[Any]:
    if answer.dtype.kind in "mM":
        missing, answer = np.isnat(answer), answer.astype(str).astype(object)
        answer[missing] = None
    values: list[Any] = answer.tolist()
    return _json_items(values) if answer.dtype.hasobject else values


def _json_items(items: list[Any]) -> list[Any]:
    """Return the items of an object array as JSON values: a missing-value marker as None, an array as a list."""
    return [_json_item(item) for item in items]


def _json_item(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return _json_values(item)
    return _json_items(item) if isinstance(item, list) else json_value(item)


def _column_names(classes: Sequence[ClassNames], output: int, answer: np.ndarray) -> ClassNames:
    """Return the class name of each column, or the column numbers unless there is one name for each."""
    names = classes[output] if output < len(classes) else ()
    return names if len(names) == answer.shape[1] else [str(column) for column in range(answer.shape[1])]


def _class_objects(answer: np.ndarray, names: ClassNames, top: int | None) -> list[dict[str, float]]:
    if top is None:
        return [dict(zip(names, row, strict=True)) for row in answer.tolist()]
    order = np.argsort(-answer, axis=1, kind="stable")[:, :top]
    return [
        {names[column]: float(row[column]) for column in columns} for row, columns in zip(answer, order, strict=True)
    ]


def encode_json(value: Any) -> bytes:
    """Return a value as strict JSON: NaN and infinities become null."""
    return to_json(value, inf_nan_mode="null", fallback=_encode_unknown_type)


def _encode_unknown_type(value: Any) -> Any:
    """Return a JSON value for a type unknown to pydantic: NumPy scalars in object arrays, and labels of any class."""
    return value.item() if isinstance(value, np.generic) else str(value)


def encode_csv(rows: Sequence[Any]) -> bytes:
    """Return the values of `json_answers` as CSV with a header: one column per number or class, formulas escaped."""
    flat = [flatten_cells(row, "prediction") for row in rows]
    header = list(dict.fromkeys(name for row in flat for name in row)) or ["prediction"]
    return encode_csv_lines(chain([header], ([row.get(name) for name in header] for row in flat)))


def encode_csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return lines of CSV in UTF-8, formulas escaped."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([_escape_formula(value) for value in row] for row in rows)
    return out.getvalue().encode()


def has_plain_cells(values: Sequence[Any]) -> bool:
    """Return whether each value is one cell of CSV, and none is missing."""
    return set(map(type, values)) <= {int, float, str, bool}


def encode_csv_column(values: Sequence[Any]) -> bytes:
    """Return lines of CSV with one plain cell each, as `encode_csv_lines` does, in a fraction of the time."""
    if all(type(value) is int for value in values):
        return "".join(f"{value}\r\n" for value in values).encode()
    return encode_csv_lines(zip(values, strict=True))


def flatten_cells(value: Any, name: str) -> dict[str, Any]:
    """Return the cells of a nested value by column name; the name is the path to the cell, as in `name:0:class`."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    if isinstance(value, dict):
        parts = [(f"{name}:{key}", part) for key, part in value.items()]
    else:
        parts = [(f"{name}:{index}", part) for index, part in enumerate(value)]
    return {key: cell for label, part in parts for key, cell in flatten_cells(part, label).items()}


def _escape_formula(cell: Any) -> Any:
    """Return the cell as CSV writes it: an apostrophe before a text that a spreadsheet would evaluate.

    Numbers stay numbers. None, NaN and infinities become an empty cell.
    """
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else ""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_PREFIXES) else cell
