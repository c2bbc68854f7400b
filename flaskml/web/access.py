"""Who may change state."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from typing import Any, TypeVar

from flask import current_app, request

from flaskml.errors import AccessDenied, TokenRequired
from flaskml.web.lean import this_app, this_request

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing by their definition (RFC 9110, section 9.2.1). Every other one is guarded."""

FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that proxies add. `waitress-serve` removes most of them before the app sees them, the engine does not."""

_View = TypeVar("_View", bound=Callable[..., Any])


def changes_no_state(view: _View) -> _View:
    """Marks a view that takes an unsafe method and yet changes no state, so that anyone may call it."""
    view.changes_no_state = True  # type: ignore[attr-defined]
    return view


def is_guarded(view: Callable[..., Any], method: str) -> bool:
    """Whether only those may use a view by a method who may change state."""
    return method not in SAFE_METHODS and not getattr(view, "changes_no_state", False)


def check_access() -> None:
    """Lets a state-changing request through only from who may send it."""
    sent = this_request()
    endpoint = sent.endpoint
    if endpoint is None or not is_guarded(this_app().view_functions[endpoint], sent.method):
        return
    _refuse_foreign_pages()
    if digests := current_app.extensions["settings"].admin_token_sha256:
        _require_token(digests)
    else:
        _require_loopback()


def _refuse_foreign_pages() -> None:
    """A browser says which page sends a request; one from elsewhere would borrow its user's place or password."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none"):
        raise AccessDenied("takes no request from another site")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise AccessDenied("takes no request from another origin")


def _require_token(digests: tuple[str, ...]) -> None:
    sent = _sent_token()
    found = hashlib.sha256(sent or b"").hexdigest()
    # Each comparison takes the same time whether it matches or not, and all are made.
    matches = [hmac.compare_digest(found, digest) for digest in digests]
    if sent is None or True not in matches:
        raise TokenRequired


def _sent_token() -> bytes | None:
    """The token as the bytes that were sent; a header's text holds one byte in each character, a password is UTF-8."""
    credentials = request.authorization
    if credentials is None:
        return None
    if credentials.type == "bearer":
        return (credentials.token or "").encode("latin-1", "replace")
    return (credentials.password or "").encode("utf-8", "replace") if credentials.type == "basic" else None


def _require_loopback() -> None:
    if any(name in request.headers for name in FORWARDING_HEADERS):  # Behind a proxy, everybody's peer is this machine.
        raise AccessDenied("came through a proxy, behind which a token is needed; set ADMIN_TOKEN_SHA256")
    host = request.host.removeprefix("[").partition("]" if request.host.startswith("[") else ":")[0]
    if not _is_loopback(request.remote_addr or "") or not (host == "localhost" or _is_loopback(host)):
        raise AccessDenied("without configured tokens only this machine may; set ADMIN_TOKEN_SHA256")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
