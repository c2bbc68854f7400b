"""The start page: the prediction form."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskml.web.current import default_slot, named_slot, this_app, this_request
from flaskml.web.prediction_form import render_form

bp = Blueprint("pages", __name__)


@bp.get("/")
def index() -> Response:
    """Show the prediction form of the default model, or of the model that `?model=` names."""
    app, name = this_app(), this_request().args.get("model")
    return render_form(app, (named_slot(app, name) if name else default_slot(app)).current)
