"""Backpressure on request bodies: the memory of all bodies that are received or served has a limit.

At the limit, the event loop reads no further from connections whose body is in memory and not complete. It reads on
once some memory is free. If that takes too long, it refuses the oldest of these bodies: those of slow clients.
"""

from __future__ import annotations

from typing import Any, Protocol

from flaskml.server.error_responses import NO_BODY_MEMORY, Refusal
from flaskml.server.memory_account import MemoryAccount

MAX_PAUSE_SECONDS = 5.0
"""Seconds for which bodies wait for memory before the oldest are refused: a client retries a request without an answer
after about as long."""

MEMORY_POLL_SECONDS = 0.02
"""Seconds between two looks at the free memory during a pause. Threads free memory without waking the loop."""

RESUME_SHARE = 7 / 8
"""Share of the limit at which the loop reads on: enough for hundreds of reads before the next pause."""

KEPT_SHARE = 3 / 4
"""Share of the limit that stays in use when bodies are refused."""

MAX_EXCESS_SHARE = 1 / 8
"""Memory above the limit, as a share of it, for first pieces of new bodies: they are read together with the header."""


class ReceivingConnection(Protocol):
    """A connection as the admission sees it."""

    waiting_since: float
    is_receiving_body: bool
    """True if the connection has received a part of a body that is charged to the memory."""

    @property
    def received_body_bytes(self) -> int:
        """The bytes of the partly received body that are charged to the memory."""

    def refuse_partial_request(self, error: Refusal) -> None:
        """Refuse the partly received request, and free its body."""


class BodyAdmission:
    """The connections whose bodies are arriving in memory, the oldest first. Used by the event loop's thread only."""

    def __init__(self, account: MemoryAccount) -> None:
        self._account = account
        self._receiving: dict[ReceivingConnection, None] = {}
        self._paused_since: float | None = None

    @property
    def is_paused(self) -> bool:
        """True while no connection in `is_receiving_body` may be read."""
        return self._paused_since is not None

    def note(self, channel: ReceivingConnection, now: float) -> None:
        """Note that a connection has received a part of a body, or the end of one."""
        if not channel.received_body_bytes:
            self.forget(channel)
            return
        channel.is_receiving_body = True
        self._receiving[channel] = None
        if self._account.is_full:
            if self._paused_since is None:
                self._paused_since = now
            if self._account.used_bytes > (1 + MAX_EXCESS_SHARE) * self._account.limit_bytes:
                self._refuse(channel)

    def sleep_at_most(self, timeout: float) -> float:
        """Return the seconds until the next look at the free memory, at most `timeout`."""
        return min(timeout, MEMORY_POLL_SECONDS) if self.is_paused else timeout

    def proceed(self, now: float) -> list[Any]:
        """End the pause if memory is free; return the connections to be read again.

        After `MAX_PAUSE_SECONDS`, refuse the oldest bodies until memory is free.
        """
        if self._paused_since is None:
            return []
        if now - self._paused_since >= MAX_PAUSE_SECONDS:
            for channel in list(self._receiving):
                if self._used_share <= KEPT_SHARE:
                    break
                self._refuse(channel)
            self._extend_deadlines(now - self._paused_since)
            self._paused_since = now
        if self._used_share > RESUME_SHARE:
            return []
        self._extend_deadlines(now - self._paused_since)
        self._paused_since = None
        return list(self._receiving)

    def forget(self, channel: ReceivingConnection) -> None:
        """Forget a connection that is closed or receives no body any more."""
        channel.is_receiving_body = False
        self._receiving.pop(channel, None)

    @property
    def _used_share(self) -> float:
        return self._account.used_bytes / self._account.limit_bytes

    def _extend_deadlines(self, seconds: float) -> None:
        """Extend the deadlines of the waiting clients by the time of the pause, which is not their fault."""
        for channel in self._receiving:
            channel.waiting_since += seconds

    def _refuse(self, channel: ReceivingConnection) -> None:
        self.forget(channel)
        channel.refuse_partial_request(NO_BODY_MEMORY)
