"""The code of an app that would notice if predictions did not go through Flask.

Such code is a hook, a receiver of a signal, an overridden method, or a WSGI middleware. Hooks that do not matter to a
prediction are marked by `indifferent_to_predictions`, or are known here by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from types import FunctionType
from typing import Any, TypeVar

import flask
from flask import Flask, Request, Response, signals
from flask.sessions import SecureCookieSessionInterface

_Function = TypeVar("_Function", bound=Callable[..., Any])

REQUEST_SIGNALS = (
    signals.request_started,
    signals.request_finished,
    signals.request_tearing_down,
    signals.appcontext_pushed,
    signals.appcontext_popped,
    signals.appcontext_tearing_down,
)
"""The signals that Flask sends during a request that succeeds and renders no template."""

HOOKS = {
    "url_value_preprocessors": "URL value preprocessor",
    "before_request_funcs": "before_request function",
    "after_request_funcs": "after_request function",
    "teardown_request_funcs": "teardown_request function",
}
"""The attributes of an app that hold its hooks by blueprint, with the name of a hook."""

CORS_HOOK = ("flask_cors.extension", "make_after_request_function.<locals>.cors_after_request")
"""Flask-CORS: the headers that it adds depend on the path, unless the request has cross-origin headers."""

LOGIN_HOOK = ("flask_login.login_manager", "LoginManager._update_remember_cookie")
"""Flask-Login: refreshes its cookie; without a cookie in the request, it only reads the session."""

INDIFFERENT_HOOKS = frozenset({CORS_HOOK, LOGIN_HOOK, ("flask_sqlalchemy.extension", "SQLAlchemy._teardown_session")})
"""Hooks of extensions that do not matter to a prediction, as module and qualified name of the function."""

INDIFFERENT_MIDDLEWARE = {
    ("werkzeug.middleware.proxy_fix", "ProxyFix"): "app",
    ("whitenoise.base", "WhiteNoise"): "application",
}
"""WSGI middleware that does not matter to a prediction, with the attribute that holds the application inside it."""

REQUEST_METHODS = (
    *("__call__", "wsgi_app", "request_context", "app_context", "create_url_adapter", "full_dispatch_request"),
    *("preprocess_request", "dispatch_request", "ensure_sync", "make_response", "finalize_request"),
    *("process_response", "do_teardown_request", "do_teardown_appcontext"),
)
"""The methods that Flask calls for every request; tools that observe an app replace some of them in the class."""

_FLASK_FOLDER = os.path.dirname(flask.__file__)

IRRELEVANT_OVERRIDES = frozenset(
    {
        *("__init__", "__doc__", "__module__", "__annotations__", "__dict__", "__weakref__"),
        *("__firstlineno__", "__static_attributes__", "default_config", "json_provider_class"),
        *("test_client_class", "test_cli_runner_class", "run", "jinja_options", "jinja_environment"),
        *("create_jinja_environment", "select_jinja_autoescape", "handle_exception", "handle_user_exception"),
        *("handle_http_exception", "log_exception"),
        *("request_class", "response_class", "session_interface", "wsgi_app"),
    }
)
"""Attributes of Flask that a subclass or an app may override: they serve set-up, templates, tests or errors, or are
checked by themselves."""


def indifferent_to_predictions(function: _Function) -> _Function:
    """Mark a hook of an app as one that need not be called for predictions, so that they may be answered directly."""
    function.is_indifferent_to_predictions = function  # type: ignore[attr-defined]
    return function


def hook_name(function: Callable[..., Any]) -> tuple[str, str]:
    """Return module and qualified name of a hook; empty texts if it has none."""
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


def is_indifferent(function: Callable[..., Any], config: Mapping[str, Any]) -> bool:
    """Return whether a hook does not matter to a prediction."""
    name = hook_name(function)
    if name == LOGIN_HOOK and config.get("REMEMBER_COOKIE_REFRESH_EACH_REQUEST"):
        return False
    return (name in INDIFFERENT_HOOKS and not hasattr(function, "__wrapped__")) or is_marked(function)


def is_marked(function: Callable[..., Any]) -> bool:
    """Return whether a hook is marked as indifferent. A wrapper that copies the attributes of the hook is not."""
    plain = getattr(function, "__func__", function)
    return getattr(function, "is_indifferent_to_predictions", None) is plain


def is_marked_by_app(function: Callable[..., Any]) -> bool:
    """Return whether the app, and not flaskml, has marked a hook as indifferent to predictions."""
    is_own = hook_name(function)[0].startswith("flaskml.")
    return is_marked(function) and not is_own


def hooks(app: Flask, blueprints: tuple[str, ...]) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield each hook that Flask calls for a request to a blueprint, with the name of its kind."""
    for attribute, kind in HOOKS.items():
        by_blueprint = getattr(app, attribute)
        for name in (None, *blueprints):
            for function in by_blueprint.get(name, ()):
                yield kind, function
    for function in app.teardown_appcontext_funcs:
        yield "teardown_appcontext function", function


