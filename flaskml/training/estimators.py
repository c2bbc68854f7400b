"""The task that a target asks for, and the pipeline that is fitted for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flaskml.schema.features import Schema
from flaskml.store.manifest import Task
from flaskml.training.transformers import date_parts

if TYPE_CHECKING:
    import pandas as pd


CLASSES_KEPT = 20
"""Whole numbers with at most this many distinct values are read as class labels."""


BOOSTING_FROM = 1_000
"""Rows from which boosted trees are fitted; below, they overfit and a linear model is better and ten times faster."""


WORDS_KEPT = 500
"""Words of a text column that become features."""


def infer_task(target: pd.Series) -> tuple[Task, str]:
    """The task that a target asks for, and the rule that says so as a sentence.

    Texts and booleans are classes, and whole numbers of which at most 20 differ; other numbers are a quantity.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    distinct = target.nunique()
    if is_bool_dtype(target) or not is_numeric_dtype(target):
        return "classification", f"the target is text or true/false, {distinct} distinct values"
    if bool((target % 1 == 0).all()) and distinct <= CLASSES_KEPT:
        return "classification", f"the target has {distinct} distinct whole numbers, at most {CLASSES_KEPT}"
    return "regression", f"the target is a number with {distinct} distinct values"


def build(task: Task, schema: Schema, rows: int, seed: int) -> Any:
    """An unfitted estimator for the schema: preprocessing where a column needs it, then a model by task and size.

    One numeric column and no gap asks for nothing more than a line.
    """
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    boosted = rows >= BOOSTING_FROM
    if task == "regression" and not boosted and len(schema.features) == 1 and _is_plain(schema):
        return LinearRegression()
    return make_pipeline(_preprocessing(schema, dense=boosted), _model(task, seed, boosted=boosted))


def _is_plain(schema: Schema) -> bool:
    return all(feature.is_number and not feature.nullable for feature in schema.features)


def _model(task: Task, seed: int, *, boosted: bool) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    if task == "classification":
        if boosted:
            return HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
        return LogisticRegression(max_iter=5_000, random_state=seed)
    if boosted:
        return HistGradientBoostingRegressor(random_state=seed, early_stopping=False)
    return Ridge()


def _preprocessing(schema: Schema, *, dense: bool) -> Any:
    """Numbers are imputed and scaled, categories one-hot encoded, dates taken apart, texts weighted by their words."""
    from sklearn.compose import ColumnTransformer

    if schema.layout == "array":
        return _numbers(schema)
    parts: list[tuple[str, Any, Any]] = []
    numbers = [feature.name for feature in schema.features if feature.is_number or feature.kind == "boolean"]
    if numbers:
        parts.append(("numbers", _numbers(schema), numbers))
    categories = [feature.name for feature in schema.features if feature.kind == "category"]
    if categories:
        parts.append(("categories", _categories(), categories))
    dates = [feature.name for feature in schema.features if feature.kind == "datetime"]
    if dates:
        parts.append(("dates", _dates(), dates))
    parts += [(f"text_{i}", _words(), [f.name]) for i, f in enumerate(schema.features) if f.kind == "text"]
    return ColumnTransformer(parts, sparse_threshold=0 if dense else 0.3)


def _numbers(schema: Schema) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return (
        StandardScaler() if _is_complete(schema) else make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    )


def _is_complete(schema: Schema) -> bool:
    return not any(feature.nullable for feature in schema.features if feature.kind not in ("category", "text"))


def _categories() -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(handle_unknown="ignore")


def _dates() -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    return make_pipeline(FunctionTransformer(date_parts), SimpleImputer(strategy="median"), StandardScaler())


def _words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    # Every run without spaces is a word, for prices and single characters are words of some tables. A vectorizer
    # wants one dimension and no gaps, and numpy's ravel is a function that any process can unpickle.
    empty = SimpleImputer(strategy="constant", fill_value="", missing_values=np.nan)
    return make_pipeline(
        empty, FunctionTransformer(np.ravel), TfidfVectorizer(max_features=WORDS_KEPT, token_pattern=r"\S+")
    )
