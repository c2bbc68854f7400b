"""From what an estimator answers to what JSON and CSV have for it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from pydantic_core import to_json

from flaskml.schema.tables import json_value

Answer: TypeAlias = "np.ndarray | list[np.ndarray]"
"""Shape (rows,), or (rows, columns); for several outputs some methods give a list of such, one for each."""

ClassNames: TypeAlias = Sequence[str]

PER_CLASS_METHODS = frozenset({"predict_proba", "predict_log_proba"})
"""The methods whose columns are classes."""

FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings at which a spreadsheet takes a text for a formula."""


def class_name(label: Any) -> str:
    """The name of a class in JSON, where only texts are keys: booleans as JSON writes them, all else as Python does."""
    if isinstance(label, (np.datetime64, np.timedelta64)):
        return str(label)
    label = label.item() if isinstance(label, np.generic) else label
    return str(label).lower() if isinstance(label, bool) else str(label)


def json_answers(answer: Answer, method: str, classes: Sequence[ClassNames] = (), top: int | None = None) -> list[Any]:
    """One value a row: a number, a label, a list of them, or for probabilities an object from class to number.

    `classes` are the names of the classes, output by output. With `top`, an object has that many of them, the most
    probable first. Several outputs make a list of objects. An answer to no row may have any shape.
    """
    if method not in PER_CLASS_METHODS or not len(answer):
        return _plain(np.asarray(answer))
    if isinstance(answer, list):
        outputs = [_by_class(part, _names(classes, index, part), top) for index, part in enumerate(answer)]
        return [list(row) for row in zip(*outputs, strict=True)]
    return _by_class(answer, _names(classes if len(classes) == 1 else (), 0, answer), top)


def _plain(answer: np.ndarray) -> list[Any]:
    if answer.dtype.kind in "mM":
        missing, answer = np.isnat(answer), answer.astype(str).astype(object)
        answer[missing] = None
    found: list[Any] = answer.tolist()
    return _plain_items(found) if answer.dtype.hasobject else found


def _plain_items(items: list[Any]) -> list[Any]:
    """The values of an array of objects, whatever stands for a missing one as None, and arrays as lists."""
    return [_plain_item(item) for item in items]


def _plain_item(item: Any) -> Any:
    if isinstance(item, np.ndarray):
        return _plain(item)
    return _plain_items(item) if isinstance(item, list) else json_value(item)


def _names(classes: Sequence[ClassNames], output: int, answer: np.ndarray) -> ClassNames:
    """The classes that the columns stand for; numbers where the estimator has no name for each."""
    names = classes[output] if output < len(classes) else ()
    return names if len(names) == answer.shape[1] else [str(column) for column in range(answer.shape[1])]


def _by_class(answer: np.ndarray, names: ClassNames, top: int | None) -> list[dict[str, float]]:
    if top is None:
        return [dict(zip(names, row, strict=True)) for row in answer.tolist()]
    order = np.argsort(-answer, axis=1, kind="stable")[:, :top]
    return [
        {names[column]: float(row[column]) for column in columns} for row, columns in zip(answer, order, strict=True)
    ]


def encode_json(value: Any) -> bytes:
    """Strict JSON: what is not finite is null."""
    return to_json(value, inf_nan_mode="null", fallback=_fallback)


def _fallback(value: Any) -> Any:
    """A label that JSON has no type for: numpy's scalars in an array of objects, and whatever a model may answer."""
    return value.item() if isinstance(value, np.generic) else str(value)


def encode_csv(rows: Sequence[Any]) -> bytes:
    """The values of `json_answers` as CSV: a column for each number or class, a header, texts that begin no formula."""
    flat = [flatten_cells(row, "prediction") for row in rows]
    header = list(dict.fromkeys(name for row in flat for name in row)) or ["prediction"]
    return b"".join([encode_csv_line(header), *(encode_csv_line([row.get(name) for name in header]) for row in flat)])


def encode_csv_line(values: Sequence[Any]) -> bytes:
    """One line of CSV, its texts such that they begin no formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([_guarded(value) for value in values])
    return out.getvalue().encode()


def flatten_cells(value: Any, name: str) -> dict[str, Any]:
    """A value as cells by their column's name, which says where in the value each was."""
    if isinstance(value, Mapping):
        parts = [(f"{name}:{key}", part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(f"{name}:{index}", part) for index, part in enumerate(value)]
    else:
        return {name: value}
    return {key: cell for label, part in parts for key, cell in flatten_cells(part, label).items()}


def _guarded(cell: Any) -> Any:
    """A text that a spreadsheet would compute gets an apostrophe before it; numbers stay numbers, null is empty."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and not np.isfinite(cell):
        return ""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_PREFIXES) else cell
