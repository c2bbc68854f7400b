"""The event loop: one thread that owns all sockets, answers direct predictions, and hands other requests to threads."""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import BaseWSGIServer, TcpWSGIServer, UnixWSGIServer

from flaskml.server.addresses import without_ipv4_mapping
from flaskml.server.body_admission import BodyAdmission
from flaskml.server.connection import Connection
from flaskml.server.direct_requests import DirectHandler
from flaskml.server.dispatch import Dispatch
from flaskml.server.eviction import STALL_SECONDS, Eviction
from flaskml.server.heap_trimming import HeapTrimming
from flaskml.server.pipelining import PipelinedRequests
from flaskml.server.policy import ServerPolicy, ServerStatus
from flaskml.server.response_heads import ResponseHeads
from flaskml.server.thread_shortage import ThreadShortage
from flaskml.server.unread_answers import UnreadAnswers

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
        self.body_admission = BodyAdmission(adj.bodies.account)
        self.unread_answers = UnreadAnswers(policy.body_memory_bytes, policy.deadlines.response_seconds)
        self.pipelined = PipelinedRequests()
        self._trimming = HeapTrimming((adj.bodies.account, self.unread_answers.account))
        self._scheduled_updates: set[Connection] = set()
        self._changed: deque[Connection] = deque()
        """Connections that threads have changed."""

        self._is_notified = self.is_contended = False
        self._thread_id = threading.get_ident()
        self._shortage = ThreadShortage()
        self._eviction = Eviction(policy.deadlines.grace_seconds)
        self.status = ServerStatus()
        heads, answer_memory = self.response_heads, self.unread_answers.account
        self._dispatch = Dispatch(policy, self.status, handler, heads, self._notify, answer_memory)
        self.policy = policy
        self._stop_calls = 0
        self.on_maintenance: Callable[[], None] = lambda: None
        """Called about once a second while the loop runs: its heartbeat."""

        self._is_closed = False
        self._close_lock = threading.RLock()
        self._is_listening = True
        self._accept_paused_until = 0.0
        self._exhausted_at: int = adj.connection_limit
        """Number of open sockets when `accept` last failed with one of `EXHAUSTION_ERRNOS`."""

        bound = {"_sock": listening_socket, "bind_socket": listening_socket is None}
        super().__init__(application, {}, dispatcher=self._dispatch.threads, adj=adj, sockinfo=sockinfo, **bound)
        for fd in self._map:
            self.epoll.register(fd, select.EPOLLIN)

    # Called by connections.

    def add_task(self, channel: Connection) -> None:
        """Let the first request of a connection be answered."""
        self._dispatch.add(channel)

    @property
    def is_own_thread(self) -> bool:
        """True in the thread of the loop."""
        return threading.get_ident() == self._thread_id

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
            self._dispatch.stop()
            wasyncore.close_all(self._map, ignore_all=True)
            self.epoll.close()

    def stop(self) -> None:
        """Begin a graceful shutdown; a second call ends the loop at once. Safe in signal handlers and threads."""
        self._stop_calls += 1
        self.wake()

    @property
    def is_stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stop_calls > 0

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
        is_busy = self._dispatch.is_busy or bool(self._scheduled_updates)
        timeout = self._shortage.sleep_at_most(self._dispatch.sleep_at_most(timeout))
        if self.pipelined.waiting or self.body_admission.has_waiting:
            timeout = self.body_admission.sleep_at_most(self.pipelined.sleep_at_most(timeout, self.now))
        events = self.epoll.poll(0 if is_busy else timeout)
        self.now = time.monotonic()
        self._dispatch.begin_iteration()
        self.is_contended = self._dispatch.is_contended
        for fd, flags in events:
            self._handle_event(fd, flags)
        self._is_notified = False  # Before the queues are read, so that a later change wakes the loop again.
        if self.pipelined.waiting:
            self.pipelined.begin_due(self.now)
        while self._changed:
            self._scheduled_updates.add(self._changed.popleft())
        if self.body_admission.has_waiting:
            self._scheduled_updates.update(self.body_admission.proceed(self.now))
        self._dispatch.process()
        if self._shortage.is_due(self.now, has_waiting=self._dispatch.threads.has_waiting):
            self._shortage.relieve(list(self.active_channels.values()), self.now)
        if self._scheduled_updates:
            scheduled, self._scheduled_updates = self._scheduled_updates, set()
            for channel in scheduled:
                try:
                    channel.update()
                except Exception:  # A fault of one connection must not end the others.
                    channel.handle_error()

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
            if flags & select.EPOLLRDHUP:
                channel.close_if_abandoned()
            if channel.is_open:
                wasyncore.readwrite(channel, flags if channel.readable() else flags & ~select.EPOLLIN)

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
        self.on_maintenance()
        self._eviction.forget_outdated(now)
        self._dispatch.start_missing_threads()
        elapsed, self._last_maintenance = now - self._last_maintenance, now
        for channel in list(self.active_channels.values()):
            if elapsed > STALL_SECONDS:  # The loop was blocked: extend the deadlines.
                channel.waiting_since += elapsed
            channel.check_deadlines(now)
        self.unread_answers.reset_slow_readers(list(self.active_channels.values()), now)
        self._trimming.trim_after_peak(now)


class TcpServer(EventLoop, TcpWSGIServer):
    """An event-loop server on a TCP port."""

    def fix_addr(self, addr: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the address of a client; for an IPv4 client of an IPv6 socket, the IPv4 address."""
        return (without_ipv4_mapping(addr[0]), *addr[1:])


class UnixServer(EventLoop, UnixWSGIServer):
    """An event-loop server on a Unix domain socket."""
