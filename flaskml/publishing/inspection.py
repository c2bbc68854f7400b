"""What a fitted estimator and a sample of its rows tell: the schema, the table that it takes, what it can be asked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import PydanticSerializationError

from flaskml.codecs.answer_equality import answers_equal, largest_magnitude
from flaskml.codecs.answers import encode_json, json_answers
from flaskml.errors import InvalidSchema, NotPublishable
from flaskml.runtimes.sklearn import as_numpy, drop_feature_names, estimator_classes, estimator_methods
from flaskml.schema.corrections import apply_corrections
from flaskml.schema.features import MAX_FLOAT, Feature, Schema, Table
from flaskml.schema.from_sample import schema_from_frame, with_array_layout
from flaskml.schema.tables import SchemaTableBuilder, json_rows
from flaskml.store.golden_rows import finite_json, sample_rows

if TYPE_CHECKING:
    import pandas as pd

TEXT_DTYPE = "U"
"""The type of an array of strings of any length, as numpy names it."""

ROUNDING_TOLERANCE = 1e-12
"""How far two answers may be off that only rounding tells apart."""

MAX_COMPARED_VALUES = 200_000
"""Values of a sample that are made again from what requests would send."""

MAGNITUDES = (MAX_FLOAT, float(np.finfo(np.float32).max), 1e30, 1e15)
"""Numbers that an estimator is tried with, to see how large they may be."""

TEXT_COLUMN_HINT = (
    "A vectorizer, which takes a list of texts, takes a column of a DataFrame in "
    'make_column_transformer((TfidfVectorizer(), "text")).'
)

UNKNOWN_CATEGORY = "no category of training"
"""What an estimator is tried with to see whether it takes a category that it does not know."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows as the estimator takes them, and the schema of the requests that become such rows."""

    schema: Schema
    table: Table


def inspect_sample(estimator: Any, X: Any, corrections: Mapping[str, Any] | None = None) -> Sample:
    """The sample as the estimator takes it, and its schema with what the corrections say instead.

    An estimator that knows the names of its columns takes a frame, unless all are numbers and it answers their array
    alike, which costs a request less. Any other takes what it answers: a frame where the array makes a difference.
    Raises `NotPublishable` or `InvalidSchema`.
    """
    if np.ndim(X) == 1:
        raise NotPublishable(
            "The sample must be a DataFrame or an array of shape (rows, features), and it has one dimension. "
            f"{TEXT_COLUMN_HINT}"
        )
    sample = _of_frame(estimator, X) if hasattr(X, "iloc") else _of_array(estimator, np.asarray(X))
    return Sample(apply_corrections(sample.schema, corrections or {}), sample.table)


def _of_frame(estimator: Any, frame: pd.DataFrame) -> Sample:
    named = frame.rename(columns=str)
    if not len(named):
        raise NotPublishable("The sample has no row.")
    if not named.columns.is_unique:
        raise NotPublishable("The sample has two columns with the same name.")
    _check_width(estimator, named.columns.tolist())
    some, array = sample_rows(named), named.to_numpy()
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in named.dtypes):
        if has_equal_answers(estimator, some, sample_rows(array)):
            return Sample(with_array_layout(schema_from_frame(named), array.dtype.name), array)
        return Sample(schema_from_frame(named), named)
    knows_names = hasattr(estimator, "feature_names_in_")
    if knows_names or (_answers(estimator, some) and not has_equal_answers(estimator, some, sample_rows(array))):
        return Sample(schema_from_frame(named), named)
    try:
        return _of_array(estimator, array, named.columns.tolist())
    except (ValueError, TypeError, AttributeError, KeyError):  # It was fitted on a frame and has not kept the names.
        return Sample(schema_from_frame(named), named)


def _answers(estimator: Any, table: Table) -> bool:
    return _works(estimator, table, estimator_methods(estimator)[0])


