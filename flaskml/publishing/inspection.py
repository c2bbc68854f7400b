"""Inspection of a fitted estimator with a sample: the schema, the usable methods, and the inputs it accepts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import PydanticSerializationError

from flaskml.codecs.answer_equality import answers_equal, largest_absolute_number
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
"""The numpy dtype of strings of any length."""

ROUNDING_TOLERANCE = 1e-12
"""Relative difference of two answers that counts as rounding."""

MAX_COMPARED_VALUES = 200_000
"""Most sample values that `check_round_trip` compares."""

MAGNITUDES = (MAX_FLOAT, float(np.finfo(np.float32).max), 1e30, 1e15)
"""Magnitudes to try an estimator with, largest first, to learn how large its inputs may be."""

TEXT_COLUMN_HINT = (
    "For a vectorizer, which takes a list of texts, name a column of a DataFrame: "
    'make_column_transformer((TfidfVectorizer(), "text")).'
)

UNKNOWN_CATEGORY = "no category of training"
"""A category to try an estimator with, to learn whether it accepts unknown ones."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Sample rows in the form that the estimator takes, and the schema of requests that become such rows."""

    schema: Schema
    table: Table


def inspect_sample(estimator: Any, X: Any, corrections: Mapping[str, Any] | None = None) -> Sample:
    """Return the sample in the form that the estimator takes, and its schema after the corrections.

    An estimator that knows its column names takes a DataFrame. If all columns are numbers and it answers an array
    equally, it takes the array, which makes requests cheaper. An estimator without column names takes an array, or a
    DataFrame if it answers the array differently.
    `X` is a DataFrame or an array of shape (rows, features). Raises `NotPublishable` or `InvalidSchema`.
    """
    if np.ndim(X) == 1:
        raise NotPublishable(
            "The sample must be a DataFrame or an array of shape (rows, features), and it has one dimension. "
            f"{TEXT_COLUMN_HINT}"
        )
    sample = _inspect_frame(estimator, X) if hasattr(X, "iloc") else _inspect_array(estimator, np.asarray(X))
    return Sample(apply_corrections(sample.schema, corrections or {}), sample.table)


def _inspect_frame(estimator: Any, frame: pd.DataFrame) -> Sample:
    named = frame.rename(columns=str)
    if not len(named):
        raise NotPublishable("The sample has no rows; give at least one.")
    if not named.columns.is_unique:
        raise NotPublishable("The sample has two columns with the same name; rename one of them.")
    _check_columns(estimator, named.columns.tolist())
    rows, array = sample_rows(named), named.to_numpy()
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iuf" for dtype in named.dtypes):
        if has_equal_answers(estimator, rows, sample_rows(array)):
            return Sample(with_array_layout(schema_from_frame(named), array.dtype.name), array)
        return Sample(schema_from_frame(named), named)
    if _needs_frame(estimator, rows, sample_rows(array)):
        return Sample(schema_from_frame(named), named)
    try:
        return _inspect_array(estimator, array, named.columns.tolist())
    except (ValueError, TypeError, AttributeError, KeyError):  # It was fitted on a DataFrame without recording names.
        return Sample(schema_from_frame(named), named)


def _needs_frame(estimator: Any, frame: Table, array: Table) -> bool:
    """Return whether the estimator knows its column names, or answers the DataFrame but the array differently."""
    if hasattr(estimator, "feature_names_in_"):
        return True
    is_answered = _is_answered(estimator, frame, estimator_methods(estimator)[0])
    return is_answered and not has_equal_answers(estimator, frame, array)


