"""What the blueprints share.

Settings from where Flask keeps them, the live objects of an app, bodies, replies, errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from flaskml.errors import (
    FlaskmlError,
)
from flaskml.settings import MODEL_NAME_PATTERN, VERSION_PATTERN, Settings, load_settings
from flaskml.web import access
from flaskml.web.lean import Reply
from flaskml.web.replies import problem_reply
from flaskml.web.template_filters import short_number, time_ago

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: they load one style sheet and post forms, nothing else."""


def flask_settings(config: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Any]]:
    """The settings, and every value under its capital name as Flask keeps them.

    Raises `InvalidSetting` for a name that neither flaskml nor Flask knows, and for a value of the wrong type.
    """
    settings, values = load_settings(config or {}, passing=Flask.default_config)
    own = {name.upper(): value for name, value in settings}
    return settings, {**values, **own, "TRUSTED_HOSTS": list(settings.trusted_hosts) or None}


class ModelNameConverter(BaseConverter):
    """A model's name in a URL. Everything else is no such page; the store says the same of a name it does not have."""

    regex = MODEL_NAME_PATTERN


class VersionConverter(BaseConverter):
    """A version's number in a URL, written in the one way that it is."""

    regex = VERSION_PATTERN


def compile_templates(app: Flask) -> None:
    """Compiles every template now, so that no page has to."""
    app.add_template_filter(short_number)
    app.add_template_filter(time_ago)
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)


def install_hooks(app: Flask) -> None:
    """Gives the app its guard, its errors and its headers."""
    app.before_request(app.extensions["watcher"].join)
    app.before_request(access.check_access)
    app.after_request(_secure)
    app.register_error_handler(FlaskmlError, problem_reply)
    app.register_error_handler(HTTPException, _http_problem)


def _http_problem(error: HTTPException) -> Response:
    """An error of Flask's or Werkzeug's, in the one shape. Its headers, such as Allow, stay."""
    response = cast(Response, error.get_response())
    if error.code is not None and error.code < 400:  # A redirection is no error.
        return response
    fault = FlaskmlError(" ".join((error.description or error.name).split()))
    fault.status, fault.title = error.code or 500, error.name
    told = problem_reply(fault)
    response.data = told.data
    response.mimetype = told.mimetype or ""
    response.vary.add("Accept")
    return response


def _secure(response: Response) -> Response:
    if isinstance(response, Reply):  # It has what it needs.
        return response
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
        response.headers["Referrer-Policy"] = "same-origin"  # With none, browsers say of no form where it is from.
    return response