def _of_array(estimator: Any, array: np.ndarray, names: Sequence[str] = ()) -> Sample:
    import pandas as pd

    if array.ndim != 2:
        raise NotPublishable("The sample must be a DataFrame or an array of shape (rows, features).")
    known = getattr(estimator, "feature_names_in_", None)
    if known is not None:
        return _of_frame(estimator, _inferred(pd.DataFrame(array, columns=list(known), dtype=array.dtype)))
    if not len(array):
        raise NotPublishable("The sample has no row.")
    if array.dtype.kind not in "biufUO":
        raise NotPublishable(f"The sample is an array of {array.dtype}; make it of numbers, booleans or strings.")
    names = names or [f"x{index}" for index in range(array.shape[1])]
    _check_width(estimator, names)
    call_method(estimator, sample_rows(array), estimator_methods(estimator)[0])
    dtype = TEXT_DTYPE if array.dtype.kind == "U" else array.dtype.name
    # The type is said, because pandas 3 would make its own strings of objects, with another marker for what is missing.
    kind = object if array.dtype.kind in "UO" else array.dtype
    return Sample(
        with_array_layout(schema_from_frame(pd.DataFrame(array, columns=list(names), dtype=kind)), dtype), array
    )


def _inferred(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns of objects as numbers or booleans where all of them are."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    inferred = frame.infer_objects()
    for name in frame:
        if not (is_numeric_dtype(inferred[name]) or is_bool_dtype(inferred[name])):
            inferred[name] = frame[name]
    return inferred


def _check_width(estimator: Any, columns: Sequence[str]) -> None:
    names, width = getattr(estimator, "feature_names_in_", None), getattr(estimator, "n_features_in_", None)
    if names is not None and list(names) != list(columns):
        raise NotPublishable(f"The estimator was fitted on the columns {', '.join(map(str, names))}, in this order.")
    if width is not None and width != len(columns):
        raise NotPublishable(f"The estimator was fitted on {width} features; the sample has {len(columns)} columns.")


def call_method(estimator: Any, table: Table, method: str) -> list[Any]:
    """What the estimator's method answers to the table, as values for JSON, without what it warns of."""
    with warnings.catch_warnings(action="ignore"):
        answer = as_numpy(getattr(estimator, method)(table))
    found = json_answers(answer, method, estimator_classes(estimator))
    if len(found) != len(table):
        raise NotPublishable(
            f"The estimator answers {len(table)} rows with {len(found)} values of {method}. {TEXT_COLUMN_HINT}"
        )
    if any(isinstance(value, bytes) for value in found):
        raise NotPublishable("The estimator answers with bytes, which JSON has not; make its labels strings.")
    try:
        encode_json(found)
    except PydanticSerializationError:  # Of half a surrogate pair there is no UTF-8.
        raise NotPublishable("The estimator answers with text that is no Unicode; make its labels anew.") from None
    return found


def has_equal_answers(estimator: Any, frame: Table, array: Table) -> bool:
    """Whether all methods answer an array as its frame, but for the order in which numbers are added.

    The array is asked of a copy that has forgotten the names of columns, as it will be served.
    """
    try:
        nameless = deepcopy(estimator)
        drop_feature_names(nameless)
        return all(
            _alike(
                finite_json(call_method(estimator, frame, method)), finite_json(call_method(nameless, array, method))
            )
            for method in working_methods(estimator, frame)
        )
    except Exception:  # Whatever it raises at the other form, it does not take it.
        return False


def _alike(answers: list[Any], others: list[Any]) -> bool:
    return answers_equal(
        answers, others, absolute=ROUNDING_TOLERANCE * largest_magnitude(answers), relative=ROUNDING_TOLERANCE
    )


def working_methods(estimator: Any, table: Table) -> tuple[str, ...]:
    """The methods that answer the table; the first has to. An estimator may have a method that only raises."""
    first, *others = estimator_methods(estimator)
    call_method(estimator, table, first)
    return (first, *(method for method in others if _works(estimator, table, method)))


def _works(estimator: Any, table: Table, method: str) -> bool:
    try:
        return bool(call_method(estimator, table, method))
    except Exception:  # Whatever it raises here, it would raise at a request.
        return False


def with_unknown_categories_probed(schema: Schema, estimator: Any, table: Table, methods: Sequence[str]) -> Schema:
    """The schema with each category closed whose estimator refuses one that it does not know, and the others open.

    Raises `InvalidSchema` if it was said to be open and the estimator refuses.
    """
    row = json_rows(schema, table[:1])[0]
    table_builder = SchemaTableBuilder(schema)

    def settled(index: int, feature: Feature) -> Feature:
        if feature.kind != "category" or feature.unknown == "refuse":
            return feature
        tried = table_builder.build([(*row[:index], _unknown(feature), *row[index + 1 :])])
        takes = all(_works(estimator, tried, method) for method in methods)
        if feature.unknown == "accept" and not takes:
            raise InvalidSchema(f'The estimator takes no unknown category of feature "{feature.name[:100]}".')
        return feature.model_copy(update={"unknown": "accept" if takes else "refuse"})

    features = tuple(settled(index, feature) for index, feature in enumerate(schema.features))
    return schema.model_copy(update={"features": features})


def with_magnitude_probed(schema: Schema, estimator: Any, table: Table, method: str) -> Schema:
    """The schema with the largest magnitude of numbers that the estimator takes, as far as a few tell."""
    row, table_builder = json_rows(schema, table[:1])[0], SchemaTableBuilder(schema)
    floats = [feature.kind == "float" for feature in schema.features]

    def takes(magnitude: float) -> bool:
        held = [min(magnitude, feature.numeric_limits[1]) for feature in schema.features]
        rows = [
            tuple(sign * most if is_float else value for value, most, is_float in zip(row, held, floats, strict=True))
            for sign in (1, -1)
        ]
        return _works(estimator, table_builder.build(rows), method)

    tried = next((magnitude for magnitude in MAGNITUDES if not any(floats) or takes(magnitude)), MAX_FLOAT)
    held = [abs(bound) for feature in schema.features if feature.kind == "float" for bound in feature.span if bound]
    return schema.model_copy(update={"magnitude": max([tried, *held])})  # What the sample has, it takes in any case.


def _unknown(feature: Feature) -> str | int:
    categories = set(feature.categories or ())
    if any(isinstance(category, int) for category in categories):
        return next(number for number in count() if number not in categories)
    return next(text for text in (UNKNOWN_CATEGORY, UNKNOWN_CATEGORY * 2) if text not in categories)


def check_round_trip(schema: Schema, table: Table) -> None:
    """Raises `NotPublishable` naming a column that requests cannot bring to the estimator as the sample has it."""
    part = sample_rows(table, max(MAX_COMPARED_VALUES // len(schema.features), 100))
    made = SchemaTableBuilder(schema).build(json_rows(schema, part))
    for index, feature in enumerate(schema.features):
        if not _is_same(_column(made, index), _column(part, index)):
            raise NotPublishable(
                f'Sent as {feature.kind}, the values of column "{feature.name[:100]}" ({feature.dtype}) '
                "would not reach the estimator as the sample has them."
            )


def _column(table: Table, index: int) -> Any:
    return table[:, index] if isinstance(table, np.ndarray) else table.iloc[:, index].reset_index(drop=True)


def _is_same(made: Any, given: Any) -> bool:
    """Whether two columns are of the same type and values, and mark what is missing alike."""
    import pandas as pd

    if isinstance(given, np.ndarray) and given.dtype != object:
        return made.dtype.kind == given.dtype.kind and bool(
            np.array_equal(made, given, equal_nan=given.dtype.kind == "f")
        )
    ours, theirs = (pd.Series(column, dtype=column.dtype) for column in (made, given))
    return bool(ours.dtype == theirs.dtype and ours.equals(theirs))
