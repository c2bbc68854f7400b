"""A shortage of threads: requests wait, while threads wait until slow clients have read enough (backpressure)."""

from __future__ import annotations

from flaskml.server.connection import Connection

SHORTAGE_SECONDS = 0.5
"""Seconds for which requests must wait for a thread before any connection is closed for it."""

CHECK_SECONDS = 0.1
"""Seconds between two looks during a shortage: 32 threads are then free again several times a second."""

STALLED_READER_SECONDS = 0.2
"""Seconds without progress after which a client that keeps a thread waiting loses its connection in a shortage."""


class ThreadShortage:
    """The end of a shortage of threads that slow readers cause. Times are on the clock of the event loop."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._checked_at = 0.0

    def sleep_at_most(self, timeout: float) -> float:
        """Return the seconds until the next look, at most `timeout`."""
        return timeout if self._since is None else min(timeout, CHECK_SECONDS)

    def is_due(self, now: float, *, has_waiting: bool) -> bool:
        """Note whether requests wait for a thread; return whether to look for clients that keep one waiting."""
        if not has_waiting:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        if now < self._since + SHORTAGE_SECONDS or now < self._checked_at + CHECK_SECONDS:
            return False
        self._checked_at = now
        return True

    @staticmethod
    def relieve(channels: list[Connection], now: float) -> None:
        """Close each connection whose client keeps a thread waiting and has stopped reading."""
        for channel in channels:
            if channel.holds_thread:
                channel.note_progress(now)
                if now - channel.waiting_since > STALLED_READER_SECONDS:
                    channel.abort()
