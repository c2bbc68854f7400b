"""Correcting a schema that was learnt: any part of what `flask models show --schema` prints.

What a column is made of is the sample's to say, and so is what is left out here: layout, dtypes and missing markers.
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
"""What was learnt of a feature as one kind, and says nothing of it as another."""


def apply_corrections(schema: Schema, corrections: Mapping[str, Any]) -> Schema:
    """The schema with what the corrections say instead, features by name.

    Raises `InvalidSchema` for an unknown feature or key, and for what the column of a feature has no place for.
    """
    changes = changes_by_name(corrections)
    for name in changes:
        if name not in schema.names:
            raise InvalidSchema(f'There is no feature "{name[:100]}"{did_you_mean(name, schema.names) or "."}')
    features = [_changed(feature, changes.get(feature.name, {})) for feature in schema.features]
    fixed = {"features": features, "layout": schema.layout, "dtype": schema.dtype}
    document = {**schema.model_dump(), **corrections, **fixed}
    return Schema.model_validate(_validated(Schema, document, "The schema"))


def changes_by_name(corrections: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What is said of each feature. Raises `InvalidSchema` where that is no list of objects with different names."""
    given = corrections.get("features", ())
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(part, Mapping) and isinstance(part.get("name"), str) for part in given
    ):
        raise InvalidSchema('"features" must be a list of objects, each with a "name".')
    changes = {part["name"]: part for part in given}
    if len(changes) < len(given):
        raise InvalidSchema('"features" names a feature more than once.')
    return changes


def _changed(feature: Feature, change: Mapping[str, Any]) -> Feature:
    what, kept = f'Feature "{feature.name[:100]}"', feature.model_dump()
    kind = change.get("kind", feature.kind)
    if kind != feature.kind:
        kept |= dict.fromkeys(KIND_SPECIFIC_FIELDS)
    elif "categories" in change and list(change["categories"] or ()) != list(feature.categories or ()):
        kept["counts"] = None
    merged = {**kept, **change, "dtype": feature.dtype, "missing": feature.missing}
    if merged.get("categories") != kept.get("categories") and "counts" not in change:
        merged["counts"] = None
    new: Feature = _validated(Feature, merged, what)
    if kind != feature.kind and kind not in _kinds_held_by(feature):
        raise InvalidSchema(f"{what} cannot be a {kind}: its column is of {feature.dtype}.")
    if new.nullable and not feature.nullable and not _has_place_for_gaps(feature.dtype):
        raise InvalidSchema(f"{what} cannot be null: a column of {feature.dtype} has no place for it.")
    if feature.dtype.startswith("category["):
        held = (new.categories, new.ordered, new.unknown) == (feature.categories, feature.ordered, feature.unknown)
        if not held:
            raise InvalidSchema(f"{what} is a column of pandas categories, which are as the estimator was fitted on.")
    return new


def _has_place_for_gaps(dtype: str) -> bool:
    """Whether a column can mark a missing value: numpy's whole numbers, booleans and strings cannot."""
    return dtype == "boolean" or not dtype.startswith(("int", "uint", "bool", "U"))


def _kinds_held_by(feature: Feature) -> tuple[Kind, ...]:
    """The kinds whose values a column has a place for."""
    if feature.kind in ("category", "text") and not feature.dtype.startswith("category["):
        is_text = feature.categories is None or isinstance(feature.categories[0], str)
        return ("category", "text") if is_text else ("integer",)
    if feature.kind == "integer":
        return ("category", "boolean")
    return ("integer", "boolean", "category") if feature.kind == "float" else ()


def _validated(kind: Any, document: Mapping[str, Any], what: str) -> Any:
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InvalidSchema(f"{what}: {where + ': ' if where else ''}{problem['msg']}.") from None


def cast_columns(frame: pd.DataFrame, corrections: Mapping[str, Any]) -> pd.DataFrame:
    """The table with each column as the kind that the corrections give it, before anything is fitted to it.

    Raises `InvalidSchema` naming a column whose values are not of that kind.
    """
    kinds = {name: change["kind"] for name, change in changes_by_name(corrections).items() if change.get("kind")}
    changed = {}
    for name, kind in kinds.items():
        if name in frame.columns:
            try:
                changed[name] = _as_kind(frame[name], kind)
            except (ValueError, TypeError, KeyError):
                raise InvalidSchema(f'Column "{name[:100]}" holds values that are no {kind}.') from None
    return frame.assign(**changed)


def _as_kind(column: pd.Series, kind: Kind) -> pd.Series:
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
        known = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
        return column.map(lambda value: known[str(value).lower()], na_action="ignore")
    if kind == "category" and column.dtype.kind in "iu":
        return column.astype("category")
    texts = column.map(str, na_action="ignore").astype(object)
    return texts.astype("category") if kind == "category" else texts
