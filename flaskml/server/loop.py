"""The event loop: one thread that accepts connections, reads requests, runs views in greenlets and sends responses."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections import deque
from operator import itemgetter
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer, TcpWSGIServer, UnixWSGIServer

from flaskml.server.connection import Connection
from flaskml.server.error_responses import CLIENT_TIMEOUT_PASSED, OVERLOADED
from flaskml.server.greenlets import Greenlets
from flaskml.server.policy import ServerPolicy, ServerStatus
from flaskml.server.wsgi_task import DateHeader, ResponseHeadCache

MAX_STARTED_PER_ITERATION = 64
"""Requests started in one iteration. One takes 70 microseconds, so a request that arrives meanwhile waits 5 ms."""

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

STALL_SECONDS = 5.0
"""Seconds after which eviction candidates are outdated. A longer time between two maintenance runs means that the loop
was blocked, which is not the fault of clients."""


class _NoThreads:
    """A replacement for waitress's thread pool."""

    def shutdown(self, *_: object, **__: object) -> None:
        """Do nothing: no thread runs."""


class EventLoop(BaseWSGIServer):
    """A waitress server that serves all connections on one thread, with epoll and greenlets.

    Epoll registrations persist between iterations. Code that changes a connection without an event calls
    `schedule_update`.
    """

    channel_class = Connection

    def __init__(
        self,
        application: Any,
        adj: Adjustments,
        sockinfo: Any,
        policy: ServerPolicy,
        listening_socket: socket.socket | None = None,
    ) -> None:
        """Listen on `listening_socket` if given, which is bound already, else on the address in `sockinfo`."""
        self.deadlines = policy.deadlines
        self.now = self._last_maintenance = self._last_search = time.monotonic()
        self._eviction_candidates: deque[tuple[float, Connection]] = deque()
        """Connections that may be closed near the limit, each with its `waiting_since`, the oldest first."""

        self.epoll = select.epoll()
        self.date_header, self.response_heads = DateHeader(), ResponseHeadCache(adj.ident)
        self._ready: deque[Connection] = deque()
        self._refused: deque[Connection] = deque()
        self._scheduled_updates: set[Connection] = set()
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
        super().__init__(application, {}, dispatcher=_NoThreads(), adj=adj, sockinfo=sockinfo, **bound)
        self.calls = Greenlets(self.wake)
        for fd in self._map:
            self.epoll.register(fd, select.EPOLLIN)

    # Called by connections.

    def add_task(self, channel: Connection) -> None:
        """Queue the first request of a connection; refuse it if the queue is full (load shedding)."""
        request = channel.requests[0]
        if request.client_timeout_seconds is not None:
            request.arrived_at = time.monotonic()
        if request.error is None and request.path in self.policy.priority_paths:
            self._ready.appendleft(channel)
            return
        if len(self._ready) + self.calls.unfinished >= self.policy.queue_limit and request.error is None:
            request.error = OVERLOADED
            self._refused.append(channel)
            return
        self._ready.append(channel)

    def pull_trigger(self) -> None:
        """Do nothing: the loop updates a connection after each call. Other threads call `wake`."""

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
        try:
            while not self._stop_calls:
                self._run_once(self.adj.asyncore_loop_timeout)
            self._drain()
        finally:
            with self._close_lock:
                self._is_closed = True
            wasyncore.close_all(self._map, ignore_all=True)
            self.calls.close()
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
        """Run one iteration: wait for events, read, start requests, compute predictions, send."""
        if self.now >= self._last_maintenance + self.adj.cleanup_interval:
            self.maintenance(self.now)
        self._update_listening()
        is_idle = not (self._ready or self._refused or self.calls.is_busy or self._scheduled_updates)
        events = self.epoll.poll(self.calls.sleep_at_most(timeout) if is_idle else 0)
        self.now = time.monotonic()
        for fd, flags in events:
            channel = self._map.get(fd)
            if type(channel) is Connection:
                self._scheduled_updates.add(channel)
            if channel is not None:
                wasyncore.readwrite(channel, flags)
        for _ in range(min(len(self._ready), MAX_STARTED_PER_ITERATION)):
            self.calls.is_last = len(self._ready) == 1
            channel = self._ready.popleft()
            self._refuse_expired(channel)
            self.calls.start(channel.service)
        refusals = max(MAX_REFUSED_PER_ITERATION, len(self._refused) // 64)
        for _ in range(min(len(self._refused), refusals)):
            self.calls.start(self._refused.popleft().service)
        self.calls.is_last = False  # Calls that are woken may share a batch.
        self.calls.proceed()
        scheduled, self._scheduled_updates = self._scheduled_updates, set()
        for channel in scheduled:
            self._update(channel)

    def _refuse_expired(self, channel: Connection) -> None:
        """Refuse a request whose client timeout has passed: the client no longer waits for the response."""
        request = channel.requests[0] if channel.requests else None
        if request is None or request.client_timeout_seconds is None or request.error is not None:
            return
        if time.monotonic() - request.arrived_at >= request.client_timeout_seconds:
            request.error = CLIENT_TIMEOUT_PASSED

    def _update_listening(self) -> None:
        """Pause or resume accepting connections, by the limit of connections."""
        if self.status.is_draining:
            return
        if self.accepting:
            self._close_longest_waiting()
        has_room = len(self._map) < self.adj.connection_limit and self.now >= self._accept_paused_until
        is_listening = self.accepting and has_room
        if is_listening != self._is_listening:
            self._is_listening = is_listening
            self.epoll.modify(self._fileno, select.EPOLLIN if is_listening else 0)

    def _close_longest_waiting(self) -> None:
        """Near the limit of connections, close those that have waited longest for their client.

        Runs between iterations only: within one, a new connection could get the descriptor number of a closed one that
        still has an event in the list.
        """
        limit = self._exhausted_at if self.now < self._accept_paused_until else self.adj.connection_limit
        target = limit - min(MAX_ACCEPTED_PER_ITERATION, limit // 100 + 1)
        if len(self._map) <= target:
            return
        if not self._eviction_candidates and self.now > self._last_search + self.deadlines.grace_seconds:
            self._find_eviction_candidates()
        while self._eviction_candidates and len(self._map) > target:
            since, channel = self._eviction_candidates.popleft()
            if channel.is_open and channel.waiting_since == since and not channel.requests:
                channel.abort()

    def _find_eviction_candidates(self) -> None:
        """Find the connections that wait for their client, at most once in `grace_seconds`: no other is old enough."""
        self._last_search = self.now
        latest = self.now - self.deadlines.grace_seconds
        waiting = [channel for channel in self.active_channels.values() if channel.waiting_since < latest]
        candidates = [(channel.waiting_since, channel) for channel in waiting if not channel.requests]
        self._eviction_candidates = deque(sorted(candidates, key=itemgetter(0)))
        message = "Near the connection limit: %s connections are open; %s wait for their client and may be closed"
        self.logger.warning(message, len(self.active_channels), len(candidates))

    def maintenance(self, now: float) -> None:
        """Check the deadlines of all connections."""
        if now > self._last_search + STALL_SECONDS:
            self._eviction_candidates.clear()  # Closed connections among them keep their received data in memory.
        elapsed, self._last_maintenance = now - self._last_maintenance, now
        for channel in list(self.active_channels.values()):
            if elapsed > STALL_SECONDS:  # The loop was blocked: extend the deadlines.
                channel.waiting_since += elapsed
            channel.check_deadlines(now)

    def _update(self, channel: Connection) -> None:
        """Send what the socket takes, and register the connection with epoll for the events that it waits for."""
        if channel.is_open and channel.writable() and not channel.events & select.EPOLLOUT:
            channel.handle_write()
        if channel.is_open:
            events = (select.EPOLLIN if channel.readable() else 0) | (select.EPOLLOUT if channel.writable() else 0)
            if events != channel.events:
                channel.events = events
                self.epoll.modify(channel.fileno, events)


class TcpServer(EventLoop, TcpWSGIServer):
    """An event-loop server on a TCP port."""


class UnixServer(EventLoop, UnixWSGIServer):
    """An event-loop server on a Unix domain socket."""
