"""Replies: JSON, pages, redirects, and errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from flask import Response, redirect, render_template

from flaskml.errors import (
    FlaskmlError,
    Problem,
    TokenRequired,
)
from flaskml.web.current import settings_of
from flaskml.web.lean import Reply, this_app, this_request
from flaskml.web.negotiation import prefers_page

MAX_PROBLEM_BYTES = 16 * 1024
"""Bytes of an error's body: whatever was sent, the answer to it stays small."""


TERSE_PROBLEM = "it is not as the model wants it"
"""What is said of a row where details are terse."""


def json_reply(
    body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON: a mapping is encoded, bytes are taken as they are."""
    is_usual = status == 200 and headers is None and issubclass(Reply, this_app().response_class)
    if isinstance(body, bytes) and is_usual:
        return Reply(body, "application/json")
    content = body if isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode()
    return Response(content, status, headers, mimetype="application/json")


def problem_reply(error: FlaskmlError) -> Response:
    """The error as RFC 9457 says, or as a page for a browser."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, TokenRequired):
        headers["WWW-Authenticate"] = 'Bearer, Basic realm="flaskml", charset="UTF-8"'
    headers["Vary"] = "Accept"
    if prefers_page(this_request()):
        problems = [] if is_terse() else [found.detail for found in error.problems]
        page = render_template("error.html", title=error.title, detail=error_detail(error), problems=problems)
        return Response(page, error.status, headers)
    return Response(_problem_body(error), error.status, headers, mimetype="application/problem+json")


def problem_as_json(found: Problem) -> dict[str, Any]:
    """A problem as JSON; where details are terse, the row alone."""
    if is_terse():
        found = Problem(found.row, None, TERSE_PROBLEM)
    return {"row": found.row, "feature": found.feature, "detail": found.detail[:1_000]}


def is_terse() -> bool:
    """Whether answers name no feature, category or value."""
    return settings_of(this_app()).error_detail == "terse"


def _problem_body(error: FlaskmlError) -> bytes:
    detail = error_detail(error)
    document: dict[str, Any] = {"title": error.title, "status": error.status, "detail": detail[:1_000]}
    room = MAX_PROBLEM_BYTES - len(json.dumps(document)) - 100
    errors = []
    for found in error.problems:  # Escapes can make a sentence six times as long, so what fits is counted in bytes.
        entry = problem_as_json(found)
        room -= len(json.dumps(entry)) + 2
        if room >= 0:
            errors.append(entry)
    return json.dumps({**document, "errors": errors} if errors else document).encode()


def page_or_json(template: str, document: Mapping[str, Any], **more: Any) -> Response:
    """The document as the page that a browser asks for, which `more` is told to besides, or as JSON."""
    answer = (
        Response(render_template(template, **document, **more))
        if prefers_page(this_request())
        else json_reply({**document})
    )
    answer.vary.add("Accept")
    return answer


def see_other(place: str) -> Response:
    """Where a browser goes after a form of its page has changed something."""
    answer = cast(Response, redirect(place, 303))
    answer.vary.add("Accept")
    return answer


def error_detail(error: FlaskmlError) -> str:
    """What is said of an error, in as many words as the settings allow."""
    return error.terse if is_terse() else error.detail
