"""What clients would rather have: JSON, which is the usual, CSV or a page."""

from __future__ import annotations

from flask import Request
from werkzeug.datastructures import MIMEAccept

FORM_MEDIA_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
"""The media types of what browsers send."""


def prefers_page(sent: Request) -> bool:
    """Whether the client would rather have a page than JSON, as a browser says and a script does not.

    What sends JSON, or does what no form can do, is a script, whatever it accepts.
    """
    if sent.method not in ("GET", "HEAD") and sent.mimetype not in FORM_MEDIA_TYPES:
        return False
    return prefers(sent, "text/html")


def prefers(sent: Request, kind: str) -> bool:
    """Whether the client would rather have `kind` than JSON; parameters of types, such as `charset`, do not matter."""
    if sent.environ.get("HTTP_ACCEPT", "*/*") in ("*/*", "application/json"):  # As nearly all who predict say.
        return False
    accepted = [(named.partition(";")[0].rstrip(), quality) for named, quality in sent.accept_mimetypes]
    return MIMEAccept(accepted).best_match(["application/json", kind]) == kind
