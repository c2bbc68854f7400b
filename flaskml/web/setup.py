"""What the blueprints share.

Settings from where Flask keeps them, the live objects of an app, bodies, replies, errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Flask, Response, redirect, render_template, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from flaskml.errors import (
    PROBLEMS_SHOWN,
    FlaskmlError,
    InvalidInput,
    ModelNotFound,
    NotParseable,
    Problem,
    TokenRequired,
    TooLarge,
)
from flaskml.hot_reload.registry import Registry
from flaskml.hot_reload.roster import Roster
from flaskml.inference.batching import lane
from flaskml.inference.predictor import Absent, Current, ModelSlot
from flaskml.publishing.publish import trial_limits
from flaskml.publishing.trial import Limits
from flaskml.settings import MODEL_NAME, Settings, load_settings
from flaskml.store.model_store import Store
from flaskml.training.jobs import Jobs
from flaskml.web import access
from flaskml.web.lean import Reply, this_app, this_request
from flaskml.web.negotiation import prefers_page
from flaskml.web.template_filters import ago, brief

PROBLEM_LIMIT = 16 * 1024
"""Bytes of an error's body: whatever was sent, the answer to it stays small."""

TERSE = "it is not as the model wants it"
"""What is said of a row where details are terse."""

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: they load one style sheet and post forms, nothing else."""

Body = TypeVar("Body", bound=BaseModel)
View = TypeVar("View", bound=Callable[..., Any])


def flask_settings(config: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Any]]:
    """The settings, and every value under its capital name as Flask keeps them.

    Raises `InvalidSetting` for a name that neither flaskml nor Flask knows, and for a value of the wrong type.
    """
    settings, values = load_settings(config or {}, passing=Flask.default_config)
    own = {name.upper(): value for name, value in settings}
    return settings, {**values, **own, "TRUSTED_HOSTS": list(settings.trusted_hosts) or None}


def slot() -> ModelSlot:
    """The slot of the default model."""
    return cast(ModelSlot, this_app().extensions["model"])


def store() -> Store:
    """The store that the app serves from."""
    return cast(Store, this_app().extensions["store"])


def registry() -> Registry:
    """The slots of this process."""
    return cast(Registry, this_app().extensions["registry"])


def roster() -> Roster:
    """The processes that serve the store."""
    return cast(Roster, this_app().extensions["watcher"].roster)


def limits() -> Limits:
    """What the trial of a version may take."""
    return trial_limits(settings())


def named_slot(name: str) -> ModelSlot:
    """The slot of a model. Raises `ModelNotFound`."""
    found = registry().slots.get(name)
    if found is None:
        raise ModelNotFound(name, sorted(registry().slots))
    return found


def jobs() -> Jobs:
    """The training jobs of this process."""
    return cast(Jobs, this_app().extensions["jobs"])


def settings() -> Settings:
    """The settings of the app."""
    return cast(Settings, this_app().extensions["settings"])


def reply(body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON: a mapping is encoded, bytes are taken as they are."""
    is_usual = status == 200 and headers is None and issubclass(Reply, this_app().response_class)
    if isinstance(body, bytes) and is_usual:
        return Reply(body, "application/json")
    content = body if isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode()
    return Response(content, status, headers, mimetype="application/json")


