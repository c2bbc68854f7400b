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

    def body(self) -> bytes:
        """The problem as JSON."""
        return json.dumps({"title": self.title, "status": 503, "detail": self.detail}).encode()


OVERLOADED = Refusal("Overloaded", "More requests wait here than can be answered soon; send this one again later.")
LATE = Refusal("Too late", f"The time that {BUDGET.replace('_', '-').title()} allows was over before the work began.")


class Task(ErrorTask):
    """Answers a request that is not to be served; waitress's own errors as waitress does."""

    def execute(self) -> None:
        """Writes the refusal."""
        refusal: Any = self.request.error
        if not isinstance(refusal, Refusal):
            super().execute()
            return
        body = refusal.body()
        self.status = "503 Service Unavailable"
        self.content_length = len(body)
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(body))),
            ("Retry-After", str(refusal.retry_after)),
        ]
        self.write(body)


def budget(headers: dict[str, str]) -> float | None:
    """The seconds that the client waits; None if it does not say, or says no whole number of milliseconds."""
    sent = headers.get(BUDGET, "")
    return int(sent) / 1000 if sent.isascii() and sent.isdigit() and len(sent) <= BUDGET_DIGITS else None
