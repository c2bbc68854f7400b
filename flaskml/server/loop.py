"""The event loop: one thread that owns all sockets, answers direct predictions, and hands other requests to threads."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer, TcpWSGIServer, UnixWSGIServer

from flaskml.server.compute_queue import ComputeQueue
from flaskml.server.connection import Connection
from flaskml.server.direct_requests import DirectHandler, DirectRequest, DirectRequests
from flaskml.server.error_responses import CLIENT_TIMEOUT_PASSED, OVERLOADED
from flaskml.server.eviction import STALL_SECONDS, Eviction
from flaskml.server.policy import ServerPolicy, ServerStatus
from flaskml.server.request_threads import RequestThreads
from flaskml.server.response_heads import ResponseHeads

MAX_REFUSED_PER_ITERATION = 16
"""Refusals sent in one iteration, at 30 microseconds each, so that clients that retry at once take little time from
served requests. If more than 1024 are queued, a 64th of them is sent, so that none waits long."""

MAX_ACCEPTED_PER_ITERATION = 64
"""Connections accepted in one iteration."""

EXHAUSTION_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of `accept` when the system is out of descriptors or memory; the connection stays in the backlog."""

ACCEPT_PAUSE_SECONDS = 0.5
"""Seconds without `accept` after such an error, because an immediate retry fails again."""

IDLE_DRAIN_SECONDS = 1.0
"""Seconds that idle keep-alive connections stay open in a graceful shutdown, for one more request each."""


