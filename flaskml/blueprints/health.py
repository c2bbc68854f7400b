"""Whether the process lives, and whether it can answer."""

from __future__ import annotations

from flask import Blueprint, Response, request

from flaskml.errors import Draining
from flaskml.server.policy import ENVIRON_KEY
from flaskml.web.current import default_slot
from flaskml.web.lean import this_app
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply

bp = Blueprint("health", __name__)


@bp.get("/livez")
@documented("health", {200: "Live"})
def livez() -> Response:
    """The process answers requests."""
    return json_reply({"status": "live"})


@bp.get("/readyz")
@documented("health", {200: "Ready"}, errors=(503,))
def readyz() -> Response:
    """The default model can answer, and goes on to; else 503 with what to do about it."""
    if getattr(request.environ.get(ENVIRON_KEY), "draining", False):
        raise Draining
    manifest = default_slot(this_app()).current.manifest
    return json_reply({"status": "ready", "model": manifest.model, "version": manifest.version})
