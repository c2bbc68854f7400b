"""Whether the process lives, and whether it can answer."""

from __future__ import annotations

from flask import Blueprint, Response, request

from flaskml.errors import Draining
from flaskml.server.policy import KEY
from flaskml.web.current import slot
from flaskml.web.openapi import describe
from flaskml.web.replies import reply

bp = Blueprint("health", __name__)


@bp.get("/livez")
@describe("health", {200: "Live"})
def livez() -> Response:
    """The process answers requests."""
    return reply({"status": "live"})


@bp.get("/readyz")
@describe("health", {200: "Ready"}, errors=(503,))
def readyz() -> Response:
    """The default model can answer, and goes on to; else 503 with what to do about it."""
    if getattr(request.environ.get(KEY), "draining", False):
        raise Draining
    manifest = slot().current.manifest
    return reply({"status": "ready", "model": manifest.model, "version": manifest.version})