class EventLoop(BaseWSGIServer):
    """A waitress server that serves all connections on one thread with epoll, and runs WSGI calls on others.

    Epoll registrations persist between iterations. A thread that has changed a connection calls `request_update`. A
    request is direct, and answered on the loop, if `handler` finds a target for it.
    """

    channel_class = Connection

    def __init__(
        self,
        application: Any,
        adj: Adjustments,
        sockinfo: Any,
        policy: ServerPolicy,
        handler: DirectHandler | None = None,
        listening_socket: socket.socket | None = None,
    ) -> None:
        """Listen on `listening_socket` if given, which is bound already, else on the address in `sockinfo`."""
        self.deadlines = policy.deadlines
        self.now = self._last_maintenance = time.monotonic()
        self.epoll = select.epoll()
        self.response_heads = ResponseHeads(adj.ident)
        self._handler = handler
        self._compute_queue = self._direct = None
        if handler is not None:
            self._compute_queue = ComputeQueue(handler, self._finish_direct, self._refuse_expired, self._notify)
            self._direct = DirectRequests(handler, self._compute_queue, self._finish_direct)
        self._threads = RequestThreads(policy, handler)
        self._refused: deque[Connection] = deque()
        self._scheduled_updates: set[Connection] = set()
        self._changed: deque[Connection] = deque()
        """Connections that threads have changed."""

        self._returned: deque[Connection] = deque()
        """Connections with a next request, whose previous one was served by a thread."""

        self._is_notified = self._is_handler_fresh = self.is_contended = False
        self._thread_id = threading.get_ident()
        self._eviction = Eviction(policy.deadlines.grace_seconds)
        self.status = ServerStatus()
        self.policy = policy
        self._stop_calls = 0
        self._is_closed = False
        self._close_lock = threading.RLock()
        self._is_listening = True
        self._accept_paused_until = 0.0
        self._exhausted_at: int = adj.connection_limit
        """Number of open sockets when `accept` last failed with one of `EXHAUSTION_ERRNOS`."""

        bound = {"_sock": listening_socket, "bind_socket": listening_socket is None}
        super().__init__(application, {}, dispatcher=self._threads, adj=adj, sockinfo=sockinfo, **bound)
        for fd in self._map:
            self.epoll.register(fd, select.EPOLLIN)

    # Called by connections.

    def add_task(self, channel: Connection) -> None:
        """Queue the first request of a connection; refuse it if too many are unanswered (load shedding).

        A thread that has served the previous request of the connection gives the next one back to the loop.
        """
        if threading.get_ident() != self._thread_id:
            self._returned.append(channel)
            self._notify()
            return
        request = channel.requests[0]
        if request.client_timeout_seconds is not None:
            request.arrived_at = time.monotonic()
        if request.error is not None:
            self._refused.append(channel)
        elif request.path in self.policy.priority_paths:
            self._threads.add_task(channel)
        elif self._unanswered >= self.policy.queue_limit:
            request.error = OVERLOADED
            self._refused.append(channel)
        elif self._direct is None or (target := self._find_target(request)) is None:
            self._threads.add_task(channel)
        else:
            self._direct.add(DirectRequest(channel, request, target))

    def _find_target(self, request: Any) -> Any:
        """Return the target of a request that the loop may answer itself, else None."""
        if self._handler is None or self.status.is_draining:
            return None
        if not self._is_handler_fresh:
            self._is_handler_fresh = True
            self._handler.refresh()
        return request.find_target(self._handler)

    @property
    def _unanswered(self) -> int:
        """The number of requests that wait or are served, without refused ones."""
        direct = len(self._direct or ()) + len(self._compute_queue or ())
        return direct + self._threads.unfinished

    def pull_trigger(self) -> None:
        """Wake the loop; connections call `request_update` instead."""
        self.wake()

    def request_update(self, channel: Connection) -> None:
        """Schedule an update of a connection from any thread."""
        self._changed.append(channel)
        self._notify()

    def _notify(self) -> None:
        """Wake the loop, once for all changes that it has not seen yet."""
        if not self._is_notified:
            self._is_notified = True
            self.wake()

    def schedule_update(self, channel: Connection) -> None:
        """Schedule the sending of output, and an update of the epoll events, for the end of this iteration."""
        self._scheduled_updates.add(channel)

    def cancel_update(self, channel: Connection) -> None:
        """Cancel the update of a connection that is about to be closed."""
        self._scheduled_updates.discard(channel)

    def accept(self) -> Any:
        """Return the next connection and its address; None if none waits, or descriptors or memory are exhausted."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in EXHAUSTION_ERRNOS:
                raise
            self._accept_paused_until = self.now + ACCEPT_PAUSE_SECONDS
            self._exhausted_at = len(self._map)
            self.logger.warning("No connections are accepted for %s seconds: %s", ACCEPT_PAUSE_SECONDS, error.strerror)
            return None

    def handle_accept(self) -> None:
        """Accept the waiting connections, up to a limit."""
        for _ in range(MAX_ACCEPTED_PER_ITERATION):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before or len(self._map) >= self.adj.connection_limit:
                return

    # The loop.

    def run(self) -> None:
        """Serve until `stop` is called, then drain."""
        self._thread_id = threading.get_ident()
        try:
            while not self._stop_calls:
                self._run_once(self.adj.asyncore_loop_timeout)
            self._drain()
        finally:
            with self._close_lock:
                self._is_closed = True
            self._threads.stop()
            if self._compute_queue is not None:
                self._compute_queue.stop()
            wasyncore.close_all(self._map, ignore_all=True)
            self.epoll.close()

    def stop(self) -> None:
        """Begin a graceful shutdown; a second call ends the loop at once. Safe in signal handlers and threads."""
        self._stop_calls += 1
        self.wake()

    def wake(self) -> None:
        """Interrupt the wait for events. Safe in signal handlers and other threads."""
        with self._close_lock:  # A closed trigger's descriptor number may already belong to another file.
            if not self._is_closed:
                self.trigger.pull_trigger()

    def _drain(self) -> None:
        """Finish the graceful shutdown: accept no connection, and answer every accepted request.

        Each response says `Connection: close`. Idle keep-alive connections stay open for `IDLE_DRAIN_SECONDS`: a client
        that is about to send a request gets a response, and not a closed connection.
        """
        self.status.is_draining = True
        self._stop_listening()
        begun = time.monotonic()
        limit = self.policy.drain_seconds
        while self.active_channels and self._stop_calls == 1 and (elapsed := time.monotonic() - begun) < limit:
            self._run_once(0.05)
            if elapsed >= IDLE_DRAIN_SECONDS:
                for channel in [channel for channel in self.active_channels.values() if channel.is_idle]:
                    channel.handle_close()

    def _stop_listening(self) -> None:
        """Accept the connections in the backlog, then close the listening socket, so that later ones are refused."""
        before = -1
        while before < len(self.active_channels) < self.adj.connection_limit:
            before = len(self.active_channels)
            self.handle_accept()
        self.accepting = False
        self.epoll.unregister(self._fileno)
        del self._map[self._fileno]
        self.socket.close()

    def _run_once(self, timeout: float) -> None:
        """Run one iteration: wait for events, read, compute direct predictions, send."""
        if self.now >= self._last_maintenance + self.adj.cleanup_interval:
            self.maintenance(self.now)
        self._update_listening()
        events = self.epoll.poll(0 if self._is_busy else self._sleep_at_most(timeout))
        self.now = time.monotonic()
        self._is_handler_fresh = False
        self.is_contended = self._threads.unfinished > 0 or bool(self._compute_queue)
        for fd, flags in events:
            self._handle_event(fd, flags)
        if self._is_notified:
            self._is_notified = False  # Before the queues are read, so that a later change wakes the loop again.
        while self._returned:
            self._serve_next(self._returned.popleft())
        while self._changed:
            self._scheduled_updates.add(self._changed.popleft())
        if self._direct:
            self._direct.process()
        if self._compute_queue:
            self._compute_queue.proceed()
        refusals = max(MAX_REFUSED_PER_ITERATION, len(self._refused) // 64)
        for _ in range(min(len(self._refused), refusals)):
            self._refuse(self._refused.popleft())
        if self._scheduled_updates:
            scheduled, self._scheduled_updates = self._scheduled_updates, set()
            for channel in scheduled:
                channel.update()

    @property
    def _is_busy(self) -> bool:
        """True if there is work that waits for no event."""
        is_computed = self._compute_queue is not None and self._compute_queue.is_busy
        return bool(self._direct or self._refused or self._scheduled_updates or is_computed)

    def _sleep_at_most(self, timeout: float) -> float:
        return self._compute_queue.sleep_at_most(timeout) if self._compute_queue else timeout

    def _handle_event(self, fd: int, flags: int) -> None:
        """Read from, write to or close the socket that epoll reports."""
        channel = self._map.get(fd)
        if type(channel) is not Connection:
            if channel is not None:
                wasyncore.readwrite(channel, flags)
        elif flags == select.EPOLLIN:
            if channel.readable():
                wasyncore.read(channel)
            else:  # A request is being served: read on when it has ended.
                self._scheduled_updates.add(channel)
        else:
            self._scheduled_updates.add(channel)
            wasyncore.readwrite(channel, flags if channel.readable() else flags & ~select.EPOLLIN)

    def _serve_next(self, channel: Connection) -> None:
        """Queue the next request of a connection whose previous one was served by a thread."""
        if channel.is_open and channel.requests:
            self.add_task(channel)

    def _finish_direct(self, direct: DirectRequest, body: bytes | None) -> None:
        """Send the answer to a direct request; without an answer, let Flask serve the request."""
        if body is not None:
            direct.channel.respond(self.response_heads.response(direct.target.headers, body))
        elif direct.channel.is_open:
            self._threads.add_task(direct.channel)

    def _refuse_expired(self, direct: DirectRequest) -> bool:
        """Refuse a direct request whose client timeout has passed; return whether its answer is not needed any more."""
        if not direct.channel.is_open:
            return True
        if not direct.request.is_expired(time.monotonic()):
            return False
        direct.request.error = CLIENT_TIMEOUT_PASSED
        self._refused.append(direct.channel)
        return True

    def _refuse(self, channel: Connection) -> None:
        if channel.is_open and channel.requests:
            channel.refuse()

    def _update_listening(self) -> None:
        """Pause or resume accepting connections, by the limit of connections."""
        if self.status.is_draining:
            return
        if self.accepting:
            limit = self._exhausted_at if self.now < self._accept_paused_until else self.adj.connection_limit
            self._eviction.close_longest_waiting(self.active_channels, len(self._map), limit, self.now)
        has_room = len(self._map) < self.adj.connection_limit and self.now >= self._accept_paused_until
        is_listening = self.accepting and has_room
        if is_listening != self._is_listening:
            self._is_listening = is_listening
            self.epoll.modify(self._fileno, select.EPOLLIN if is_listening else 0)

    def maintenance(self, now: float) -> None:
        """Check the deadlines of all connections."""
        self._eviction.forget_outdated(now)
        elapsed, self._last_maintenance = now - self._last_maintenance, now
        for channel in list(self.active_channels.values()):
            if elapsed > STALL_SECONDS:  # The loop was blocked: extend the deadlines.
                channel.waiting_since += elapsed
            channel.check_deadlines(now, is_short_of_threads=self._threads.has_waiting)


class TcpServer(EventLoop, TcpWSGIServer):
    """An event-loop server on a TCP port."""


class UnixServer(EventLoop, UnixWSGIServer):
    """An event-loop server on a Unix domain socket."""
