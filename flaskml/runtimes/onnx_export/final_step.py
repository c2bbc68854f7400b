"""The last steps of pipelines that flaskml converts without skl2onnx.

These are the estimators of other libraries, and the estimators of scikit-learn whose columns are categories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from flaskml.runtimes.onnx_export.lightgbm_trees import convert_lightgbm
from flaskml.runtimes.onnx_export.own_graph import OwnGraph

FinalStepConverter: TypeAlias = Callable[..., None]
"""A function that takes the writer, the estimator, the names of its outputs, and `raw_scores`."""

CONVERTERS: Mapping[str, FinalStepConverter] = {
    "lightgbm.sklearn.LGBMClassifier": convert_lightgbm,
    "lightgbm.sklearn.LGBMRegressor": convert_lightgbm,
}
"""The converters by the name of the class, so that no library is imported that a process does not use."""


def has_own_graph(estimator: Any) -> bool:
    """Return whether flaskml converts the estimator without skl2onnx."""
    return _class_name(estimator) in CONVERTERS


def convert_final_step(estimator: Any, width: int, *, raw_scores: bool) -> Any:
    """Return the ONNX model of an estimator of `width` columns. Raises `NotPublishable`."""
    outputs: Sequence[str] = ("labels", "scores") if hasattr(estimator, "classes_") else ("predictions",)
    graph = OwnGraph(estimator, outputs)
    CONVERTERS[_class_name(estimator)](graph.writer(), estimator, outputs, raw_scores=raw_scores)
    return graph.model(width)


def _class_name(estimator: Any) -> str:
    return f"{type(estimator).__module__}.{type(estimator).__qualname__}"
