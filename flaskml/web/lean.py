"""A faster Flask: results that depend only on path and method are cached, through hooks that Flask documents.

Everything that an app may hang on a request stays: hooks, signals, teardown, error handlers, body limits. What is
kept follows from where a request goes and its method alone, and is bounded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, wraps
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import Flask, Request, Response, current_app, request, request_tearing_down
from flask.sessions import SecureCookieSessionInterface
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter, Rule
from werkzeug.sansio.utils import get_content_length

from flaskml.inference.batching import lane

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

ADAPTERS_KEPT = 256
"""Adapters that are kept, one for each method, path and host that clients use; all are dropped when there are more."""

_LENGTH_DIGITS = 18
"""Digits of a length that is read here; Werkzeug has a word to say about longer ones."""

MARKS = frozenset({"changes_no_state"})
"""Attributes of a function that say nothing about how it is called."""

_ASYNC = CO_COROUTINE | CO_ASYNC_GENERATOR


@lru_cache(maxsize=1024)
def _blueprints(endpoint: str | None) -> tuple[str, ...]:
    """The blueprint of an endpoint and those around it, the innermost first."""
    name = endpoint.rpartition(".")[0] if endpoint else ""
    found = []
    while name:
        found.append(name)
        name = name.rpartition(".")[0]
    return tuple(found)


def this_app() -> Flask:
    """The present app itself. Each look through Flask's proxy costs, so who looks often asks for it once."""
    return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]


def this_request() -> Request:
    """The present request itself."""
    return cast(Request, request._get_current_object())  # type: ignore[attr-defined]


class LeanRequest(Request):
    """A request that knows its blueprints by its endpoint, and its length without looking at its other headers."""

    @property
    def content_length(self) -> int | None:
        """The bytes of the body; None where they were not declared."""
        sent, coding = self.environ.get("CONTENT_LENGTH"), self.environ.get("HTTP_TRANSFER_ENCODING")
        if sent and coding is None and sent.isascii() and sent.isdigit() and len(sent) <= _LENGTH_DIGITS:
            return int(sent)
        return get_content_length(sent, coding)

    @property
    def blueprints(self) -> list[str]:
        """The names of the blueprints that the endpoint lies in, the innermost first."""
        return list(_blueprints(self.endpoint))


_TYPED = Headers((("Content-Type", "application/json"),))
"""What a reply says that its headers are while it is made, so that none are looked up."""


