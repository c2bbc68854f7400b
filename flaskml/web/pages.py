"""The page with the form of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Flask, render_template

from flaskml.errors import (
    FlaskmlError,
    Problem,
)
from flaskml.inference.slot import Current, NoPredictor
from flaskml.web.current import registry_of, settings_of
from flaskml.web.replies import error_detail, is_terse, problem_as_json


def render_form(
    app: Flask,
    current: Current,
    status: int = 200,
    *,
    error: FlaskmlError | None = None,
    warnings: Sequence[Problem] = (),
    **shown: Any,
) -> tuple[str, int]:
    """The page with the form of the current model, or with what to do to get one."""
    if isinstance(current, NoPredictor):
        return render_template("index.html", predictor=None, alert=error_detail(current.reason)), current.reason.status
    if error is not None:
        troubles = {} if is_terse() else {found.feature: found.detail for found in error.problems}
        shown |= {"alert": error_detail(error), "troubles": troubles}
    shown["warnings"] = [problem_as_json(warning)["detail"] for warning in warnings]
    shown["names"] = sorted(name for name, one in list(registry_of(app).slots.items()) if one.serving)
    return render_template("index.html", predictor=current, default=settings_of(app).model_name, **shown), status
