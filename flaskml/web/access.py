"""Access control: state-changing requests need a token, or come from this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Request

from flaskml.errors import AccessDenied, TokenRequired
from flaskml.web.current import settings_of, this_request

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""The safe methods of RFC 9110, section 9.2.1: they change no state. Every other method is guarded."""

FORWARDING_HEADERS = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")
"""Headers that proxies add. `waitress-serve` removes most of them before the app sees them, `flask serve` does not."""

_View = TypeVar("_View", bound=Callable[..., Any])


def changes_no_state(view: _View) -> _View:
    """Mark a view as open to all clients: it takes an unsafe method, but changes no state."""
    view.changes_no_state = True  # type: ignore[attr-defined]
    return view


def is_guarded(view: Callable[..., Any], method: str) -> bool:
    """Return whether a call of this view with this method needs the right to change state."""
    return method not in SAFE_METHODS and not getattr(view, "changes_no_state", False)


def check_access(app: Flask) -> None:
    """Reject a state-changing request without the right to it.

    Raises `TokenRequired` (401) or `AccessDenied` (403).
    """
    request = this_request()
    if request.endpoint is None or not is_guarded(app.view_functions[request.endpoint], request.method):
        return
    _reject_cross_site(request)
    if digests := settings_of(app).admin_token_sha256:
        _require_token(request, digests)
    else:
        _require_loopback(request)


def _reject_cross_site(request: Request) -> None:
    """Reject a request that a page of another site makes a browser send (cross-site request forgery).

    Such a request would use the browser's address or its stored password. Browsers name the page in two headers.
    """
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none"):
        raise AccessDenied("refuses requests from another site", "Use this server's own pages.")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise AccessDenied(
            "refuses requests from another origin",
            "Use this server's own pages; behind a proxy, pass the Host header on unchanged.",
        )


def _require_token(request: Request, digests: tuple[str, ...]) -> None:
    token = _token_of(request)
    token_digest = hashlib.sha256(token or b"").hexdigest()
    # Constant time: `compare_digest` takes as long for a match as for a mismatch, and every digest is compared.
    matches = [hmac.compare_digest(token_digest, digest) for digest in digests]
    if token is None or True not in matches:
        raise TokenRequired


def _token_of(request: Request) -> bytes | None:
    """Return the token of the `Authorization` header as the bytes that the client sent; None without a token.

    A Bearer token has one byte per character (Latin-1, as in WSGI). A Basic password is UTF-8.
    """
    credentials = request.authorization
    if credentials is None:
        return None
    if credentials.type == "bearer":
        return (credentials.token or "").encode("latin-1", "replace")
    return (credentials.password or "").encode("utf-8", "replace") if credentials.type == "basic" else None


def _require_loopback(request: Request) -> None:
    if any(name in request.headers for name in FORWARDING_HEADERS):  # Behind a proxy, every peer is the proxy.
        raise AccessDenied("needs a token behind a proxy; set ADMIN_TOKEN_SHA256")
    host = request.host.removeprefix("[").partition("]" if request.host.startswith("[") else ":")[0]
    if not (_is_this_machine(request.remote_addr or "") and _is_this_machine(host)):
        raise AccessDenied("accepts requests from this machine only, as no token is configured; set ADMIN_TOKEN_SHA256")


def _is_this_machine(host: str) -> bool:
    """Return whether the host is this machine. Waitress names peers on a Unix socket `localhost`."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Python before 3.13 takes no IPv4-mapped IPv6 address for a loopback address.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
