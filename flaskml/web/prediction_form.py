"""The prediction page: a form with one field per feature of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Flask, Response, render_template

from flaskml.errors import FlaskmlError, Problem
from flaskml.inference.slot import Current, NoPredictor
from flaskml.web.current import registry_of, settings_of
from flaskml.web.replies import error_detail, is_terse, page_reply, problems_as_json


def render_form(
    app: Flask,
    current: Current,
    status: int = 200,
    *,
    error: FlaskmlError | None = None,
    warnings: Sequence[Problem] = (),
    **context: Any,
) -> Response:
    """Return the page with the form of the current model.

    Without a predictor, the page shows the reason. `context` holds more variables for the template.
    """
    if isinstance(current, NoPredictor):
        reason = current.reason
        page = render_template("index.html", predictor=None, title=reason.title, alert=error_detail(reason))
        return page_reply(page, reason.status)
    if error is not None:
        field_errors = {} if is_terse() else {problem.feature: problem.detail for problem in error.problems}
        context |= {"alert": error_detail(error), "field_errors": field_errors}
    context["warnings"] = [warning["detail"] for warning in problems_as_json(warnings, terse=is_terse())]
    context["names"] = sorted(name for name, slot in list(registry_of(app).slots.items()) if slot.current_manifest)
    page = render_template("index.html", predictor=current, default=settings_of(app).model_name, **context)
    return page_reply(page, status)
