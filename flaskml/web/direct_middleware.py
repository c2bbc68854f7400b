"""The WSGI middleware that answers predictions directly on servers without an event loop of ours, such as waitress."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from flaskml.server.policy import ENVIRON_KEY
from flaskml.web.direct import Conditions, DirectPredictions

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PREFIX = "HTTP_"
"""Beginning of the keys of headers in a WSGI environment."""


class DirectMiddleware:
    """The application that answers predictions directly where possible, and calls Flask for all other requests."""

    def __init__(self, wsgi_app: WSGIApplication, handler: DirectPredictions) -> None:
        self.wsgi_app = wsgi_app
        self.handler = handler

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request (PEP 3333)."""
        handler = self.handler
        if environ["REQUEST_METHOD"] != "POST" or not handler.is_prediction(environ["PATH_INFO"]):
            return self.wsgi_app(environ, start_response)
        handler.refresh()
        if not handler.is_enabled:
            return self.wsgi_app(environ, start_response)
        line = ("POST", environ["PATH_INFO"], environ.get("QUERY_STRING", ""))
        headers = request_headers(environ)
        if ENVIRON_KEY not in environ:  # Else the server has called the handler already.
            body = answer_environ(handler, environ, *line, headers, start_response)
            if body is not None:
                return [body]
        if (found := handler.lesson(*line, headers)) is not None:
            start_response = learn_from(handler, found, environ["PATH_INFO"], start_response)
        return self.wsgi_app(environ, start_response)


def request_headers(environ: WSGIEnvironment) -> dict[str, str]:
    """Return the headers of a request, with names in capitals with underscores."""
    headers = {name.removeprefix(PREFIX): value for name, value in environ.items() if name.startswith(PREFIX)}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name] = environ[name]
    return headers


def answer_environ(
    handler: DirectPredictions,
    environ: WSGIEnvironment,
    method: str,
    path: str,
    query: str,
    headers: dict[str, str],
    start_response: StartResponse,
) -> bytes | None:
    """Start the response to a prediction and return its body; return None for a request that Flask must serve."""
    target = handler.find_target(method, path, query, headers)
    if target is None or environ["SERVER_PROTOCOL"] != "HTTP/1.1":
        return None
    content = environ["wsgi.input"].read(int(headers["CONTENT_LENGTH"]))
    environ["wsgi.input"] = BytesIO(content)
    try:
        prediction = handler.read(target, content)
        body = None if prediction is None else handler.answer_on_thread(prediction)
    except Exception:  # Flask reports it: it computes the request once more.
        return None
    if body is None:
        return None
    start_response("200 OK", [*target.headers, ("Content-Length", str(len(body)))])
    return body


def learn_from(handler: DirectPredictions, found: Conditions, path: str, start_response: StartResponse) -> Any:
    """Return a `start_response` that lets the handler learn the headers of a successful answer."""

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        if status.startswith("200 "):
            handler.learn(found, path, headers)
        return start_response(status, headers, *rest)

    return start
