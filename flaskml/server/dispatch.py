"""The way of each request: refused, answered directly, or served by a thread."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from flaskml.server.compute_queue import ComputeQueue
from flaskml.server.connection import Connection
from flaskml.server.direct_requests import DirectHandler, DirectRequest, DirectRequests, Target
from flaskml.server.error_responses import CLIENT_TIMEOUT_PASSED, OVERLOADED, UNREAD_ANSWERS
from flaskml.server.http_parser import RequestParser
from flaskml.server.memory_account import MemoryAccount
from flaskml.server.policy import ServerPolicy, ServerStatus
from flaskml.server.request_threads import RequestThreads
from flaskml.server.response_heads import ResponseHeads

logger = logging.getLogger(__name__)

MAX_REFUSED_PER_ITERATION = 16
"""Refusals sent in one iteration, at 30 microseconds each, so that clients that retry at once take little time from
served requests. If more than 1024 are queued, a 64th of them is sent, so that none waits long."""


class Dispatch:
    """The unanswered requests of an event loop. Used by its thread only.

    Without a `handler`, no request is direct. `wake` wakes the loop; compute threads call it.
    """

    def __init__(
        self,
        policy: ServerPolicy,
        status: ServerStatus,
        handler: DirectHandler | None,
        heads: ResponseHeads,
        wake: Callable[[], None],
        answer_memory: MemoryAccount,
    ) -> None:
        self._answer_memory = answer_memory
        self._policy = policy
        self._status = status
        self._handler = handler
        self._heads = heads
        self._is_handler_fresh = False
        """True once the handler has looked at the app in this iteration."""

        self._queue_limit, self._overload = policy.queue_limit, OVERLOADED
        self._refused: deque[Connection] = deque()
        self.threads = RequestThreads(policy, handler)
        self._computed: ComputeQueue | None = None
        self._direct: DirectRequests | None = None
        if handler is not None:
            self._computed = ComputeQueue(handler, self._finish_direct, self._refuse_expired, wake)
            self._direct = DirectRequests(handler, self._computed, self._finish_direct, self._refuse_expired)

    @property
    def unanswered(self) -> int:
        """The number of requests that wait or are served, without refused ones."""
        return len(self._direct or ()) + len(self._computed or ()) + self.threads.unfinished

    @property
    def is_busy(self) -> bool:
        """True if there is work that waits for no event."""
        is_computed = self._computed is not None and self._computed.is_busy
        return bool(self._direct or self._refused or is_computed)

    @property
    def is_contended(self) -> bool:
        """True while threads may compete with the loop for the GIL."""
        return self.threads.unfinished > 0 or bool(self._computed)

    def sleep_at_most(self, timeout: float) -> float:
        """Return the seconds until work is due, at most `timeout`."""
        return self._computed.sleep_at_most(timeout) if self._computed else timeout

    def begin_iteration(self) -> None:
        """Note that the app may have changed since the last iteration, and whether there is memory for answers."""
        self._is_handler_fresh = False
        account = self._answer_memory
        if account.used_bytes < account.limit_bytes:
            self._queue_limit, self._overload = self._policy.queue_limit, OVERLOADED
        else:
            self._queue_limit, self._overload = 0, UNREAD_ANSWERS

    def add(self, channel: Connection) -> None:
        """Choose the way of the first request of a connection; refuse it if too many are unanswered (load shedding)."""
        request = channel.requests[0]
        if request.client_timeout_seconds is not None:
            request.arrived_at = time.monotonic()
        if request.error is not None:
            self._refused.append(channel)
        elif request.path in self._policy.priority_paths:
            self.threads.add_task(channel)
        elif self.unanswered >= self._queue_limit:
            request.error = self._overload
            self._refused.append(channel)
        elif self._direct is None or (target := self._find_target(request)) is None:
            self.threads.add_task(channel)
        else:
            self._direct.add(DirectRequest(channel, request, target))

    def process(self) -> None:
        """Compute direct predictions, finish computed ones, and send refusals, for as long as an iteration may take."""
        if self._direct:
            self._direct.process()
        if self._computed:
            self._computed.proceed()
        refusals = max(MAX_REFUSED_PER_ITERATION, len(self._refused) // 64)
        for _ in range(min(len(self._refused), refusals)):
            channel = self._refused.popleft()
            if channel.is_open and channel.requests:
                channel.refuse()

    def start_missing_threads(self) -> None:
        """Try again to start threads that the system did not have; called once a second."""
        self.threads.start_missing()
        if self._computed is not None:
            self._computed.threads.start_missing()

    def stop(self) -> None:
        """End all threads, each after the request that it serves."""
        self.threads.stop()
        if self._computed is not None:
            self._computed.stop()

    def _find_target(self, request: RequestParser) -> Target | None:
        """Return the target of a request that the loop may answer itself, else None."""
        if self._handler is None or self._status.is_draining:
            return None
        try:
            if not self._is_handler_fresh:
                self._handler.refresh()
                self._is_handler_fresh = True
            return request.find_target(self._handler)
        except Exception:  # Nothing that an app or its hooks contain may end the event loop.
            logger.exception("The direct handler failed; Flask serves the request")
            return None

    def _finish_direct(self, direct: DirectRequest, body: bytes | None) -> None:
        """Send the answer to a direct request; without an answer, let Flask serve the request."""
        channel, headers = direct.channel, direct.target.headers
        if not channel.is_open:
            return
        if body is None:
            self.threads.add_task(channel)
            return
        closes = self._status.is_draining and channel.has_one_request
        response = self._heads.response((*headers, ("Connection", "close")) if closes else headers, body)
        channel.respond(response, closes=closes)

    def _refuse_expired(self, direct: DirectRequest) -> bool:
        """Refuse a direct request whose client timeout has passed; return whether its answer is not needed any more."""
        if not direct.channel.is_open:
            return True
        if not direct.request.is_expired(time.monotonic()):
            return False
        direct.request.error = CLIENT_TIMEOUT_PASSED
        self._refused.append(direct.channel)
        return True
