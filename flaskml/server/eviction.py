"""Near the limit of connections, the event loop closes those that have waited longest for their client."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from operator import itemgetter

from flaskml.server.connection import Connection

logger = logging.getLogger("waitress")

MAX_FREE_CONNECTIONS = 64
"""Largest number of connections below the limit that are kept free: as many as are accepted in one iteration."""

STALL_SECONDS = 5.0
"""Seconds after which eviction candidates are outdated. A longer time between two maintenance runs means that the loop
was blocked, which is not the fault of clients."""


class Eviction:
    """The connections that may be closed in favour of new ones. Times are on the clock of the event loop.

    A connection has `grace_seconds` in which it is not closed.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._searched_at = float("-inf")
        self._candidates: deque[tuple[float, Connection]] = deque()
        """Connections, each with its `waiting_since`, the oldest first."""

    def close_longest_waiting(
        self, channels: Mapping[int, Connection], open_sockets: int, limit: int, now: float
    ) -> None:
        """Close connections until a few sockets below the limit are free.

        Runs between iterations only: within one, a new connection could get the descriptor number of a closed one that
        still has an event in the list.
        """
        excess = open_sockets - (limit - min(MAX_FREE_CONNECTIONS, limit // 100 + 1))
        if excess <= 0:
            return
        if not self._candidates and now > self._searched_at + self._grace_seconds:
            self._search(channels, now)
        while self._candidates and excess > 0:
            since, channel = self._candidates.popleft()
            if channel.is_open and channel.waiting_since == since and not channel.requests:
                channel.abort()
                excess -= 1

    def forget_outdated(self, now: float) -> None:
        """Forget old candidates: closed connections among them keep their received data in memory."""
        if now > self._searched_at + STALL_SECONDS:
            self._candidates.clear()

    def _search(self, channels: Mapping[int, Connection], now: float) -> None:
        """Find the connections that wait for their client, at most once in `grace_seconds`: no other is old enough."""
        self._searched_at = now
        for channel in channels.values():
            channel.note_progress(now)
        latest = now - self._grace_seconds
        waiting = [channel for channel in channels.values() if channel.waiting_since < latest]
        candidates = [(channel.waiting_since, channel) for channel in waiting if not channel.requests]
        self._candidates = deque(sorted(candidates, key=itemgetter(0)))
        message = "Near the connection limit: %s connections are open; %s wait for their client and may be closed"
        logger.warning(message, len(channels), len(candidates))