def find_observers(app: Flask, blueprints: tuple[str, ...]) -> Iterator[str]:
    """Yield a description of all code, apart from WSGI middleware, that would notice a direct prediction."""
    if app.testing:
        yield "the setting TESTING"
    if app.debug:
        yield "debug mode"
    for kind, function in hooks(app, blueprints):
        if not is_indifferent(function, app.config):
            yield f"{kind} {describe(function)}"
    for signal in REQUEST_SIGNALS:
        for receiver in signal.receivers_for(app):
            yield f"receiver {describe(receiver)} of the signal {signal.name}"
    if app.request_class is not Request:
        yield f"request class {describe(app.request_class)}"
    if app.response_class is not Response:
        yield f"response class {describe(app.response_class)}"
    if type(app.session_interface) is not SecureCookieSessionInterface or vars(app.session_interface):
        yield f"session interface {describe(type(app.session_interface))}"
    yield from _find_overrides(app)


def _find_overrides(app: Flask) -> Iterator[str]:
    """Yield the methods of Flask that are patched, or that the class of the app or the app itself overrides."""
    for name in REQUEST_METHODS:
        function = getattr(Flask, name)
        if type(function) is not FunctionType or not function.__code__.co_filename.startswith(_FLASK_FOLDER):
            yield f"method {name} of Flask, replaced by {describe(function)}"
    for kind in type(app).__mro__[: type(app).__mro__.index(Flask)]:
        for name in vars(kind):
            if hasattr(Flask, name) and name not in IRRELEVANT_OVERRIDES:
                yield f"method {kind.__module__}.{kind.__qualname__}.{name}"
    for name, value in vars(app).items():
        is_method = callable(getattr(Flask, name, None)) and not isinstance(value, type)
        if is_method and name not in IRRELEVANT_OVERRIDES:
            yield f"method {name} of the app, replaced by {describe(value)}"


def find_middleware(wsgi_app: Any, innermost: type) -> Iterator[str]:
    """Yield a description of each WSGI middleware, from the outside to the innermost one, that matters to predictions.

    `innermost` is the class of flaskml's own middleware.
    """
    while type(wsgi_app) is not innermost:
        attribute = INDIFFERENT_MIDDLEWARE.get((type(wsgi_app).__module__, type(wsgi_app).__qualname__))
        if attribute is None or _serves_predictions(wsgi_app):
            yield f"WSGI middleware {describe(wsgi_app)}"
            return
        wsgi_app = getattr(wsgi_app, attribute)


def _serves_predictions(middleware: Any) -> bool:
    """Return whether a WhiteNoise middleware may serve a file at the path of a prediction."""
    files = getattr(middleware, "files", ())
    return getattr(middleware, "autorefresh", False) or any(path.endswith("/predict") for path in files)


def describe(thing: Any) -> str:
    """Return module and qualified name of a function, a class, or the class of any other object."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def fingerprint(app: Flask) -> tuple[Any, ...]:
    """Return a value that changes with the conditions of direct predictions. It takes about 2 microseconds."""
    config = app.config
    return (
        os.getpid(),
        len(vars(app)),
        vars(app).get("wsgi_app"),
        app.request_class,
        app.response_class,
        app.session_interface,
        app.extensions.get("model"),
        len(app.extensions["models"]),
        config["TESTING"],
        config["DEBUG"],
        config["SECRET_KEY"],
        tuple(config["TRUSTED_HOSTS"] or ()),
        config.get("REMEMBER_COOKIE_REFRESH_EACH_REQUEST"),
        app.url_map.host_matching,
        app.subdomain_matching,
        len(vars(app.session_interface)),
        *[getattr(Flask, name) for name in REQUEST_METHODS],
        *[len(signal.receivers) for signal in REQUEST_SIGNALS],
        *chain.from_iterable(app.before_request_funcs.values()),
        *chain.from_iterable(app.after_request_funcs.values()),
        *chain.from_iterable(app.teardown_request_funcs.values()),
        *chain.from_iterable(app.url_value_preprocessors.values()),
        *app.teardown_appcontext_funcs,
        *app.view_functions.values(),
    )
