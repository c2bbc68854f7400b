"""A connection of the engine: waitress's channel on one thread, where nobody waits by holding the thread up."""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from waitress.channel import HTTPChannel

from flaskml.server import error_responses as refusals
from flaskml.server.deadlines import Deadlines
from flaskml.server.greenlets import Greenlets
from flaskml.server.http_parser import RequestParser
from flaskml.server.http_validation import RequestTimeout
from flaskml.server.wsgi_task import RequestTask, environ_template

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""With SO_LINGER, has the kernel forget what was not sent when the connection closes, and say so to the client."""


LINGER_SECONDS = 2.0
"""For how long what a refused client still sends is read and dropped, so that it gets to read the refusal."""

LINGER_BYTES = 64 * 2**20
"""How much of it; a client that was told so and sends more is cut off."""


class ConnectionOwner(Protocol):
    """The part of the event loop that a connection uses."""

    now: float
    deadlines: Deadlines
    epoll: Any
    calls: Greenlets

    def add_task(self, channel: Any) -> None:
        """Takes in that the connection has a request to serve, or to refuse."""

    def touch(self, channel: Any) -> None:
        """Takes in that the connection may wait for other events."""

    def forget(self, channel: Any) -> None:
        """Takes in that the connection is about to be closed."""


class NoLock:
    """Stands in for the locks of a channel, which only one thread ever uses."""

    def __enter__(self) -> None:
        """Always at once."""

    def __exit__(self, *_: object) -> None:
        """Nothing was held."""

    def acquire(self, *_: object) -> bool:
        """Always at once."""
        return True

    def release(self) -> None:
        """Nothing was held."""

    def notify(self) -> None:
        """Who waits for room asks for it with `Channel.wait_for_room`."""


class Connection(HTTPChannel):
    """One connection."""

    parser_class = RequestParser
    task_class = RequestTask
    error_task_class = refusals.ErrorResponseTask
    request: Any = None
    events = 0
    """What the loop is told of: the flags of epoll."""

    def __init__(self, server: ConnectionOwner, *arguments: Any, **named: Any) -> None:
        self._in_need_of_room: greenlet | None = None
        self._dropped: int | None = None
        super().__init__(server, *arguments, **named)
        self.requests_lock = self.outbuf_lock = NoLock()
        self.template = environ_template(self)
        self.since = server.now
        """Since when the client is waited for, by the clock of the loop."""

    def received(self, data: bytes) -> bool:
        """Takes in what was read; most often that is a request, no more and no less."""
        if self._dropped is not None:
            return self._drop(data)
        if self.request is None and not (self.will_close or self.close_when_flushed):
            request = self.parser_class.whole(self.adj, data)
            if request is not None:
                self.sent_continue = False
                self.requests.append(request)
                if len(self.requests) == 1:
                    self.server.add_task(self)
                return True
        return self._received_in_part(data)

    def _received_in_part(self, data: bytes) -> bool:
        found: bool = super().received(data)
        request = self.request
        if request is not None and not request.has_begun and (request.headers_finished or request.header_plus.strip()):
            request.has_begun = True
            self.since = self.server.now
        return found

    def write_soon(self, data: Any) -> int:
        """Sends what it can at once if nothing waits before it, and keeps the rest for later."""
        if self.total_outbufs_len or type(data) is not bytes or not self.connected:
            kept: int = super().write_soon(data)
            return kept
        try:
            sent = self.send(data, do_close=False)
        except OSError:
            self.will_close = True
            return len(data)
        if sent < len(data):
            super().write_soon(data[sent:])
        return len(data)

    def service(self) -> None:
        """Executes one request, and sends what can be sent of the answer."""
        refused = self.requests[0].error is not None
        super().service()
        if refused and self.close_when_flushed:
            self._dropped = 0
        self.since = self.server.now
        self.server.touch(self)

    def look_at_clock(self, now: float) -> None:
        """Ends the wait for the client if it took too long, which is looked at once a second."""
        waited, deadlines = now - self.since, self.server.deadlines
        if self._dropped is not None and not self.total_outbufs_len:
            if waited > LINGER_SECONDS:
                self.handle_close()
        elif self.total_outbufs_len:
            if waited > deadlines.answer:
                self.drop()
        elif self.requests:
            self.since = now  # It is the client who waits.
        elif self.request is None or not self.request.has_begun:
            if waited > self.adj.channel_timeout:
                self.handle_close()
        elif waited > deadlines.of_request(self.request.body_bytes_received):
            self._refuse_to_wait()

    def _refuse_to_wait(self) -> None:
        request, self.request = self.request, None
        request.error = RequestTimeout("The request took too long to come")
        self.requests.append(request)
        self.server.add_task(self)

    def drop(self) -> None:
        """Closes the connection; what the client did not read is forgotten, by the kernel too."""
        if self.total_outbufs_len:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.handle_close()

    def handle_write(self) -> None:
        """Sends what can be sent, and lets a call go on that waited for room."""
        if self._dropped is not None and self.close_when_flushed:
            self._flush_exception(self._flush_some, do_close=False)
            if not self.total_outbufs_len and not self.will_close:
                self._linger()
        if self._dropped is None or self.will_close:
            super().handle_write()
        self._give_room()

    def _linger(self) -> None:
        """Closes the one half of the connection. Closed whole, it would be reset by what the client still sends."""
        self.close_when_flushed = False
        self.since = self.server.now
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def _drop(self, data: bytes) -> bool:
        self._dropped = (self._dropped or 0) + len(data)
        if self._dropped > LINGER_BYTES:
            self.handle_close()
        return False

    def handle_close(self) -> None:
        """Closes the connection; a call that waits for room learns of it when it goes on."""
        super().handle_close()
        self._give_room()

    def _flush_some(self, do_close: bool = True) -> bool:
        """Sends what was kept, as far as the client has room for it, and notes when that was."""
        sent: bool = super()._flush_some(do_close)
        if sent:
            self.since = self.server.now
        return sent

    def _give_room(self) -> None:
        worker = self._in_need_of_room
        if worker is not None and (not self.connected or self.total_outbufs_len <= self.adj.outbuf_high_watermark):
            self._in_need_of_room = None
            self.server.calls.wake(worker)

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Lets others run until the client has read enough. Waitress would hold up the thread, which is everybody's."""
        while self.connected and self.total_outbufs_len > self.adj.outbuf_high_watermark:
            self._flush_exception(self._flush_some, do_close=False)
            if self.will_close or self.total_outbufs_len <= self.adj.outbuf_high_watermark:
                return
            self._in_need_of_room = getcurrent()
            self.server.touch(self)
            self.server.calls.park()

    @property
    def has_one_request(self) -> bool:
        """Whether nothing has come behind the request that is being served, not even a part of another one."""
        return len(self.requests) == 1 and self.request is None

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked that is not answered, and nothing is left to send."""
        return not self.requests and self.request is None and not self.total_outbufs_len and self._dropped is None

    @property
    def is_open(self) -> bool:
        """Whether the connection still has a socket."""
        return self._fileno is not None

    @property
    def fileno(self) -> int:
        """The descriptor of the socket."""
        found: int = self._fileno
        return found

    def add_channel(self, map: Any = None) -> None:
        """Has the loop read from the connection."""
        super().add_channel(map)
        self.events = select.EPOLLIN
        self.server.epoll.register(self._fileno, self.events)

    def del_channel(self, map: Any = None) -> None:
        """Has the loop forget the connection."""
        if self.is_open:
            # Epoll forgets it by itself only once no process holds it, and one that was forked just now may; the next
            # connection, which gets the same number, would be closed in its place.
            with suppress(OSError, ValueError):  # Whatever it says, the socket is to be closed.
                self.server.epoll.unregister(self._fileno)
        super().del_channel(map)
        self.server.forget(self)