class Reply(Response):
    """An answer that is one run of bytes, of which nothing has to be found out when it is sent."""

    def __init__(self, body: bytes, mimetype: str) -> None:
        self._body = [body]
        self._sent = [
            ("Content-Type", mimetype),
            ("Content-Length", str(len(body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        self._is_awaited = False
        super().__init__(self._body, "200 OK", _TYPED)
        self._asked_for: Headers | None = None

    @property
    def headers(self) -> Headers:
        """The headers, which are made when somebody asks for them."""
        if self._asked_for is None:
            self._asked_for = Headers(self._sent)
        return self._asked_for

    @headers.setter
    def headers(self, headers: Headers) -> None:
        """Takes others."""
        self._asked_for = headers

    def call_on_close(self, func: Callable[[], Any]) -> Callable[[], Any]:
        """Has a function called once the answer was sent."""
        self._is_awaited = True
        return super().call_on_close(func)

    def get_wsgi_response(self, environ: WSGIEnvironment) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Body, status and headers, as WSGI has them; as they were made if nobody can have changed them since."""
        is_as_made = self._asked_for is None and self.response is self._body and self.status_code == 200
        if is_as_made and not self._is_awaited and environ["REQUEST_METHOD"] == "POST":
            return self._body, self.status, self._sent
        return super().get_wsgi_response(environ)


class Adapter(MapAdapter):
    """What finds the rule of one method and path, and has found it."""

    host: str
    found: tuple[Rule, Mapping[str, Any]]

    def match(self, *arguments: Any, **named: Any) -> Any:
        """The rule and its arguments, as Werkzeug finds them."""
        if not arguments and named == {"return_rule": True}:
            rule, values = self.found
            return rule, dict(values)
        return super().match(*arguments, **named)


class NoSessions(SecureCookieSessionInterface):
    """Opens no session where there is no key to sign one, without looking at cookies."""

    def open_session(self, app: Flask, request: Request) -> Any:
        """The session of the request."""
        return super().open_session(app, request) if app.secret_key else None


class Lean(Flask):
    """A Flask app whose requests cost less."""

    request_class = LeanRequest
    session_interface = NoSessions()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._adapters: dict[tuple[str, ...], Adapter] = {}
        self._before: dict[str | None, tuple[Callable[[], Any], ...]] = {}
        super().__init__(*arguments, **named)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """What finds the rule of a request; the one that was made for the same method, path and host, if it is kept."""
        if request is None or self.config["TRUSTED_HOSTS"] is not None:
            return super().create_url_adapter(request)
        environ = request.environ
        place = (environ.get("SERVER_NAME", ""), environ.get("SERVER_PORT", ""), environ.get("SCRIPT_NAME", ""))
        key = (request.method, request.path, environ.get("HTTP_HOST", ""), request.scheme, *place)
        adapter = self._adapters.get(key)
        if adapter is None or "HTTP_UPGRADE" in environ:
            return self._new_adapter(request, key)
        request.host = adapter.host
        return adapter

    def _new_adapter(self, request: Request, key: tuple[str, ...]) -> MapAdapter | None:
        """A new one, which is kept if its rule has no other arguments than texts."""
        made = super().create_url_adapter(request)
        if made is None or made.websocket:
            return made
        kept = Adapter(
            self.url_map,
            made.server_name,
            made.script_name,
            made.subdomain,
            made.url_scheme,
            made.path_info,
            made.default_method,
        )
        kept.host = request.host
        try:
            rule, values = made.match(return_rule=True)
        except Exception:  # Whatever it is, it is raised again where Flask asks.
            return made
        if all(type(value) is str for value in values.values()):
            kept.found = rule, values
            if len(self._adapters) >= ADAPTERS_KEPT:
                self._adapters.clear()
            self._adapters[key] = kept
        return made

    def preprocess_request(self) -> Any:
        """Calls what is to be called before a request, until one of it answers; for each endpoint it is sought once."""
        if self.url_value_preprocessors:
            return super().preprocess_request()
        endpoint = this_request().endpoint
        functions = self._before.get(endpoint)
        if functions is None:
            functions = self._before[endpoint] = self._functions_before(endpoint)
        for function in functions:
            answer = function()
            if answer is not None:
                return answer
        return None

    def _functions_before(self, endpoint: str | None) -> tuple[Callable[[], Any], ...]:
        names = (None, *reversed(_blueprints(endpoint)))
        return tuple(self.ensure_sync(func) for name in names for func in self.before_request_funcs.get(name, ()))

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The function, or one that waits for it if it is asynchronous; of plain functions only the flags are read."""
        is_plain = type(func) is FunctionType and not func.__code__.co_flags & _ASYNC
        if is_plain and (not func.__dict__ or func.__dict__.keys() <= MARKS):
            return func
        return super().ensure_sync(func)

    def do_teardown_request(self, *exc: BaseException | None) -> None:
        """Calls what is to be called when a request is over; often that is only the signal's receivers."""
        if self.teardown_request_funcs:
            super().do_teardown_request(*exc)
        else:
            told = exc[0] if exc else sys.exc_info()[1]
            request_tearing_down.send(self, _async_wrapper=self.ensure_sync, exc=told)


_View = TypeVar("_View", bound=Callable[..., Any])


def may_block(view: _View) -> _View:
    """Marks a view that waits for files or other processes, so that it holds up nobody where all share a thread."""

    @wraps(view)
    def apart(*arguments: Any, **named: Any) -> Any:
        return lane.get().apart(lambda: view(*arguments, **named))

    return cast(_View, apart)
