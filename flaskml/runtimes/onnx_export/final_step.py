"""The last steps of pipelines that flaskml converts without skl2onnx.

These are the estimators of other libraries, and the estimators of scikit-learn whose columns are categories.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flaskml.errors import NotPublishable
from flaskml.runtimes.onnx_export.lightgbm_trees import convert_lightgbm
from flaskml.runtimes.onnx_export.own_graph import OwnGraph
from flaskml.runtimes.onnx_export.trees import tree_converters
from flaskml.runtimes.onnx_export.xgboost_trees import convert_xgboost

LIBRARIES = {
    "lightgbm.sklearn.LGBMClassifier": convert_lightgbm,
    "lightgbm.sklearn.LGBMRegressor": convert_lightgbm,
    "xgboost.sklearn.XGBClassifier": convert_xgboost,
    "xgboost.sklearn.XGBRegressor": convert_xgboost,
}
"""The converters of other libraries by the name of the class: a process imports only the libraries that it uses."""


def has_own_graph(estimator: Any) -> bool:
    """Return whether flaskml converts the estimator without skl2onnx."""
    return _class_name(estimator) in LIBRARIES or getattr(estimator, "is_categorical_", None) is not None


def convert_final_step(estimator: Any, width: int, *, raw_scores: bool) -> Any:
    """Return the ONNX model of an estimator of `width` columns, whose categories are numbers.

    Raises `NotPublishable`.
    """
    graph = OwnGraph(estimator, ("labels", "scores") if hasattr(estimator, "classes_") else ("predictions",))
    _converter(estimator, raw_scores=raw_scores)(graph, graph, graph)
    return graph.model(width)


def _converter(estimator: Any, *, raw_scores: bool) -> Callable[[Any, Any, Any], None]:
    if convert := LIBRARIES.get(_class_name(estimator)):
        return partial(convert, raw_scores=raw_scores)
    if convert_trees := tree_converters(raw_scores=raw_scores).get(type(estimator)):
        return convert_trees
    raise NotPublishable(f"The step {type(estimator).__name__} has no graph for categories.")


def _class_name(estimator: Any) -> str:
    return f"{type(estimator).__module__}.{type(estimator).__qualname__}"