def _inspect_array(estimator: Any, array: np.ndarray, names: Sequence[str] = ()) -> Sample:
    import pandas as pd

    if array.ndim != 2:
        raise NotPublishable("The sample must be a DataFrame or an array of shape (rows, features).")
    fitted_names = getattr(estimator, "feature_names_in_", None)
    if fitted_names is not None:
        frame = pd.DataFrame(array, columns=list(fitted_names), dtype=array.dtype)
        return _inspect_frame(estimator, _with_inferred_types(frame))
    if not len(array):
        raise NotPublishable("The sample has no rows; give at least one.")
    if array.dtype.kind not in "biufUO":
        raise NotPublishable(f"The sample is an array of {array.dtype}; convert it to numbers, booleans or strings.")
    names = names or [f"x{index}" for index in range(array.shape[1])]
    _check_columns(estimator, names)
    call_method(estimator, sample_rows(array), estimator_methods(estimator)[0])
    layout_dtype = TEXT_DTYPE if array.dtype.kind == "U" else array.dtype.name
    # Without an explicit dtype, pandas 3 converts objects to its own strings, which mark missing values differently.
    frame_dtype = object if array.dtype.kind in "UO" else array.dtype
    frame = pd.DataFrame(array, columns=list(names), dtype=frame_dtype)
    return Sample(with_array_layout(schema_from_frame(frame), layout_dtype), array)


def _with_inferred_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the DataFrame with object columns as numbers or booleans where all of their values are."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    inferred = frame.infer_objects()
    for name in frame:
        if not (is_numeric_dtype(inferred[name]) or is_bool_dtype(inferred[name])):
            inferred[name] = frame[name]
    return inferred


def _check_columns(estimator: Any, columns: Sequence[str]) -> None:
    """Raise `NotPublishable` if the estimator was fitted on columns of other names or another number of columns."""
    names, width = getattr(estimator, "feature_names_in_", None), getattr(estimator, "n_features_in_", None)
    if names is not None and list(names) != list(columns):
        raise NotPublishable(
            f"The estimator was fitted on the columns {', '.join(map(str, names))}, in this order; the sample must "
            "have the same columns."
        )
    if width is not None and width != len(columns):
        raise NotPublishable(
            f"The estimator was fitted on {width} features; the sample has {len(columns)} columns. "
            "Give the columns that it was fitted on."
        )


def call_method(estimator: Any, table: Table, method: str) -> list[Any]:
    """Return the answers of a method of the estimator as JSON values, one per row. Warnings are ignored.

    Raises `NotPublishable` if the number of answers is wrong or JSON cannot represent them.
    """
    with warnings.catch_warnings(action="ignore"):
        result = as_numpy(getattr(estimator, method)(table))
    answers = json_answers(result, method, estimator_classes(estimator))
    if len(answers) != len(table):
        raise NotPublishable(
            f"The estimator's {method} returns {len(answers)} values for {len(table)} rows; it must return one "
            f"per row. {TEXT_COLUMN_HINT}"
        )
    if any(isinstance(value, bytes) for value in answers):
        raise NotPublishable(
            "The estimator answers with bytes, which JSON cannot represent; fit it with string labels."
        )
    try:
        encode_json(answers)
    except PydanticSerializationError:  # A lone surrogate has no UTF-8 encoding.
        raise NotPublishable(
            "The estimator answers with text that is not valid Unicode (a lone surrogate); fit it with other labels."
        ) from None
    return answers


def has_equal_answers(estimator: Any, frame: Table, array: Table) -> bool:
    """Return whether all methods answer an array and its DataFrame equally, up to rounding.

    The array is given to a copy of the estimator without column names, because it is served that way.
    """
    try:
        nameless = deepcopy(estimator)
        drop_feature_names(nameless)
        return all(
            _are_equal(
                finite_json(call_method(estimator, frame, method)), finite_json(call_method(nameless, array, method))
            )
            for method in working_methods(estimator, frame)
        )
    except Exception:  # Any exception means that the estimator does not take the other form.
        return False


def _are_equal(answers: list[Any], others: list[Any]) -> bool:
    return answers_equal(
        answers, others, absolute=ROUNDING_TOLERANCE * largest_absolute_number(answers), relative=ROUNDING_TOLERANCE
    )


def working_methods(estimator: Any, table: Table) -> tuple[str, ...]:
    """Return the methods that answer the table. The first method of the estimator must; its errors are raised.

    Other methods are left out if they raise: an estimator may have a method that only raises.
    """
    first, *others = estimator_methods(estimator)
    call_method(estimator, table, first)
    return (first, *(method for method in others if _is_answered(estimator, table, method)))


def _is_answered(estimator: Any, table: Table, method: str) -> bool:
    try:
        return bool(call_method(estimator, table, method))
    except Exception:  # An exception here would also be raised for a request.
        return False


