"""Pages for people."""

from __future__ import annotations

from flask import Blueprint

from flaskml.web import render_form, slot

bp = Blueprint("pages", __name__)


@bp.get("/")
def index() -> tuple[str, int]:
    """A form made from the model's features, or what to do to get a model."""
    current = slot().current
    return render_form(current)
