"""Pages for people."""

from __future__ import annotations

from flask import Blueprint, request

from flaskml.web.current import default_slot, named_slot
from flaskml.web.pages import render_form

bp = Blueprint("pages", __name__)


@bp.get("/")
def index() -> tuple[str, int]:
    """A form made from the features of a model, of the default one unless another is named; or how to get one."""
    name = request.args.get("model")
    return render_form((named_slot(name) if name else default_slot()).current)
