"""Pipelined requests: a client may send further requests before it has read an answer (RFC 9112, section 9.3.2).

The next request begins once the previous answer was handed to the kernel, and if a thread served it, a few milliseconds
later. So one connection holds at most one open file, and a flood of requests leaves the GIL to other clients.
"""

from __future__ import annotations

from collections import deque
from typing import Any

PIPELINE_SECONDS = 0.01
"""Seconds between the end of a request that a thread served and the beginning of the next one that was already sent.
Threads compete with the event loop for the GIL; a request through Flask takes up to a millisecond of it."""


class PipelinedRequests:
    """The connections whose previous request a thread served, and whose next request has arrived."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, Any]] = deque()
        """Each connection with the time at which its next request begins, the earliest first."""

    def add(self, channel: Any, now: float) -> None:
        """Add a connection."""
        self.waiting.append((now + PIPELINE_SECONDS, channel))

    def sleep_at_most(self, timeout: float, now: float) -> float:
        """Return the seconds until a request begins, at most `timeout`."""
        return min(timeout, max(self.waiting[0][0] - now, 0.0)) if self.waiting else timeout

    def begin_due(self, now: float) -> None:
        """Begin the requests whose time has come."""
        while self.waiting and self.waiting[0][0] <= now:
            channel = self.waiting.popleft()[1]
            if channel.is_open:
                channel.begin_next_request()
