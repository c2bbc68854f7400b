"""The threads that serve requests through WSGI: one pool each for health checks, predictions and all other requests.

With pools of their own, health checks and predictions do not wait for views that never end, such as server-sent events.
"""

from __future__ import annotations

from typing import Any

from flaskml.server.direct_requests import DirectHandler
from flaskml.server.policy import ServerPolicy
from flaskml.server.threads import ThreadPool

HEALTH_THREADS = 2
"""Threads for health checks. A check takes a millisecond."""


class RequestThreads:
    """The pools of a server; in the place of waitress's dispatcher."""

    def __init__(self, policy: ServerPolicy, handler: DirectHandler | None) -> None:
        self._health_paths = policy.priority_paths
        self._handler = handler
        self._health = ThreadPool(HEALTH_THREADS)
        self._predictions = ThreadPool(policy.threads)
        self._others = ThreadPool(policy.threads)

    @property
    def unfinished(self) -> int:
        """The number of requests that wait or are served."""
        return self._health.unfinished + self._predictions.unfinished + self._others.unfinished

    @property
    def has_waiting(self) -> bool:
        """True if a request waits for a thread."""
        return bool(self._predictions.queue or self._others.queue)

    def add_task(self, channel: Any) -> None:
        """Serve the first request of a connection on a thread of its pool."""
        path = channel.requests[0].path
        if path in self._health_paths:
            self._health.add_task(channel)
        elif self._handler is not None and self._handler.is_prediction(path):
            self._predictions.add_task(channel)
        else:
            self._others.add_task(channel)

    def start_missing(self) -> None:
        """Try again to start a thread in a pool that has none and whose requests wait."""
        for pool in (self._health, self._predictions, self._others):
            pool.start_missing()

    def stop(self) -> None:
        """End the threads, each after the request that it serves."""
        for pool in (self._health, self._predictions, self._others):
            pool.stop()
