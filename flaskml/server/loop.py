"""The engine's loop: one thread that reads, starts calls, computes what they wait for, and writes."""

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

MAX_STARTED_PER_TURN = 64
"""Calls that start in one turn: at 70 microseconds each, a call that came during the turn waits 5 ms at most."""

MAX_REFUSED_PER_TURN = 16
"""Refusals in one turn, at 30 microseconds each: who asks again and again takes little from those who are served. Of
very many it is a 64th, so that none waits long for it."""

MAX_ACCEPTED_PER_TURN = 64
"""Connections that are accepted in one turn."""

EXHAUSTION_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when it can give no more connections; they go on waiting, so it would say so for ever."""

ACCEPT_PAUSE_SECONDS = 0.5
"""For how long nobody is accepted then."""

IDLE_DRAIN_SECONDS = 1.0
"""Seconds that an idle connection has then for one more request, whose answer says that it was the last."""

STALL_SECONDS = 5.0
"""Seconds after which what was seen is old; if they pass between two looks at the clock, the process stood still."""


class _NoThreads:
    """Stands where waitress has its threads."""

    def shutdown(self, *_: object, **__: object) -> None:
        """There is none to end."""


class EventLoop(BaseWSGIServer):
    """What makes a waitress server an engine: its calls run on its own thread, in greenlets.

    What epoll is told is kept between turns, so whatever changes a channel outside of an event has to touch it.
    """

    channel_class = Connection

    def __init__(
        self,
        application: Any,
        adj: Adjustments,
        sockinfo: Any,
        policy: ServerPolicy,
        listening: socket.socket | None = None,
    ) -> None:
        """`listening` is a socket that somebody else has bound."""
        self.deadlines = policy.deadlines
        self.now = self._looked = self._sought = time.monotonic()
        self._waited_for: deque[tuple[float, Connection]] = deque()
        self.epoll = select.epoll()
        self.clock, self.heads = DateHeader(), ResponseHeadCache(adj.ident)
        self._ready: deque[Connection] = deque()
        self._refused: deque[Connection] = deque()
        self._touched: set[Connection] = set()
        self.status = ServerStatus()
        self.policy = policy
        self._stops = 0
        self._is_closed = False
        self._closing = threading.RLock()
        self._is_listening = True
        self._accepts_from = 0.0
        self._bearable: int = adj.connection_limit
        """How many connections there were when the system had no more to give; the limit where it has."""

        bound = {"_sock": listening, "bind_socket": listening is None}
        super().__init__(application, {}, dispatcher=_NoThreads(), adj=adj, sockinfo=sockinfo, **bound)
        self.calls = Greenlets(self.wake)
        for fd in self._map:
            self.epoll.register(fd, select.EPOLLIN)

    # What channels tell.

    def add_task(self, channel: Connection) -> None:
        """The channel has a request to serve, or to refuse."""
        request = channel.requests[0]
        if request.budget is not None:
            request.arrived = time.monotonic()
        if request.error is None and request.path in self.policy.first:
            self._ready.appendleft(channel)
            return
        if len(self._ready) + self.calls.unfinished >= self.policy.queue_limit and request.error is None:
            request.error = OVERLOADED
            self._refused.append(channel)
            return
        self._ready.append(channel)

    def pull_trigger(self) -> None:
        """Needs nothing: a channel is looked at after each call. Other threads pull the trigger itself."""

    def touch(self, channel: Connection) -> None:
        """Something has changed in the channel that its flags depend on."""
        self._touched.add(channel)

    def forget(self, channel: Connection) -> None:
        """The connection is about to be closed."""
        self._touched.discard(channel)

    def accept(self) -> Any:
        """The next who waits, with its address; None if there is nobody, or no room in this process."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in EXHAUSTION_ERRNOS:
                raise
            self._accepts_from = self.now + ACCEPT_PAUSE_SECONDS
            self._bearable = len(self._map)
            self.logger.warning("Nobody is accepted for a moment: %s", error.strerror)
            return None

    def handle_accept(self) -> None:
        """Accepts all who wait, up to a limit."""
        for _ in range(MAX_ACCEPTED_PER_TURN):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before or len(self._map) >= self.adj.connection_limit:
                return

    # The loop.

    def run(self) -> None:
        """Serves until `stop`, then finishes what it has accepted."""
        try:
            while not self._stops:
                self._turn(self.adj.asyncore_loop_timeout)
            self._drain()
        finally:
            with self._closing:
                self._is_closed = True
            wasyncore.close_all(self._map, ignore_all=True)
            self.calls.close()
            self.epoll.close()

    def stop(self) -> None:
        """Has the loop end when what was accepted is answered; a second time, at once.

        May be called from a signal or another thread.
        """
        self._stops += 1
        self.wake()

    def wake(self) -> None:
        """Has the loop look for what has changed. May be called from a signal or another thread."""
        with self._closing:  # The trigger's descriptor is another file's once it is closed.
            if not self._is_closed:
                self.trigger.pull_trigger()

    def _drain(self) -> None:
        """Accepts nobody, and answers all who were accepted.

        Each answer says that it is the last of its connection. A client that has one open and is about to send is not
        to find it closed: idle ones are left for a while, and told by the answer to the next request.
        """
        self.status.draining = True
        self._stop_listening()
        begun = time.monotonic()
        while self.active_channels and self._stops == 1 and (since := time.monotonic() - begun) < self.policy.patience:
            self._turn(0.05)
            if since >= IDLE_DRAIN_SECONDS:
                for channel in [channel for channel in self.active_channels.values() if channel.is_idle]:
                    channel.handle_close()

    def _stop_listening(self) -> None:
        """Accepts those who have connected already, and closes the door: who comes later is refused, not left alone."""
        before = -1
        while before < len(self.active_channels) < self.adj.connection_limit:
            before = len(self.active_channels)
            self.handle_accept()
        self.accepting = False
        self.epoll.unregister(self._fileno)
        del self._map[self._fileno]
        self.socket.close()

    def _turn(self, timeout: float) -> None:
        """What has come is read, what is ready starts, what is parked is computed, what is written is sent."""
        if self.now >= self._looked + self.adj.cleanup_interval:
            self.maintenance(self.now)
        self._listen_if_there_is_room()
        is_idle = not (self._ready or self._refused or self.calls.is_busy or self._touched)
        events = self.epoll.poll(self.calls.sleep_at_most(timeout) if is_idle else 0)
        self.now = time.monotonic()
        for fd, flags in events:
            channel = self._map.get(fd)
            if type(channel) is Connection:
                self._touched.add(channel)
            if channel is not None:
                wasyncore.readwrite(channel, flags)
        for _ in range(min(len(self._ready), MAX_STARTED_PER_TURN)):
            self.calls.is_last = len(self._ready) == 1
            channel = self._ready.popleft()
            self._refuse_late(channel)
            self.calls.start(channel.service)
        refusing = max(MAX_REFUSED_PER_TURN, len(self._refused) // 64)
        for _ in range(min(len(self._refused), refusing)):
            self.calls.start(self._refused.popleft().service)
        self.calls.is_last = False  # Those who are woken may share with each other.
        self.calls.proceed()
        touched, self._touched = self._touched, set()
        for channel in touched:
            self._look_after(channel)

    def _refuse_late(self, channel: Connection) -> None:
        """Spares work whose answer nobody waits for."""
        request = channel.requests[0] if channel.requests else None
        if request is None or request.budget is None or request.error is not None:
            return
        if time.monotonic() - request.arrived >= request.budget:
            request.error = CLIENT_TIMEOUT_PASSED

    def _listen_if_there_is_room(self) -> None:
        """Follows the limit of connections."""
        if self.status.draining:
            return
        if self.accepting:
            self._make_room()
        has_room = len(self._map) < self.adj.connection_limit and self.now >= self._accepts_from
        is_listening = self.accepting and has_room
        if is_listening != self._is_listening:
            self._is_listening = is_listening
            self.epoll.modify(self._fileno, select.EPOLLIN if is_listening else 0)

    def _make_room(self) -> None:
        """Near the limit of connections, closes those whose clients have been waited for longest.

        Done between turns only: in one, the next connection might get the number of one whose event is yet to come.
        """
        limit = self._bearable if self.now < self._accepts_from else self.adj.connection_limit
        aim = limit - min(MAX_ACCEPTED_PER_TURN, limit // 100 + 1)
        if len(self._map) <= aim:
            return
        if not self._waited_for and self.now > self._sought + self.deadlines.grace:
            self._seek_waited_for()
        while self._waited_for and len(self._map) > aim:
            since, channel = self._waited_for.popleft()
            if channel.is_open and channel.since == since and not channel.requests:
                channel.drop()

    def _seek_waited_for(self) -> None:
        """Finds the connections where the client's part is missing, the oldest first.

        Done at most once in the time of grace, for no other can be old enough before.
        """
        self._sought = self.now
        latest = self.now - self.deadlines.grace
        channels = self.active_channels.values()
        found = [(channel.since, channel) for channel in channels if channel.since < latest and not channel.requests]
        self._waited_for = deque(sorted(found, key=itemgetter(0)))
        self.logger.warning("All %s connections are taken; %s wait for their clients", len(channels), len(found))

    def maintenance(self, now: float) -> None:
        """Ends the wait for clients that took too long."""
        if now > self._sought + STALL_SECONDS:
            self._waited_for.clear()  # Those that are closed by now hold what they had received.
        since_last, self._looked = now - self._looked, now
        for channel in list(self.active_channels.values()):
            if since_last > STALL_SECONDS:  # That is not the client's fault.
                channel.since += since_last
            channel.look_at_clock(now)

    def _look_after(self, channel: Connection) -> None:
        """Sends what can be sent, and has epoll wait for what the channel now waits for."""
        if channel.is_open and channel.writable() and not channel.events & select.EPOLLOUT:
            channel.handle_write()
        if channel.is_open:
            events = (select.EPOLLIN if channel.readable() else 0) | (select.EPOLLOUT if channel.writable() else 0)
            if events != channel.events:
                channel.events = events
                self.epoll.modify(channel.fileno, events)


class TcpServer(EventLoop, TcpWSGIServer):
    """An engine on a TCP port."""


class UnixServer(EventLoop, UnixWSGIServer):
    """An engine on a Unix socket."""
