"""The task inferred from the target, and the pipelines."""

import pandas as pd
import pytest

from flaskml.schema.features import Feature, Schema
from flaskml.training.estimators import BOOSTING_FROM, build, infer_task


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        ([True, False], "classification"),
        ([0, 1, 1], "classification"),
        ([0.0, 1.0], "classification"),
        (list(range(20)), "classification"),
        (list(range(21)), "regression"),
        ([0.5, 1.0], "regression"),
    ],
)
def test_the_task_is_inferred_from_the_target(values, task):
    inferred, reason = infer_task(pd.Series(values))
    assert inferred == task and "the target" in reason


def schema(*features, layout="array"):
    return Schema(features=features, layout=layout)


NUMBER = Feature(name="a", kind="float")


def test_one_numeric_feature_gets_a_linear_regression():
    assert type(build("regression", schema(NUMBER), 100, 0)).__name__ == "LinearRegression"


@pytest.mark.parametrize(
    ("task", "rows", "estimator"),
    [
        ("regression", 100, "Ridge"),
        ("classification", 100, "LogisticRegression"),
        ("regression", BOOSTING_FROM, "HistGradientBoostingRegressor"),
        ("classification", BOOSTING_FROM, "HistGradientBoostingClassifier"),
    ],
)
def test_the_estimator_depends_on_task_and_rows(task, rows, estimator):
    wide = schema(NUMBER, Feature(name="b", kind="integer", nullable=True))
    assert type(build(task, wide, rows, 0)[-1]).__name__ == estimator


def test_columns_are_preprocessed_by_kind():
    features = (
        NUMBER,
        Feature(name="c", kind="category", categories=("x",)),
        Feature(name="t", kind="text", nullable=True),
    )
    transformer = build("regression", schema(*features, layout="frame"), 100, 0)[0]
    assert [(name, columns) for name, _, columns in transformer.transformers] == [
        ("numbers", ["a"]),
        ("categories", ["c"]),
        ("text_2", ["t"]),
    ]
