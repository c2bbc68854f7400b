"""Replies: JSON, pages, redirects, and errors as problem details (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from flask import Response, redirect, render_template

from flaskml.errors import FlaskmlError, Problem, TokenRequired
from flaskml.web.current import settings_of, this_app, this_request
from flaskml.web.negotiation import prefers_page

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: they load images and styles from this server, and post forms to it."""

MAX_PROBLEM_BYTES = 16 * 1024
"""Bytes of an error's body. The answer stays small, however large the request is."""

TERSE_PROBLEM = "the input differs from what the model expects"
"""The detail of every problem and warning where the setting ERROR_DETAIL is `terse`."""


def json_reply(
    body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response. A mapping is encoded; bytes must already be JSON and are sent unchanged."""
    content = body if isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode()
    return Response(content, status, headers, mimetype="application/json")


def page_reply(
    page: str, status: int = 200, headers: Mapping[str, str] | None = None, *, policy: str = PAGE_POLICY
) -> Response:
    """Return a page of flaskml, with its security headers. Pages of other blueprints have those of their views."""
    response = Response(page, status, headers)
    response.headers["Content-Security-Policy"] = policy
    response.headers["Referrer-Policy"] = "same-origin"  # With no-referrer, browsers send Origin: null.
    return response


def problem_reply(error: FlaskmlError) -> Response:
    """Return the error as problem details (RFC 9457), or as a page for a browser."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, TokenRequired):
        headers["WWW-Authenticate"] = 'Bearer, Basic realm="flaskml", charset="UTF-8"'
    headers["Vary"] = "Accept"
    if prefers_page(this_request()):
        problems = [] if is_terse() else [problem.detail for problem in error.problems]
        page = render_template("error.html", title=error.title, detail=error_detail(error), problems=problems)
        return page_reply(page, error.status, headers)
    return Response(_problem_body(error), error.status, headers, mimetype="application/problem+json")


def problems_as_json(problems: Iterable[Problem], *, terse: bool) -> list[dict[str, Any]]:
    """Return problems as JSON objects. With `terse`, they name the row only."""
    if terse:
        problems = [Problem(problem.row, None, TERSE_PROBLEM) for problem in problems]
    return [{"row": found.row, "feature": found.feature, "detail": found.detail[:1_000]} for found in problems]


def is_terse() -> bool:
    """Return whether answers must name no feature, category or value (setting ERROR_DETAIL)."""
    return settings_of(this_app()).error_detail == "terse"


def _problem_body(error: FlaskmlError) -> bytes:
    detail = error_detail(error)
    document: dict[str, Any] = {"title": error.title, "status": error.status, "detail": detail[:1_000]}
    free_bytes = MAX_PROBLEM_BYTES - len(json.dumps(document)) - 100
    errors = []
    # JSON escapes can make a text six times as long: count bytes.
    for entry in problems_as_json(error.problems, terse=is_terse()):
        free_bytes -= len(json.dumps(entry)) + 2
        if free_bytes >= 0:
            errors.append(entry)
    return json.dumps({**document, "errors": errors} if errors else document).encode()


def page_or_json(template: str, document: Mapping[str, Any], **context: Any) -> Response:
    """Return the document as a page for a browser, or as JSON. `context` holds more variables for the template."""
    response = (
        page_reply(render_template(template, **document, **context))
        if prefers_page(this_request())
        else json_reply({**document})
    )
    response.vary.add("Accept")
    return response


def see_other(location: str) -> Response:
    """Return a 303 redirect, which makes a browser GET `location` after it has posted a form (RFC 9110, 15.4.4)."""
    response = cast(Response, redirect(location, 303))
    response.vary.add("Accept")
    return response


def error_detail(error: FlaskmlError) -> str:
    """Return the detail of an error, full or terse as the setting ERROR_DETAIL says."""
    return error.detail_without_names if is_terse() else error.detail