def problem(error: FlaskmlError) -> Response:
    """The error as RFC 9457 says, or as a page for a browser."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, TokenRequired):
        headers["WWW-Authenticate"] = 'Bearer, Basic realm="flaskml", charset="UTF-8"'
    headers["Vary"] = "Accept"
    if prefers_page():
        problems = [] if is_terse() else [found.detail for found in error.problems]
        page = render_template("error.html", title=error.title, detail=_sentence(error), problems=problems)
        return Response(page, error.status, headers)
    return Response(_problem_body(error), error.status, headers, mimetype="application/problem+json")


def told(found: Problem) -> dict[str, Any]:
    """A problem as JSON; where details are terse, the row alone."""
    if is_terse():
        found = Problem(found.row, None, TERSE)
    return {"row": found.row, "feature": found.feature, "detail": found.detail[:1_000]}


def is_terse() -> bool:
    """Whether answers name no feature, category or value."""
    return settings().error_detail == "terse"


def _problem_body(error: FlaskmlError) -> bytes:
    detail = _sentence(error)
    document: dict[str, Any] = {"title": error.title, "status": error.status, "detail": detail[:1_000]}
    room = PROBLEM_LIMIT - len(json.dumps(document)) - 100
    errors = []
    for found in error.problems:  # Escapes can make a sentence six times as long, so what fits is counted in bytes.
        entry = told(found)
        room -= len(json.dumps(entry)) + 2
        if room >= 0:
            errors.append(entry)
    return json.dumps({**document, "errors": errors} if errors else document).encode()


def validated(kind: type[Body]) -> Body:
    """The JSON body as a `kind`. Raises `NotParseable`, or `InvalidInput` naming each key that is wrong."""
    limit_body(settings().max_body, "MAX_BODY")
    return checked(lambda: kind.model_validate_json(request.get_data()))


def checked(validate: Callable[[], Body]) -> Body:
    """What `validate` returns, with pydantic's errors as ours."""
    try:
        return validate()
    except ValidationError as error:
        error_kinds = {detail["type"] for detail in error.errors(include_url=False, include_input=False)}
        problems = [_key_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
    if problems[0].feature is None and error_kinds & {"json_invalid", "json_type"}:
        raise NotParseable(problems[0].detail)
    raise InvalidInput(problems[:PROBLEMS_SHOWN], more=len(problems) > PROBLEMS_SHOWN)


def _key_problem(detail: Any) -> Problem:
    """What pydantic says of one key; a key is none of our words, so it is cut."""
    key = str(detail["loc"][0])[:100] if detail["loc"] else None
    return Problem(None, key, f'"{key}": {detail["msg"]}' if key else detail["msg"])


def negotiated(template: str, document: Mapping[str, Any], **more: Any) -> Response:
    """The document as the page that a browser asks for, which `more` is told to besides, or as JSON."""
    answer = Response(render_template(template, **document, **more)) if prefers_page() else reply({**document})
    answer.vary.add("Accept")
    return answer


def sent_on(place: str) -> Response:
    """Where a browser goes after a form of its page has changed something."""
    answer = cast(Response, redirect(place, 303))
    answer.vary.add("Accept")
    return answer


def may_block(view: View) -> View:
    """Marks a view that waits for files or other processes, so that it holds up nobody where all share a thread."""

    @wraps(view)
    def apart(*arguments: Any, **named: Any) -> Any:
        return lane.get().apart(lambda: view(*arguments, **named))

    return cast(View, apart)


def render_form(
    current: Current,
    status: int = 200,
    *,
    error: FlaskmlError | None = None,
    doubts: Sequence[Problem] = (),
    **shown: Any,
) -> tuple[str, int]:
    """The page with the form of the current model, or with what to do to get one."""
    if isinstance(current, Absent):
        return render_template("index.html", predictor=None, alert=_sentence(current.reason)), current.reason.status
    if error is not None:
        troubles = {} if is_terse() else {found.feature: found.detail for found in error.problems}
        shown |= {"alert": _sentence(error), "troubles": troubles}
    shown["doubts"] = [told(doubt)["detail"] for doubt in doubts]
    shown["names"] = sorted(name for name, one in list(registry().slots.items()) if one.serving)
    return render_template("index.html", predictor=current, default=settings().model_name, **shown), status


def _sentence(error: FlaskmlError) -> str:
    """What is said of an error, in as many words as the settings allow."""
    return error.terse if is_terse() else error.detail


def limit_body(limit: int, setting: str) -> None:
    """Refuses a declared body of more than `limit` bytes, and lets none grow beyond it while it is read."""
    sent = this_request()
    sent.max_content_length = limit
    if (sent.content_length or 0) > limit:
        raise TooLarge(limit, setting)


class ModelNameConverter(BaseConverter):
    """A model's name in a URL. Everything else is no such page; the store says the same of a name it does not have."""

    regex = MODEL_NAME


class VersionConverter(BaseConverter):
    """A version's number in a URL, written in the one way that it is."""

    regex = "[1-9][0-9]{0,9}"


def compile_templates(app: Flask) -> None:
    """Compiles every template now, so that no page has to."""
    app.add_template_filter(brief)
    app.add_template_filter(ago)
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)


def install(app: Flask) -> None:
    """Gives the app its guard, its errors and its headers."""
    app.before_request(app.extensions["watcher"].join)
    app.before_request(access.guard)
    app.after_request(_secure)
    app.register_error_handler(FlaskmlError, problem)
    app.register_error_handler(HTTPException, _http_problem)


def _http_problem(error: HTTPException) -> Response:
    """An error of Flask's or Werkzeug's, in the one shape. Its headers, such as Allow, stay."""
    response = cast(Response, error.get_response())
    if error.code is not None and error.code < 400:  # A redirection is no error.
        return response
    fault = FlaskmlError(" ".join((error.description or error.name).split()))
    fault.status, fault.title = error.code or 500, error.name
    told = problem(fault)
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
