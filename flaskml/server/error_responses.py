"""What the engine refuses before it calls the app: more than it can answer soon, and what nobody waits for any more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from waitress.task import ErrorTask

CLIENT_TIMEOUT_HEADER = "X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
"""The header that says for how many milliseconds the client waits, as Envoy sends it to what stands behind it."""

MAX_TIMEOUT_DIGITS = 9

UNAVAILABLE_STATUS = "503 Service Unavailable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the engine's own, in the shape of RFC 9457, after which the connection may stay open."""

    title: str
    detail: str
    retry_after: int = 1


OVERLOADED = Refusal("Overloaded", "More requests wait here than can be answered soon; send this one again later.")
CLIENT_TIMEOUT_PASSED = Refusal(
    "Too late",
    f"The time that {CLIENT_TIMEOUT_HEADER.replace('_', '-').title()} allows was over before the work began.",
)


class ErrorResponseTask(ErrorTask):
    """Answers a request that the app never sees, in the shape of all errors (RFC 9457)."""

    def execute(self) -> None:
        """Writes the refusal; after an error of framing the connection is closed, for nobody knows what follows."""
        error: Any = self.request.error
        if isinstance(error, Refusal):
            self._refuse(error)
            return
        detail = f"{error.body.rstrip(chr(46))}."
        if error.code == 413:
            most = self.channel.adj.max_request_body_size - 1
            names = "MAX_BODY, MAX_UPLOAD, MAX_CONTENT_LENGTH"
            detail = f"The body has more than the {most:,} bytes that are read here (settings {names})."
        self.set_close_on_finish()
        self._answer(f"{error.code} {error.reason}", *_problem(error.code, error.reason, detail))

    def _refuse(self, refusal: Refusal) -> None:
        """Writes what was written before: where there are many refusals, they must cost little."""
        headers, body = _written(refusal)
        server = self.channel.server
        head = server.heads.get(UNAVAILABLE_STATUS, headers)
        if server.status.draining and self.channel.has_one_request:
            self.set_close_on_finish()
        if not (self.request.stays_open and head) or self.close_on_finish or self.request.command == "HEAD":
            self._answer(UNAVAILABLE_STATUS, headers, body)
            return
        self.wrote_header = True
        self.channel.write_soon(b"".join((head.content, server.clock.line(), body)))

    def _answer(self, status: str, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.content_length = len(body)
        self.response_headers += headers
        self.write(b"" if self.request.command == "HEAD" else body)


def _problem(status: int, title: str, detail: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of a refusal."""
    body = json.dumps({"title": title, "status": status, "detail": detail}).encode()
    kind = ("Content-Type", "application/problem+json")
    return [kind, ("Content-Length", str(len(body))), ("X-Content-Type-Options", "nosniff")], body


@lru_cache
def _written(refusal: Refusal) -> tuple[list[tuple[str, str]], bytes]:
    headers, body = _problem(503, refusal.title, refusal.detail)
    return [*headers, ("Retry-After", str(refusal.retry_after))], body


def client_timeout_seconds(headers: dict[str, str]) -> float | None:
    """The seconds that the client waits; None if it does not say, or says no whole number of milliseconds."""
    sent = headers.get(CLIENT_TIMEOUT_HEADER, "")
    return int(sent) / 1000 if sent.isascii() and sent.isdigit() and len(sent) <= MAX_TIMEOUT_DIGITS else None