def with_unknown_categories_probed(schema: Schema, estimator: Any, table: Table, methods: Sequence[str]) -> Schema:
    """Return the schema with `unknown` of each category feature set to "accept" or "refuse".

    Each feature is tried with an unknown category: it is accepted if all methods answer. A feature that a correction
    set to "refuse" is not tried. Raises `InvalidSchema` if a correction says "accept" and the estimator refuses.
    """
    row = json_rows(schema, table[:1])[0]
    table_builder = SchemaTableBuilder(schema)

    def probed(index: int, feature: Feature) -> Feature:
        if feature.kind != "category" or feature.unknown == "refuse":
            return feature
        probe = table_builder.build([(*row[:index], _unknown_category(feature), *row[index + 1 :])])
        is_accepted = all(_is_answered(estimator, probe, method) for method in methods)
        if feature.unknown == "accept" and not is_accepted:
            raise InvalidSchema(
                f'The estimator accepts no unknown category of feature "{feature.name[:100]}"; '
                'set its "unknown" to "refuse" in the schema.'
            )
        return feature.model_copy(update={"unknown": "accept" if is_accepted else "refuse"})

    features = tuple(probed(index, feature) for index, feature in enumerate(schema.features))
    return schema.model_copy(update={"features": features})


def with_magnitude_probed(schema: Schema, estimator: Any, table: Table, method: str) -> Schema:
    """Return the schema with the largest magnitude of floats that the estimator accepts.

    It is the first of `MAGNITUDES` that the estimator answers with both signs, and at least the largest of the sample.
    """
    row, table_builder = json_rows(schema, table[:1])[0], SchemaTableBuilder(schema)
    float_mask = [feature.kind == "float" for feature in schema.features]

    def accepts(magnitude: float) -> bool:
        largest = [min(magnitude, feature.numeric_limits[1]) for feature in schema.features]
        rows = [
            tuple(
                sign * most if is_float else value
                for value, most, is_float in zip(row, largest, float_mask, strict=True)
            )
            for sign in (1, -1)
        ]
        return _is_answered(estimator, table_builder.build(rows), method)

    accepted = next((magnitude for magnitude in MAGNITUDES if not any(float_mask) or accepts(magnitude)), MAX_FLOAT)
    floats = [feature for feature in schema.features if feature.kind == "float"]
    observed = [abs(bound) for feature in floats for bound in feature.observed_range if bound]
    return schema.model_copy(update={"magnitude": max([accepted, *observed])})


def _unknown_category(feature: Feature) -> str | int:
    categories = set(feature.categories or ())
    if any(isinstance(category, int) for category in categories):
        return next(number for number in count() if number not in categories)
    return next(text for text in (UNKNOWN_CATEGORY, UNKNOWN_CATEGORY * 2) if text not in categories)


def check_round_trip(schema: Schema, table: Table) -> None:
    """Raise `NotPublishable` if a column of the sample changes when it is sent as requests and rebuilt."""
    part = sample_rows(table, max(MAX_COMPARED_VALUES // len(schema.features), 100))
    rebuilt = SchemaTableBuilder(schema).build(json_rows(schema, part))
    for index, feature in enumerate(schema.features):
        if not _is_same_column(_column(rebuilt, index), _column(part, index)):
            raise NotPublishable(
                f'Sent as {feature.kind}, the values of column "{feature.name[:100]}" ({feature.dtype}) '
                "would not reach the estimator unchanged; convert the column, or correct its kind in the schema."
            )


def _column(table: Table, index: int) -> Any:
    return table[:, index] if isinstance(table, np.ndarray) else table.iloc[:, index].reset_index(drop=True)


def _is_same_column(rebuilt: Any, original: Any) -> bool:
    """Return whether two columns have the same dtype, the same values and the same marker for missing values."""
    import pandas as pd

    if isinstance(original, np.ndarray) and original.dtype != object:
        return rebuilt.dtype.kind == original.dtype.kind and bool(
            np.array_equal(rebuilt, original, equal_nan=original.dtype.kind == "f")
        )
    one, other = (pd.Series(column, dtype=column.dtype) for column in (rebuilt, original))
    return bool(one.dtype == other.dtype and one.equals(other))
