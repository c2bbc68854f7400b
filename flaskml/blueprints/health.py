"""Health checks: liveness and readiness, as Kubernetes probes them."""

from __future__ import annotations

from flask import Blueprint, Response

from flaskml.errors import Draining
from flaskml.server.policy import ENVIRON_KEY
from flaskml.web.current import default_slot, this_app, this_request
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply

bp = Blueprint("health", __name__)


@bp.get("/livez")
@documented("health", {200: "Live"})
def livez() -> Response:
    """Report that the process answers requests (liveness)."""
    return json_reply({"status": "live"})


@bp.get("/readyz")
@documented("health", {200: "Ready"}, errors=(503,))
def readyz() -> Response:
    """Report that the default model can answer predictions (readiness).

    Raises `Draining`, or the error that keeps the model from answering; both answer 503 and say what to do.
    """
    status = this_request().environ.get(ENVIRON_KEY)
    if status is not None and status.is_draining and not status.is_replaced:
        raise Draining
    manifest = default_slot(this_app()).current.manifest
    return json_reply({"status": "ready", "model": manifest.model, "version": manifest.version})
