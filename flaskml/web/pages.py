"""The page with the form of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import render_template

from flaskml.errors import (
    FlaskmlError,
    Problem,
)
from flaskml.inference.slot import Absent, Current
from flaskml.web.current import registry, settings
from flaskml.web.replies import error_detail, is_terse, told


def render_form(
    current: Current,
    status: int = 200,
    *,
    error: FlaskmlError | None = None,
    doubts: Sequence[Problem] = (),
    **shown: Any,
) -> tuple[str, int]:
    """The page with the form of the current model, or with what to do to get one."""
    if isinstance(current, Absent):
        return render_template("index.html", predictor=None, alert=error_detail(current.reason)), current.reason.status
    if error is not None:
        troubles = {} if is_terse() else {found.feature: found.detail for found in error.problems}
        shown |= {"alert": error_detail(error), "troubles": troubles}
    shown["doubts"] = [told(doubt)["detail"] for doubt in doubts]
    shown["names"] = sorted(name for name, one in list(registry().slots.items()) if one.serving)
    return render_template("index.html", predictor=current, default=settings().model_name, **shown), status
