"""The direct handler: predictions in JSON, answered by the server without WSGI and Flask.

The answers are those of the view in `blueprints/predict.py`. The event loop of `flask serve` calls the handler itself;
on `waitress-serve`, a WSGI middleware does. A request is answered directly if Flask would treat it as any other
prediction, and no code of the app would notice (`direct_conditions`). All other requests, and those whose body is
wrong, are served by Flask.

Flask serves the first prediction of each path in each process: Flask then ends its set-up, and the handler learns the
headers that extensions add to the answers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from flaskml.codecs.content_codings import content_codings
from flaskml.inference.predictor import Predictor
from flaskml.inference.slot import ModelSlot
from flaskml.server.direct_requests import Prediction, Target
from flaskml.server.http_validation import MAX_LENGTH_DIGITS
from flaskml.server.response_heads import Headers
from flaskml.settings import Settings
from flaskml.web import direct_conditions as conditions
from flaskml.web.current import default_slot, registry_of
from flaskml.web.negotiation import CSV, accepts_rather, is_json, media_type_of
from flaskml.web.replies import problems_as_json

logger = logging.getLogger(__name__)

_View = TypeVar("_View", bound=Callable[..., Any])

BASE_HEADERS: Headers = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))
"""The headers of every answer in JSON, without Content-Length."""

OWN_HEADERS = frozenset({"content-type", "content-length", "x-content-type-options"})

LEARNED_HEADERS = re.compile(r"vary|access-control-[a-z-]+")
"""The headers that indifferent extensions add: Flask-Login and Flask-CORS."""

FLASK_HEADERS = frozenset({"EXPECT", "TRANSFER_ENCODING", "UPGRADE"})
"""Headers of requests that Flask or the server treats in another way."""

MAX_PATHS = 4096
"""Paths of which routes and headers are kept. Predictions for further paths are served by Flask."""

_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
"""A host that Flask accepts. It refuses some others, such as one with an empty label."""

_QUERY = re.compile(r"(?:method=([a-z_]{1,30}))?")


def answered_directly(view: _View) -> _View:
    """Mark a prediction view whose requests the direct handler may answer. A view that replaces it has no such mark."""
    view.directly_answered_view = view  # type: ignore[attr-defined]
    return view


@dataclass(frozen=True, slots=True)
class PredictionTarget:
    """The slot, version and method that a request asks for."""

    slot: ModelSlot
    version: str | None
    """The version that the path names; None for the active one."""

    method: str | None
    """The method that the query names; None for the default one."""

    headers: Headers

    @property
    def key(self) -> tuple[str, str | None]:
        """The model and version."""
        return self.slot.name, self.version


@dataclass(slots=True)
class Conditions:
    """The findings about an app, which hold until its fingerprint changes."""

    fingerprint: tuple[Any, ...]
    reasons: Sequence[str]
    """Descriptions of what prevents direct answers; empty if nothing does."""

    has_cors: bool = False
    """True if Flask must serve requests with cross-origin headers."""

    may_drop_headers: bool = False
    """True if a hook that the app has marked as indifferent may add headers, which direct answers do not have."""

    routes: dict[str, tuple[ModelSlot, str | None] | None] = field(default_factory=dict)
    learned: dict[str, Headers] = field(default_factory=dict)
    """The headers of the answers by path, as Flask sent them."""


class DirectPredictions:
    """The direct handler of an app; see `flaskml.server.direct_requests.DirectHandler`.

    `innermost` is the class of the WSGI middleware that calls Flask.
    """

    def __init__(self, app: Flask, settings: Settings, innermost: type) -> None:
        self.epoch = object()
        self.bypasses_middleware = False
        """True on a server that calls the handler itself, past the WSGI middleware of the app."""

        self._app = app
        self._setting = settings.direct
        self._max_body = settings.max_body
        self._is_terse = settings.error_detail == "terse"
        self._innermost = innermost
        self._conditions = Conditions((), ["no request has been served yet"])
        self._warned: set[str] = set()

    # The interface of the server.

    def refresh(self) -> None:
        """Inspect the app again if a condition of direct answers has changed."""
        now = (self.bypasses_middleware, *conditions.fingerprint(self._app))
        if now != self._conditions.fingerprint:
            self._conditions = self._inspect(now)
            self.epoch = object()

    def find_target(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Target | None:
        """Return the target of a request that may be answered directly, else None."""
        learned = self._conditions.learned.get(path)
        return None if learned is None else self._find(method, path, query, headers, learned)

    def is_prediction(self, path: str) -> bool:
        """Return whether requests to the path are predictions."""
        return path.endswith("/predict")

    def read(self, target: Target, body: bytes) -> Prediction | None:
        """Return the prediction that a JSON body asks for; None for a body that Flask must see."""
        asked = cast(PredictionTarget, target)
        slot = asked.slot
        predictor = slot.current if asked.version is None else slot.versions.get(asked.version)
        if type(predictor) is not Predictor:
            return None
        methods = predictor.manifest.methods
        if asked.method is not None and asked.method not in methods:
            return None
        rows = predictor.parser.parse_valid_json(body)
        if rows is None or not rows.values:
            return None
        return Prediction(predictor, asked.method or methods[0], rows)

    def answer(self, predictions: Sequence[Prediction]) -> list[bytes]:
        """Return the body of the answer to each prediction, computed in one call. Raises what the estimator raises."""
        first = predictions[0]
        rows = [prediction.rows for prediction in predictions]
        return first.predictor.answer_batch(rows, first.method, self._warnings_as_json)

    # The interface of the WSGI middleware.

    @property
    def is_enabled(self) -> bool:
        """True if nothing that holds for all requests prevents direct answers."""
        return not self._conditions.reasons

    def answer_on_thread(self, prediction: Prediction) -> bytes:
        """Return the body of the answer to a prediction; threads that ask for the same slow model share calls."""
        predictor, rows = prediction.predictor, [prediction.rows]
        return predictor.answer_batch(rows, prediction.method, self._warnings_as_json, may_wait=True)[0]

    def lesson(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Conditions | None:
        """Return the conditions under which Flask's answer to this request will show the headers of direct answers.

        Returns None if it will not show them, or if they are known.
        """
        found = self._conditions
        is_new = path not in found.learned and len(found.learned) < MAX_PATHS
        return found if is_new and self._find(method, path, query, headers, ()) is not None else None

    def learn(self, found: Conditions, path: str, headers: Sequence[tuple[str, str]]) -> None:
        """Learn from the headers of Flask's answer which headers direct answers have."""
        added = tuple((name, value) for name, value in headers if name.lower() not in OWN_HEADERS)
        known = tuple((name, value) for name, value in added if LEARNED_HEADERS.fullmatch(name.lower()))
        if known == added or found.may_drop_headers:
            found.learned[path] = (*BASE_HEADERS, *known)
        else:
            unknown = next(name for name, _ in added if not LEARNED_HEADERS.fullmatch(name.lower()))
            found.reasons = [f"the header {unknown}, which other code adds to the answers"]
        self.epoch = object()

    def describe(self) -> str:
        """Return a sentence for the startup log: whether predictions are answered directly, and if not, why."""
        self.refresh()
        reasons = self._conditions.reasons
        if not reasons:
            return "predictions are answered directly"
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        return f"predictions go through Flask because of {reasons[0]}{more}"

    def _find(
        self, method: str, path: str, query: str, headers: Mapping[str, str], answer_headers: Headers
    ) -> PredictionTarget | None:
        found = self._conditions
        options = _QUERY.fullmatch(query)
        if found.reasons or method != "POST" or options is None or not self._is_plain(headers, found):
            return None
        if path not in found.routes:
            if len(found.routes) >= MAX_PATHS:
                found.routes.clear()
            found.routes[path] = self._match(path)
        route = found.routes[path]
        return None if route is None else PredictionTarget(*route, options[1], answer_headers)

    def _is_plain(self, headers: Mapping[str, str], found: Conditions) -> bool:
        """Return whether the headers are those of a prediction in JSON that Flask treats as any other."""
        length = headers.get("CONTENT_LENGTH", "")
        return (
            is_json(media_type_of(headers.get("CONTENT_TYPE", "")))
            and length.isascii()
            and length.isdigit()
            and len(length) <= MAX_LENGTH_DIGITS
            and int(length) <= self._max_body
            and not accepts_rather(headers.get("ACCEPT", "*/*"), CSV)
            and not content_codings(headers.get("CONTENT_ENCODING", ""))
            and FLASK_HEADERS.isdisjoint(headers)
            and _HOST.fullmatch(headers.get("HOST", "h")) is not None
            and not ("COOKIE" in headers and self._app.secret_key)
            and not (found.has_cors and any(name.startswith(("ORIGIN", "ACCESS_CONTROL_")) for name in headers))
        )

    def _match(self, path: str) -> tuple[ModelSlot, str | None] | None:
        """Return slot and version of the prediction view that Flask calls for the path; None for any other view."""
        try:
            endpoint, arguments = self._app.url_map.bind("localhost").match(path, method="POST")
        except (HTTPException, RequestRedirect):
            return None
        view = self._app.view_functions.get(endpoint)
        if view is None or getattr(view, "directly_answered_view", None) is not view:
            return None
        name = arguments.get("name")
        slot = default_slot(self._app) if name is None else registry_of(self._app).slots.get(name)
        return (slot, arguments.get("version")) if isinstance(slot, ModelSlot) else None

    def _inspect(self, fingerprint: tuple[Any, ...]) -> Conditions:
        app, blueprints = self._app, self._blueprints()
        functions = [function for _, function in conditions.hooks(app, blueprints)]
        is_always = self._setting == "always"
        observers = list(conditions.find_observers(app, blueprints))
        if self.bypasses_middleware and self._setting != "never":
            observers += conditions.find_middleware(app.wsgi_app, self._innermost)
        if is_always:
            self._warn_of(observers)
        return Conditions(
            fingerprint,
            [*self._fixed_reasons(), *(() if is_always else observers)],
            has_cors=conditions.CORS_HOOK in map(conditions.hook_name, functions),
            may_drop_headers=is_always or any(map(conditions.is_marked_by_app, functions)),
        )

    def _fixed_reasons(self) -> list[str]:
        """Return the reasons that hold whatever `DIRECT` says."""
        app = self._app
        reasons = {
            "the setting DIRECT": self._setting == "never",
            "the setting TRUSTED_HOSTS": bool(app.config["TRUSTED_HOSTS"]),
            "host matching": app.url_map.host_matching or app.subdomain_matching,
        }
        return [reason for reason, is_given in reasons.items() if is_given]

    def _blueprints(self) -> tuple[str, ...]:
        """Return the blueprints of all prediction views, and those around them."""
        names: dict[str, None] = {}
        for endpoint, view in self._app.view_functions.items():
            if getattr(view, "directly_answered_view", None) is view:
                parts = endpoint.split(".")[:-1]
                names |= dict.fromkeys(".".join(parts[:length]) for length in range(1, len(parts) + 1))
        return tuple(names)

    def _warn_of(self, observers: Sequence[str]) -> None:
        text = "; ".join(observers)
        if text and text not in self._warned:
            self._warned.add(text)
            logger.warning(
                "DIRECT is 'always': predictions do not reach %s; a login or a limit there does not apply", text
            )

    def _warnings_as_json(self, problems: Sequence[Any]) -> list[dict[str, Any]]:
        return problems_as_json(problems, terse=self._is_terse)
