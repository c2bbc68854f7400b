"""Steps of the app factory: settings, URL converters, templates, hooks and error handlers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from flaskml.errors import FlaskmlError
from flaskml.settings import MODEL_NAME_PATTERN, VERSION_PATTERN, Settings, load_settings
from flaskml.web import access
from flaskml.web.current import this_app, watcher_of
from flaskml.web.direct import DirectPredictions
from flaskml.web.direct_conditions import indifferent_to_predictions
from flaskml.web.direct_middleware import DirectMiddleware
from flaskml.web.replies import problem_reply
from flaskml.web.template_filters import short_number, time_ago


def flask_settings(config: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Any]]:
    """Return the settings, and the values for `app.config` under their names in capitals.

    Raises `InvalidSetting` for a name that neither flaskml nor Flask knows, and for a value of the wrong type.
    """
    settings, values = load_settings(config or {}, ignored_names=Flask.default_config)
    own_values = {name.upper(): value for name, value in settings}
    return settings, {**values, **own_values, "TRUSTED_HOSTS": list(settings.trusted_hosts) or None}


class ModelNameConverter(BaseConverter):
    """The name of a model in a URL. Any other text matches no route and gives 404, as an unknown name does."""

    regex = MODEL_NAME_PATTERN


class VersionConverter(BaseConverter):
    """The number of a version in a URL, in its canonical form: ASCII digits without leading zeros."""

    regex = VERSION_PATTERN


def compile_templates(app: Flask) -> None:
    """Compile every template at start, so that no request does."""
    app.add_template_filter(short_number)
    app.add_template_filter(time_ago)
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)


def install_hooks(app: Flask) -> None:
    """Register the access check, the error handlers and the hook that forbids browsers to guess media types."""
    app.before_request(_begin_request)
    app.after_request(_forbid_sniffing)
    app.register_error_handler(FlaskmlError, problem_reply)
    app.register_error_handler(HTTPException, _http_problem)


def answer_predictions_directly(app: Flask, settings: Settings) -> DirectPredictions:
    """Wrap the app in the middleware that answers predictions directly; return the handler, for an event loop."""
    handler = DirectPredictions(app, settings, DirectMiddleware)
    if settings.direct != "never":
        app.wsgi_app = DirectMiddleware(app.wsgi_app, handler)  # type: ignore[method-assign]
    return handler


@indifferent_to_predictions
def _begin_request() -> None:
    """Make sure that this process is in the roster and follows the store, and check the right to change state."""
    app = this_app()
    watcher_of(app).ensure_started()
    access.check_access(app)


def _http_problem(error: HTTPException) -> Response:
    """Return an error of Flask or Werkzeug as problem details. Its headers, such as Allow, stay."""
    response = cast(Response, error.get_response())
    is_redirect = error.code is not None and error.code < 400
    if is_redirect or error.response is not None:  # A view may abort with a response of its own.
        return response
    fault = FlaskmlError(" ".join((error.description or error.name).split()))
    fault.status, fault.title = error.code or 500, error.name
    reply = problem_reply(fault)
    response.data = reply.data
    response.headers.update(reply.headers)
    return response


@indifferent_to_predictions
def _forbid_sniffing(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
