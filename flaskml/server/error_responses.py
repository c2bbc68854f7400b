"""Error responses of the server itself: malformed requests, load shedding, and client timeouts that have passed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from waitress.task import ErrorTask

from flaskml.server.response_heads import Headers

CLIENT_TIMEOUT_HEADER = "X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
"""Header field with the milliseconds that the client waits for a response; Envoy sends it to its upstreams."""

MAX_TIMEOUT_DIGITS = 9

UNAVAILABLE_STATUS = "503 Service Unavailable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503 problem (RFC 9457) after which the connection stays open, unless it `closes`."""

    title: str
    detail: str
    retry_after: int = 1
    """Seconds after which the client may retry."""

    closes: bool = False
    """True if the rest of the request has not been read."""


OVERLOADED = Refusal("Overloaded", "The request queue of the server is full; send the request again later.")
CLIENT_TIMEOUT_PASSED = Refusal(
    "Client timeout passed",
    f"The time in {CLIENT_TIMEOUT_HEADER.replace('_', '-').title()} passed before the server began the request.",
)
NO_BODY_MEMORY = Refusal(
    "Overloaded",
    "Other bodies fill the memory of the server (setting BODY_MEMORY); send the request again later.",
    retry_after=5,
    closes=True,
)
UNREAD_ANSWERS = Refusal(
    "Overloaded",
    "Answers that other clients have not read fill the memory of the server; send the request again later.",
)


class ErrorResponseTask(ErrorTask):
    """The response to a request that never reaches the app, as a problem (RFC 9457)."""

    def execute(self) -> None:
        """Write the error response; after a framing error, close the connection, as its next bytes are ambiguous."""
        error: Any = self.request.error
        if isinstance(error, Refusal):
            self._write_refusal(error)
            return
        title, detail = getattr(error, "title", error.reason), f"{error.body.rstrip(chr(46))}."
        self.set_close_on_finish()
        self._write_response(f"{error.code} {error.reason}", *_problem(error.code, title, detail))

    def _write_refusal(self, refusal: Refusal) -> None:
        """Write a cached response: under overload, refusals must be cheap."""
        headers, body = _encoded(refusal)
        server = self.channel.server
        is_last = server.status.is_draining and self.channel.has_one_request
        if is_last or refusal.closes or self.request.connection_close:
            self.set_close_on_finish()
        if not self.request.is_keep_alive or self.close_on_finish or self.request.is_head:
            self._write_response(UNAVAILABLE_STATUS, headers, body)
            return
        self.wrote_header = True
        self.channel.write_soon(server.response_heads.response(headers, body, UNAVAILABLE_STATUS))

    def _write_response(self, status: str, headers: Headers, body: bytes) -> None:
        self.status = status
        self.content_length = len(body)
        self.response_headers += headers
        self.write(b"" if self.request.is_head else body)


def _problem(status: int, title: str, detail: str) -> tuple[Headers, bytes]:
    """Return the headers and the body of a problem (RFC 9457)."""
    body = json.dumps({"title": title, "status": status, "detail": detail}).encode()
    return (("Content-Type", "application/problem+json"), ("X-Content-Type-Options", "nosniff")), body


@lru_cache
def _encoded(refusal: Refusal) -> tuple[Headers, bytes]:
    headers, body = _problem(503, refusal.title, refusal.detail)
    return (*headers, ("Retry-After", str(refusal.retry_after))), body


def client_timeout_seconds(headers: dict[str, str]) -> float | None:
    """Return the seconds that the client waits; None if the header is missing or no whole number of milliseconds."""
    value = headers.get(CLIENT_TIMEOUT_HEADER, "")
    return int(value) / 1000 if value.isascii() and value.isdigit() and len(value) <= MAX_TIMEOUT_DIGITS else None
