"""What the blueprints share: the first module that imports Flask.

Settings from where Flask keeps them, the live objects of an app, replies, errors, and who may change state.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Config, Flask, Response, abort, current_app, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from flaskml.errors import AccessDenied, FlaskmlError, InvalidSetting, TokenRequired, TooLarge
from flaskml.model import Absent, Current, ModelSlot
from flaskml.settings import MODEL_NAME, Settings, find_instance_path, from_environment, read_settings
from flaskml.store import Store
from flaskml.training.jobs import Jobs

PROBLEM_LIMIT = 16 * 1024
"""Bytes of an error's body: whatever was sent, the answer to it stays small."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing by their definition (RFC 9110, section 9.2.1). Every other one is guarded."""

PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the pages: they load one style sheet and post forms, nothing else."""

View = TypeVar("View", bound=Callable[..., Any])


def load_settings(config: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Any]]:
    """The settings, and every value under its capital name as Flask keeps them.

    Raises `InvalidSetting` for a name that neither flaskml nor Flask knows, and for a value of the wrong type.
    """
    given = dict(config or {})
    instance_path = os.path.abspath(given.pop("INSTANCE_PATH", None) or find_instance_path(os.environ))
    file = Config(instance_path)
    file.from_pyfile("config.py", silent=True)
    if "INSTANCE_PATH" in file:
        raise InvalidSetting("INSTANCE_PATH", "it says where config.py lies; set FLASKML_INSTANCE_PATH instead.")
    values = {**file, **from_environment(os.environ), **given, "INSTANCE_PATH": instance_path}
    settings = read_settings(values, passing=Flask.default_config)
    own = {name.upper(): value for name, value in settings}
    return settings, {**values, **own, "TRUSTED_HOSTS": list(settings.trusted_hosts) or None}


def slot() -> ModelSlot:
    """The slot of the default model."""
    return cast(ModelSlot, current_app.extensions["model"])


def store() -> Store:
    """The store that the app serves from."""
    return cast(Store, current_app.extensions["store"])


def jobs() -> Jobs:
    """The training jobs of this process."""
    return cast(Jobs, current_app.extensions["jobs"])


def settings() -> Settings:
    """The settings of the app."""
    return cast(Settings, current_app.extensions["settings"])


def reply(body: bytes | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON: a mapping is encoded, bytes are taken as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body, allow_nan=False).encode()
    return Response(content, status, headers, mimetype="application/json")


def problem(error: FlaskmlError) -> Response:
    """The error as RFC 9457 says."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if isinstance(error, TokenRequired):
        headers["WWW-Authenticate"] = 'Bearer, Basic realm="flaskml", charset="UTF-8"'
    return Response(_problem_body(error), error.status, headers, mimetype="application/problem+json")


def _problem_body(error: FlaskmlError) -> bytes:
    document: dict[str, Any] = {"title": error.title, "status": error.status, "detail": error.detail[:1_000]}
    errors = [{"row": p.row, "feature": p.feature, "detail": p.detail[:1_000]} for p in error.problems]
    if errors:
        document["errors"] = errors
    body = json.dumps(document).encode()
    while len(body) > PROBLEM_LIMIT:  # Escapes can make a sentence six times as long.
        errors.pop()
        body = json.dumps(document).encode()
    return body


def prefers_page() -> bool:
    """Whether the client would rather have a page than JSON, as a browser says and a script does not."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def render_form(current: Current, status: int = 200, **shown: Any) -> tuple[str, int]:
    """The page with the form of the current model, or with what to do to get one."""
    if isinstance(current, Absent):
        return render_template("index.html", predictor=None, error=current.reason), current.reason.status
    return render_template("index.html", predictor=current, **shown), status


def limit_body(limit: int, setting: str) -> None:
    """Refuses a declared body of more than `limit` bytes, and lets none grow beyond it while it is read."""
    request.max_content_length = limit
    if (request.content_length or 0) > limit:
        raise TooLarge(limit, setting)


def changes_nothing(view: View) -> View:
    """Marks a view that takes an unsafe method and yet changes no state, so that anyone may call it."""
    view.changes_nothing = True  # type: ignore[attr-defined]
    return view


class ModelNameConverter(BaseConverter):
    """A model's name in a URL. Everything else is no such page; the store says the same of a name it does not have."""

    regex = MODEL_NAME

    def to_python(self, value: str) -> str:
        """The name as it is."""
        if not value.isascii():
            abort(404)
        return value


def compile_templates(app: Flask) -> None:
    """Compiles every template now, so that no page has to."""
    app.add_template_filter(_number, "number")
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)


def _number(value: float) -> str:
    """A number in six digits, without the zeros that say nothing."""
    return f"{value:.6g}"


def install(app: Flask) -> None:
    """Gives the app its guard, its errors and its headers."""
    app.before_request(_guard)
    app.after_request(_secure)
    app.register_error_handler(FlaskmlError, problem)
    app.register_error_handler(HTTPException, _http_problem)


def _http_problem(error: HTTPException) -> Response:
    """An error of Flask's or Werkzeug's, in the one shape. Its headers, such as Allow, stay."""
    response = cast(Response, error.get_response())
    fault = FlaskmlError(" ".join((error.description or error.name).split()))
    fault.status, fault.title = error.code or 500, error.name
    response.data = _problem_body(fault)
    response.mimetype = "application/problem+json"
    return response


def _secure(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
    return response


def _guard() -> None:
    """Lets a state-changing request through only from who may send it."""
    if request.method in SAFE_METHODS or request.endpoint is None:
        return
    if getattr(current_app.view_functions[request.endpoint], "changes_nothing", False):
        return
    _refuse_foreign_pages()
    if digests := settings().admin_token_sha256:
        _require_token(digests)
    else:
        _require_loopback()


def _refuse_foreign_pages() -> None:
    """A browser says which page sends a request; one from elsewhere would borrow its user's place or password."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site not in (None, "same-origin", "none"):
        raise AccessDenied("takes no request from another site")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise AccessDenied("takes no request from another origin")


def _require_token(digests: tuple[str, ...]) -> None:
    sent = _sent_token()
    found = hashlib.sha256(sent or b"").hexdigest()
    # Each comparison takes the same time whether it matches or not, and all are made.
    matches = [hmac.compare_digest(found, digest) for digest in digests]
    if sent is None or True not in matches:
        raise TokenRequired


def _sent_token() -> bytes | None:
    """The token as the bytes that were sent; a header's text holds one byte in each character, a password is UTF-8."""
    credentials = request.authorization
    if credentials is None:
        return None
    if credentials.type == "bearer":
        return (credentials.token or "").encode("latin-1", "replace")
    return (credentials.password or "").encode("utf-8", "replace") if credentials.type == "basic" else None


def _require_loopback() -> None:
    host = urlsplit(f"//{request.host}").hostname or ""
    if not _is_loopback(request.remote_addr or "") or not (host == "localhost" or _is_loopback(host)):
        raise AccessDenied("without configured tokens only this machine may; set ADMIN_TOKEN_SHA256")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
