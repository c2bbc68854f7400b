"""Backpressure on request bodies: the memory of all bodies that are received or served has a limit.

At the limit, the event loop reads no further from connections whose body is in memory and not complete. It reads on
from those whose whole body fits into the memory that is free again, the one with the fewest missing bytes first. If
memory stays full for a few seconds, it refuses the oldest bodies: those of slow clients.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Protocol

from flaskml.server.error_responses import NO_BODY_MEMORY, Refusal
from flaskml.server.memory_account import MemoryAccount

MAX_PAUSE_SECONDS = 5.0
"""Seconds for which bodies wait for memory before the oldest are refused: a client retries a request without an answer
after about as long."""

MEMORY_POLL_SECONDS = 0.02
"""Seconds between two looks at the free memory while bodies wait. Threads free memory without waking the loop."""

LOOK_SECONDS = 2e-5
"""Seconds between two looks for each connection: a look takes two microseconds for each."""

KEPT_SHARE = 3 / 4
"""Share of the limit that stays in use when bodies are refused."""

MAX_EXCESS_SHARE = 1 / 8
"""Memory above the limit, as a share of it, for first pieces of new bodies: they are read together with the header."""


class ReceivingConnection(Protocol):
    """A connection as the admission sees it."""

    waiting_since: float
    is_receiving_body: bool
    """True if the connection has received a part of a body that is charged to the memory."""

    waits_for_memory: bool
    """True while the connection may not be read."""

    @property
    def received_body_bytes(self) -> int:
        """The bytes of the partly received body that are charged to the memory."""

    @property
    def missing_body_bytes(self) -> int:
        """The bytes that the memory must take until the body is complete or in a file."""

    def refuse_partial_request(self, error: Refusal) -> None:
        """Refuse the partly received request, and free its body."""


class BodyAdmission:
    """The connections whose bodies are arriving in memory, the oldest first. Used by the event loop's thread only."""

    def __init__(self, account: MemoryAccount) -> None:
        self._account = account
        self._receiving: dict[ReceivingConnection, None] = {}
        self._full_since: float | None = None
        """Time at which bodies began to wait, or at which bodies were refused last; None if none waits."""

        self._looked_at = 0.0
        self.has_waiting = False
        """True while bodies wait for memory."""

    def note(self, channel: ReceivingConnection, now: float) -> None:
        """Note that a connection has received a part of a body, or the end of one."""
        if not channel.received_body_bytes:
            self.forget(channel)
            return
        is_new = not channel.is_receiving_body
        channel.is_receiving_body = True
        self._receiving[channel] = None
        if self._full_since is None and self._account.is_full:
            self._full_since, self.has_waiting = now, True
            for other in self._receiving:
                other.waits_for_memory = True
        elif self._full_since is not None and is_new:
            channel.waits_for_memory = True
            if self._account.used_bytes > (1 + MAX_EXCESS_SHARE) * self._account.limit_bytes:
                self._refuse(channel)

    def forget(self, channel: ReceivingConnection) -> None:
        """Forget a connection that is closed or receives no body any more."""
        channel.is_receiving_body = channel.waits_for_memory = False
        self._receiving.pop(channel, None)

    def sleep_at_most(self, timeout: float) -> float:
        """Return the seconds until the next look at the free memory, at most `timeout`."""
        return min(timeout, MEMORY_POLL_SECONDS) if self.has_waiting else timeout

    def proceed(self, now: float) -> list[Any]:
        """Return the waiting connections that may be read again. If memory stays full, refuse the oldest bodies.

        The deadlines of those that wait are extended: the wait is not the fault of the clients.
        """
        interval = max(MEMORY_POLL_SECONDS, LOOK_SECONDS * len(self._receiving))
        if self._full_since is None or now < self._looked_at + interval:
            return []
        elapsed, self._looked_at = min(now - self._looked_at, now - self._full_since), now
        for channel in self._waiting():
            channel.waiting_since += elapsed
        if now - self._full_since >= MAX_PAUSE_SECONDS:
            self._full_since = now
            self._refuse_oldest()
        admitted = self._admit()
        if not self._waiting():
            self._full_since, self.has_waiting = None, False
        return admitted

    def _waiting(self) -> list[ReceivingConnection]:
        return [channel for channel in self._receiving if channel.waits_for_memory]

    def _admit(self) -> list[ReceivingConnection]:
        """Let connections be read whose missing bytes fit into the memory, beside those of all that are read."""
        free_bytes = self._account.limit_bytes - self._account.used_bytes
        free_bytes -= sum(channel.missing_body_bytes for channel in self._receiving if not channel.waits_for_memory)
        admitted: list[ReceivingConnection] = []
        if free_bytes <= 0 and len(self._receiving) > 1:
            return admitted
        for channel in sorted(self._waiting(), key=attrgetter("missing_body_bytes")):
            free_bytes -= channel.missing_body_bytes
            if free_bytes < 0 and len(self._receiving) > 1:
                break
            channel.waits_for_memory = False
            admitted.append(channel)
        return admitted

    def _refuse_oldest(self) -> None:
        """Refuse bodies until a share of the memory is free, for bodies that are there and for their missing bytes."""
        kept_bytes = KEPT_SHARE * self._account.limit_bytes
        needed_bytes = min((channel.missing_body_bytes for channel in self._waiting()), default=0)
        needed_bytes += sum(channel.missing_body_bytes for channel in self._receiving if not channel.waits_for_memory)
        for channel in list(self._receiving):
            used_bytes = self._account.used_bytes
            if used_bytes <= kept_bytes and used_bytes + needed_bytes <= self._account.limit_bytes:
                return
            if not channel.waits_for_memory:
                needed_bytes -= channel.missing_body_bytes
            self._refuse(channel)

    def _refuse(self, channel: ReceivingConnection) -> None:
        self.forget(channel)
        channel.refuse_partial_request(NO_BODY_MEMORY)
