"""Backpressure on answers: the memory of all answers that clients have not read has a limit.

At the limit, the server refuses new requests other than health checks, and resets the connections whose clients read
too slowly, those with the most unread bytes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from flaskml.server.memory_account import MemoryAccount


class AnsweredConnection(Protocol):
    """A connection as the guard of unread answers sees it."""

    @property
    def unread_bytes(self) -> int:
        """The bytes of answers in memory that the client has not read."""

    @property
    def sent_bytes(self) -> int:
        """The bytes of answers that were sent, a number that only grows."""

    def abort(self) -> None:
        """Close the connection and discard unsent data."""


class UnreadAnswers:
    """The unread answers of a server. Used by the event loop's thread only, except for the account.

    At the limit, a client must read fast enough to have its answers within `response_seconds`.
    """

    def __init__(self, limit_bytes: int, response_seconds: float) -> None:
        self.account = MemoryAccount(limit_bytes)
        self._response_seconds = response_seconds
        self._checked_at = 0.0
        self._sent_bytes: dict[AnsweredConnection, int] = {}
        """The connections with unread bytes at the last check, and the bytes that had been sent."""

    def reset_slow_readers(self, channels: Iterable[AnsweredConnection], now: float) -> None:
        """Reset connections until the memory is below the limit; called once a second.

        A connection has at least one second, from one call to the next.
        """
        elapsed, self._checked_at = now - self._checked_at, now
        if not self.account.is_full:
            self._sent_bytes = {}
            return
        before = self._sent_bytes
        reading = sorted((channel for channel in channels if channel.unread_bytes), key=_unread_bytes, reverse=True)
        self._sent_bytes = {channel: channel.sent_bytes for channel in reading}
        excess_bytes = self.account.used_bytes - self.account.limit_bytes
        for channel in reading:
            unread_bytes = channel.unread_bytes
            wanted_bytes = unread_bytes * elapsed / self._response_seconds
            if excess_bytes >= 0 and channel in before and channel.sent_bytes - before[channel] < wanted_bytes:
                del self._sent_bytes[channel]
                channel.abort()
                excess_bytes -= unread_bytes


def _unread_bytes(channel: AnsweredConnection) -> int:
    return channel.unread_bytes
