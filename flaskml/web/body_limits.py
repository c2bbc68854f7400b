"""The limits of request bodies by route, which the server enforces before it keeps a byte.

Predictions: MAX_BODY, always in memory. Other routes of flaskml: MAX_UPLOAD for a multipart body, else MAX_BODY. Views
of the app and unknown paths: Flask's MAX_CONTENT_LENGTH, else 1 GiB, as on waitress.
"""

from __future__ import annotations

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect

from flaskml.server.bounded_cache import BoundedCache
from flaskml.server.request_bodies import BodyLimit
from flaskml.settings import Settings
from flaskml.web.direct import DirectPredictions
from flaskml.web.negotiation import media_type_of

DEFAULT_MAX_BODY_BYTES = 2**30
"""Bytes of the largest body for views of the app without MAX_CONTENT_LENGTH; waitress's default."""

MAX_CACHED_ROUTES = 512
"""Methods and paths in one generation of the cache."""

OWN_PACKAGE = "flaskml."


class RouteBodyLimits:
    """The body limits of an app; see `flaskml.server.request_bodies.BodyLimits`."""

    def __init__(self, app: Flask, settings: Settings, handler: DirectPredictions) -> None:
        self._app = app
        self._handler = handler
        self._prediction = BodyLimit(settings.max_body, "MAX_BODY", stays_in_memory=True)
        self._own = BodyLimit(settings.max_body, "MAX_BODY")
        self._upload = BodyLimit(settings.max_upload, "MAX_UPLOAD")
        self._own_routes = _own_url_map(app).bind("localhost")
        self._is_own_route: BoundedCache[tuple[str, str], bool] = BoundedCache(MAX_CACHED_ROUTES)

    @property
    def max_transfer_bytes(self) -> int:
        """The bytes of the largest body on the wire. With chunked transfer coding, a body is longer there."""
        max_bytes = max(self._own.max_bytes, self._upload.max_bytes, self._other_max_bytes)
        return max_bytes + max_bytes // 8 + 2**16

    def find(self, method: str, path: str, content_type: str) -> BodyLimit:
        """Return the limit of a request. `path` is decoded as in a WSGI environment."""
        if method == "POST" and self._handler.is_prediction(path):
            return self._prediction
        if not self._has_own_route(method, path):
            return BodyLimit(self._other_max_bytes, "MAX_CONTENT_LENGTH")
        return self._upload if media_type_of(content_type) == "multipart/form-data" else self._own

    @property
    def _other_max_bytes(self) -> int:
        max_bytes: int | None = self._app.config["MAX_CONTENT_LENGTH"]
        return DEFAULT_MAX_BODY_BYTES if max_bytes is None else max_bytes

    def _has_own_route(self, method: str, path: str) -> bool:
        is_own = self._is_own_route.get((method, path))
        if is_own is None:
            try:
                self._own_routes.match(path.encode("latin-1").decode("utf-8", "replace"), method)
                is_own = True
            except (HTTPException, RequestRedirect):
                is_own = False
            self._is_own_route.put((method, path), is_own)
        return is_own


def _own_url_map(app: Flask) -> Map:
    """Return a URL map of flaskml's own views only: the converters of others may take long."""
    rules = [
        rule.empty()
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions.get(rule.endpoint), "__module__", "").startswith(OWN_PACKAGE)
    ]
    return Map(rules, converters=app.url_map.converters)
