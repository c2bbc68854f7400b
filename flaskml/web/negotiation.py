"""Content negotiation (RFC 9110, section 12): JSON by default, CSV or an HTML page for clients that prefer it."""

from __future__ import annotations

from flask import Request
from werkzeug.datastructures import MIMEAccept

FORM_MEDIA_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
"""The media types of HTML forms."""


def prefers_page(request: Request) -> bool:
    """Return whether the client is a browser, which prefers an HTML page to JSON.

    A client whose request no HTML form could send (a JSON body, a PUT) is a script and gets JSON, whatever it accepts.
    """
    if request.method not in ("GET", "HEAD") and request.mimetype not in FORM_MEDIA_TYPES:
        return False
    return prefers(request, "text/html")


def prefers(request: Request, media_type: str) -> bool:
    """Return whether the client prefers `media_type` to JSON. Parameters in `Accept`, such as charset, are ignored."""
    if request.environ.get("HTTP_ACCEPT", "*/*") in ("*/*", "application/json"):  # The header of nearly all clients.
        return False
    accepted = [(declared.partition(";")[0].rstrip(), quality) for declared, quality in request.accept_mimetypes]
    return MIMEAccept(accepted).best_match(["application/json", media_type]) == media_type
