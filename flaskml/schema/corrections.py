"""Corrections of a learnt schema by a document, and the cast of table columns to the corrected kinds.

A part that the corrections leave out stays as learnt. Layout, dtypes and markers of missing values cannot be corrected;
corrections of them have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from flaskml.errors import InvalidSchema, did_you_mean
from flaskml.schema.features import Feature, Kind, Schema

if TYPE_CHECKING:
    import pandas as pd

KIND_SPECIFIC_FIELDS = ("minimum", "maximum", "quantiles", "categories", "counts", "unknown")
"""The fields of a feature that a correction of its kind resets, because their values hold for the learnt kind only."""


def apply_corrections(schema: Schema, corrections: Mapping[str, Any]) -> Schema:
    """Return the schema with the corrections, which name the features that they change.

    Raises `InvalidSchema` for an unknown feature or key, and for a correction that the dtype of a column rules out.
    """
    changes = changes_by_name(corrections)
    for name in changes:
        if name not in schema.names:
            raise InvalidSchema(f'There is no feature "{name[:100]}"{did_you_mean(name, schema.names) or "."}')
    features = [_correct_feature(feature, changes.get(feature.name, {})) for feature in schema.features]
    fixed = {"features": features, "layout": schema.layout, "dtype": schema.dtype}
    document = {**schema.model_dump(), **corrections, **fixed}
    return Schema.model_validate(_validate(Schema, document, "The schema"))


def changes_by_name(corrections: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the corrections of the features by name.

    Raises `InvalidSchema` unless `features` is a list of objects with different names.
    """
    changes = corrections.get("features", ())
    if not isinstance(changes, (list, tuple)) or not all(
        isinstance(change, Mapping) and isinstance(change.get("name"), str) for change in changes
    ):
        raise InvalidSchema('"features" must be a list of objects, each with a "name".')
    by_name = {change["name"]: change for change in changes}
    if len(by_name) < len(changes):
        raise InvalidSchema('"features" names a feature more than once.')
    return by_name


def _correct_feature(feature: Feature, change: Mapping[str, Any]) -> Feature:
    label, learnt = f'Feature "{feature.name[:100]}"', feature.model_dump()
    kind = change.get("kind", feature.kind)
    if kind != feature.kind:
        learnt |= dict.fromkeys(KIND_SPECIFIC_FIELDS)
    elif "categories" in change and list(change["categories"] or ()) != list(feature.categories or ()):
        learnt["counts"] = None
    merged = {**learnt, **change, "dtype": feature.dtype, "missing": feature.missing}
    if merged.get("categories") != learnt.get("categories") and "counts" not in change:
        merged["counts"] = None
    corrected: Feature = _validate(Feature, merged, label)
    if kind != feature.kind and kind not in _other_kinds_of(feature):
        raise InvalidSchema(f"{label} cannot be of kind {kind}: its column has the dtype {feature.dtype}.")
    if corrected.nullable and not feature.nullable and not _can_mark_missing(feature.dtype):
        raise InvalidSchema(f"{label} cannot be null: the dtype {feature.dtype} of its column has no missing value.")
    if feature.dtype.startswith("category[") and _category_fields(corrected) != _category_fields(feature):
        raise InvalidSchema(
            f"{label} is a column of pandas categories: its categories, ordered and unknown cannot be corrected, "
            "because the estimator was fitted on them."
        )
    return corrected


def _category_fields(feature: Feature) -> tuple[object, ...]:
    return feature.categories, feature.ordered, feature.unknown


def _can_mark_missing(dtype: str) -> bool:
    """Return whether a column can mark a missing value: numpy's integers, booleans and strings cannot."""
    return dtype == "boolean" or not dtype.startswith(("int", "uint", "bool", "U"))


def _other_kinds_of(feature: Feature) -> tuple[Kind, ...]:
    """Return the kinds, beside its own, whose values the column of a feature can hold."""
    if feature.kind in ("category", "text") and not feature.dtype.startswith("category["):
        is_text = feature.categories is None or isinstance(feature.categories[0], str)
        return ("category", "text") if is_text else ("integer",)
    if feature.kind == "integer":
        return ("category", "boolean")
    return ("integer", "boolean", "category") if feature.kind == "float" else ()


def _validate(model: Any, document: Mapping[str, Any], label: str) -> Any:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        location = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise InvalidSchema(f"{label}: {location + ': ' if location else ''}{reason}.") from None


def cast_columns(frame: pd.DataFrame, corrections: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table with each corrected column converted to its new kind, before an estimator is fitted to it.

    Raises `InvalidSchema` with the name of a column whose values are not of that kind.
    """
    kinds = {name: change["kind"] for name, change in changes_by_name(corrections).items() if change.get("kind")}
    columns = {}
    for name, kind in kinds.items():
        if name in frame.columns:
            try:
                columns[name] = _convert_column(frame[name], kind)
            except (ValueError, TypeError, KeyError):
                raise InvalidSchema(
                    f'Column "{name[:100]}" holds values that are not of kind {kind}; '
                    "correct the values or choose another kind."
                ) from None
    return frame.assign(**columns)


def _convert_column(column: pd.Series, kind: Kind) -> pd.Series:
    import pandas as pd

    if kind == "datetime":
        return pd.to_datetime(column, format="ISO8601")
    if kind == "float":
        return column.astype(np.float64)
    if kind == "integer":
        if not (column.dropna().astype(np.float64) % 1 == 0).all():
            raise ValueError
        return column.astype(np.float64 if column.isna().any() else np.int64)
    if kind == "boolean":
        booleans = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
        return column.map(lambda value: booleans[str(value).lower()], na_action="ignore")
    if kind == "category" and column.dtype.kind in "iu":
        return column.astype("category")
    texts = column.map(str, na_action="ignore").astype(object)
    return texts.astype("category") if kind == "category" else texts
