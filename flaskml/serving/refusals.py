"""What the engine refuses before it calls the app: more than it can answer soon, and what nobody waits for any more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from waitress.task import ErrorTask

BUDGET = "X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
"""The header that says for how many milliseconds the client waits, as Envoy sends it to what stands behind it."""

BUDGET_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the engine's own, in the shape of RFC 9457. The connection stays open."""

    title: str
    detail: str
    retry_after: int = 1


OVERLOADED = Refusal("Overloaded", "More requests wait here than can be answered soon; send this one again later.")
LATE = Refusal("Too late", f"The time that {BUDGET.replace('_', '-').title()} allows was over before the work began.")


class Task(ErrorTask):
    """Answers a request that the app never sees, in the shape of all errors (RFC 9457)."""

    def execute(self) -> None:
        """Writes the refusal; after an error of framing the connection is closed, for nobody knows what follows."""
        error: Any = self.request.error
        headers = []
        if isinstance(error, Refusal):
            status, reason, title, detail = 503, "Service Unavailable", error.title, error.detail
            headers.append(("Retry-After", str(error.retry_after)))
        else:
            status, reason, title = error.code, error.reason, error.reason
            detail = f"{error.body.rstrip(chr(46))}."
        body = json.dumps({"title": title, "status": status, "detail": detail}).encode()
        self.status = f"{status} {reason}"
        self.content_length = len(body)
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
            ("X-Content-Type-Options", "nosniff"),
            *headers,
        ]
        if not isinstance(error, Refusal):
            self.set_close_on_finish()
        self.write(body)


def budget(headers: dict[str, str]) -> float | None:
    """The seconds that the client waits; None if it does not say, or says no whole number of milliseconds."""
    sent = headers.get(BUDGET, "")
    return int(sent) / 1000 if sent.isascii() and sent.isdigit() and len(sent) <= BUDGET_DIGITS else None
