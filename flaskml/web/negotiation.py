"""Content negotiation (RFC 9110, section 12): JSON by default, CSV or an HTML page for clients that prefer it."""

from __future__ import annotations

import re
from functools import lru_cache

from flask import Request
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

FORM_MEDIA_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
"""The media types of HTML forms."""

CSV = "text/csv"

_JSON_TYPE = re.compile(r"(application/(.+\+)?json)?\Z")


def prefers_page(request: Request) -> bool:
    """Return whether the client is a browser, which prefers an HTML page to JSON.

    A client whose request no HTML form could send (a JSON body, a PUT) is a script and gets JSON, whatever it accepts.
    """
    if request.method not in ("GET", "HEAD") and request.mimetype not in FORM_MEDIA_TYPES:
        return False
    return prefers(request, "text/html")


def prefers(request: Request, media_type: str) -> bool:
    """Return whether the client prefers `media_type` to JSON. Parameters in `Accept`, such as charset, are ignored."""
    return accepts_rather(request.environ.get("HTTP_ACCEPT", "*/*"), media_type)


def accepts_rather(accept: str, media_type: str) -> bool:
    """Return whether an `Accept` header prefers `media_type` to JSON."""
    if accept in ("*/*", "application/json"):  # The header of nearly all clients.
        return False
    declared = parse_accept_header(accept, MIMEAccept)
    accepted = [(name.partition(";")[0].rstrip(), quality) for name, quality in declared]
    return MIMEAccept(accepted).best_match(["application/json", media_type]) == media_type


@lru_cache(maxsize=256)
def media_type_of(content_type: str) -> str:
    """Return the media type of a Content-Type header, in lower case and without parameters."""
    return parse_options_header(content_type)[0].lower()


def is_json(media_type: str) -> bool:
    """Return whether a media type is JSON; a missing one is taken for JSON."""
    return _JSON_TYPE.match(media_type) is not None
