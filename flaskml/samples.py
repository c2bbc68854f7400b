"""What a fitted estimator and a sample of its rows tell: the schema, the table that it takes, what it can be asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.answers import values
from flaskml.errors import NotPublishable
from flaskml.golden import largest, plain, same, some_rows
from flaskml.learning import as_array, corrected, learn
from flaskml.runtimes.sklearn import classes_of, methods_of, numpy_answer
from flaskml.schema import Feature, Schema, Table
from flaskml.tables import TableMaker, plain_rows

if TYPE_CHECKING:
    import pandas as pd

TEXTS = "U"
"""The type of an array of strings of any length, as numpy names it."""

ROUNDING = 1e-12
"""How far two answers may be off that only rounding tells apart."""

UNKNOWN_TEXT = "no category of training"
"""What an estimator is tried with to see whether it takes a category that it does not know."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows as the estimator takes them, and the schema of the requests that become such rows."""

    schema: Schema
    table: Table


def understand(estimator: Any, X: Any, corrections: Mapping[str, Any] | None = None) -> Sample:
    """The sample as the estimator takes it, and its schema with what the corrections say instead.

    An estimator that knows the names of its columns takes a frame, unless all are numbers and it answers their array
    alike, which costs a request less. Any other takes an array. Raises `NotPublishable` or `InvalidSchema`.
    """
    sample = _of_frame(estimator, X) if hasattr(X, "iloc") else _of_array(estimator, np.asarray(X))
    return Sample(corrected(sample.schema, corrections or {}), sample.table)


def _of_frame(estimator: Any, frame: pd.DataFrame) -> Sample:
    named = frame.rename(columns=str)
    if not len(named):
        raise NotPublishable("The sample has no row.")
    if not named.columns.is_unique:
        raise NotPublishable("The sample has two columns with the same name.")
    _check_width(estimator, named.columns.tolist())
    schema = learn(named)
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in named.dtypes):
        array = named.to_numpy()
        if answers_alike(estimator, some_rows(named), some_rows(array)):
            return Sample(as_array(schema, array.dtype.name), array)
    if hasattr(estimator, "feature_names_in_"):
        return Sample(schema, named)
    try:
        return _of_array(estimator, named.to_numpy(), named.columns.tolist())
    except (ValueError, TypeError, AttributeError, KeyError):  # It was fitted on a frame and has not kept the names.
        return Sample(schema, named)


def _of_array(estimator: Any, array: np.ndarray, names: Sequence[str] = ()) -> Sample:
    import pandas as pd

    if array.ndim != 2:
        raise NotPublishable("The sample must be a DataFrame or an array of shape (rows, features).")
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None:
        return _of_frame(estimator, pd.DataFrame(array, columns=list(known)).infer_objects())
    if not len(array):
        raise NotPublishable("The sample has no row.")
    if array.dtype.kind not in "biufUO":
        raise NotPublishable(f"The sample is an array of {array.dtype}; make it of numbers, booleans or strings.")
    names = names or [f"x{index}" for index in range(array.shape[1])]
    _check_width(estimator, names)
    asked(estimator, some_rows(array), methods_of(estimator)[0])
    dtype = TEXTS if array.dtype.kind == "U" else array.dtype.name
    return Sample(as_array(learn(pd.DataFrame(array, columns=list(names))), dtype), array)


def _check_width(estimator: Any, columns: Sequence[str]) -> None:
    names, width = getattr(estimator, "feature_names_in_", None), getattr(estimator, "n_features_in_", None)
    if names is not None and list(names) != list(columns):
        raise NotPublishable(f"The estimator was fitted on the columns {', '.join(map(str, names))}, in this order.")
    if width is not None and width != len(columns):
        raise NotPublishable(f"The estimator was fitted on {width} features; the sample has {len(columns)} columns.")


def asked(estimator: Any, table: Table, method: str) -> list[Any]:
    """What the estimator's method answers to the table, as values for JSON, without what it warns of."""
    with warnings.catch_warnings(action="ignore"):
        answer = numpy_answer(getattr(estimator, method)(table))
    found = values(answer, method, classes_of(estimator))
    if len(found) != len(table):
        raise NotPublishable(f"The estimator answers {len(table)} rows with {len(found)} values of {method}.")
    return found


def answers_alike(estimator: Any, table: Table, other: Table) -> bool:
    """Whether all methods answer two forms of the same rows alike, but for the order in which numbers are added."""
    try:
        return all(
            _alike(plain(asked(estimator, table, method)), plain(asked(estimator, other, method)))
            for method in working_methods(estimator, table)
        )
    except Exception:  # Whatever it raises at the other form, it does not take it.
        return False


def _alike(answers: list[Any], others: list[Any]) -> bool:
    return same(answers, others, absolute=ROUNDING * largest(answers), relative=ROUNDING)


def working_methods(estimator: Any, table: Table) -> tuple[str, ...]:
    """The methods that answer the table; the first has to. An estimator may have a method that only raises."""
    first, *others = methods_of(estimator)
    asked(estimator, table, first)
    return (first, *(method for method in others if _works(estimator, table, method)))


def _works(estimator: Any, table: Table, method: str) -> bool:
    try:
        return bool(asked(estimator, table, method))
    except Exception:  # Whatever it raises here, it would raise at a request.
        return False


def with_unknown_tried(schema: Schema, estimator: Any, table: Table, methods: Sequence[str]) -> Schema:
    """The schema with each category closed whose estimator refuses one that it does not know, and the others open."""
    row = plain_rows(schema, table[:1])[0]
    maker = TableMaker(schema)

    def settled(index: int, feature: Feature) -> Feature:
        if feature.kind != "category" or feature.unknown is not None:
            return feature
        tried = maker.table([(*row[:index], _unknown(feature), *row[index + 1 :])])
        takes = all(_works(estimator, tried, method) for method in methods)
        return feature.model_copy(update={"unknown": "accept" if takes else "refuse"})

    features = tuple(settled(index, feature) for index, feature in enumerate(schema.features))
    return schema.model_copy(update={"features": features})


def _unknown(feature: Feature) -> str | int:
    categories = feature.categories or ()
    if isinstance(categories[0], int):
        return 1 + max(int(category) for category in categories)
    return next(text for text in (UNKNOWN_TEXT, UNKNOWN_TEXT * 2) if text not in categories)
