"""A client connection of the event loop: waitress's channel without threads.

A greenlet that writes to a slow client yields to the event loop (backpressure) instead of blocking its thread.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import Any, Protocol

from greenlet import getcurrent, greenlet
from waitress.channel import HTTPChannel

from flaskml.server.error_responses import ErrorResponseTask
from flaskml.server.greenlets import Greenlets
from flaskml.server.http_parser import RequestParser
from flaskml.server.http_validation import RequestTimeout
from flaskml.server.policy import Deadlines
from flaskml.server.wsgi_task import RequestTask, environ_template

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which the kernel discards unsent data on close and sends the client a TCP reset."""


LINGER_SECONDS = 2.0
"""Seconds for which a lingering close reads and discards input, so that a refused client can read the refusal."""

LINGER_BYTES = 64 * 2**20
"""Bytes that a lingering close discards; the connection of a client that sends more is closed."""


class ConnectionOwner(Protocol):
    """The part of the event loop that a connection uses."""

    now: float
    deadlines: Deadlines
    epoll: Any
    calls: Greenlets

    def add_task(self, channel: Any) -> None:
        """Queue the connection, which has a request to serve or to refuse."""

    def schedule_update(self, channel: Any) -> None:
        """Schedule an update of the events that the connection waits for."""

    def cancel_update(self, channel: Any) -> None:
        """Cancel the scheduled update of a connection that is about to be closed."""


class NoLock:
    """A replacement for the locks of waitress's channel, which only one thread uses here."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def acquire(self, *_: object) -> bool:
        """Return True at once."""
        return True

    def release(self) -> None:
        """Do nothing."""

    def notify(self) -> None:
        """Do nothing: `Connection` itself wakes the greenlet that waits for buffer space."""


class Connection(HTTPChannel):
    """A client connection: its requests, its output buffers and its deadlines."""

    parser_class = RequestParser
    task_class = RequestTask
    error_task_class = ErrorResponseTask
    request: Any = None
    events = 0
    """The epoll events that the connection is registered for."""

    def __init__(self, server: ConnectionOwner, *args: Any, **kwargs: Any) -> None:
        self._blocked_writer: greenlet | None = None
        """The greenlet that waits for the output buffers to fall below the high watermark."""

        self._discarded_bytes: int | None = None
        """Bytes of input discarded during a lingering close; None if there is none."""

        super().__init__(server, *args, **kwargs)
        self.requests_lock = self.outbuf_lock = NoLock()
        self.environ_template = environ_template(self)
        self.waiting_since = server.now
        """Time since which the server waits for the client, on the clock of the event loop."""

    def received(self, data: bytes) -> bool:
        """Process received bytes, most often exactly one complete request; return whether they were used."""
        if self._discarded_bytes is not None:
            return self._discard(data)
        if self.request is None and not (self.will_close or self.close_when_flushed):
            request = self.parser_class.from_complete_request(self.adj, data)
            if request is not None:
                self.sent_continue = False
                self.requests.append(request)
                if len(self.requests) == 1:
                    self.server.add_task(self)
                return True
        return self._received_partial(data)

    def _received_partial(self, data: bytes) -> bool:
        was_used: bool = super().received(data)
        request = self.request
        has_bytes = request is not None and (request.headers_finished or request.header_plus.strip())
        if has_bytes and not request.has_started:
            request.has_started = True
            self.waiting_since = self.server.now
        return was_used

    def write_soon(self, data: Any) -> int:
        """Send what the socket takes at once if the output buffers are empty; buffer the remainder."""
        if self.total_outbufs_len or type(data) is not bytes or not self.connected:
            buffered_bytes: int = super().write_soon(data)
            return buffered_bytes
        try:
            sent_bytes = self.send(data, do_close=False)
        except OSError:
            self.will_close = True
            return len(data)
        if sent_bytes < len(data):
            super().write_soon(data[sent_bytes:])
        return len(data)

    def service(self) -> None:
        """Serve or refuse the first request, and schedule the sending of the response."""
        is_refused = self.requests[0].error is not None
        super().service()
        if is_refused and self.close_when_flushed:
            self._discarded_bytes = 0
        self.waiting_since = self.server.now
        self.server.schedule_update(self)

    def check_deadlines(self, now: float) -> None:
        """Close the connection, or refuse its request, if the client exceeded a deadline; called once a second."""
        waited, deadlines = now - self.waiting_since, self.server.deadlines
        if self._discarded_bytes is not None and not self.total_outbufs_len:
            if waited > LINGER_SECONDS:
                self.handle_close()
        elif self.total_outbufs_len:
            if waited > deadlines.response_seconds:
                self.abort()
        elif self.requests:
            self.waiting_since = now  # The client waits for the server.
        elif self.request is None or not self.request.has_started:
            if waited > self.adj.channel_timeout:
                self.handle_close()
        elif waited > deadlines.request_limit_seconds(self.request.body_bytes_received):
            self._refuse_slow_request()

    def _refuse_slow_request(self) -> None:
        """Answer 408 to a request that is not complete within its deadline (a slow client)."""
        request, self.request = self.request, None
        request.error = RequestTimeout("The request did not arrive completely in time")
        self.requests.append(request)
        self.server.add_task(self)

    def abort(self) -> None:
        """Close the connection and discard unsent data, in the kernel's buffers too."""
        if self.total_outbufs_len:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.handle_close()

    def handle_write(self) -> None:
        """Send what the socket takes, and wake a writer for which there is buffer space again."""
        if self._discarded_bytes is not None and self.close_when_flushed:
            self._flush_exception(self._flush_some, do_close=False)
            if not self.total_outbufs_len and not self.will_close:
                self._begin_lingering_close()
        if self._discarded_bytes is None or self.will_close:
            super().handle_write()
        self._wake_blocked_writer()

    def _begin_lingering_close(self) -> None:
        """Close the sending half only (RFC 9112, section 9.6).

        If the socket were closed, bytes that the client still sends would cause a TCP reset, and the client would lose
        the response.
        """
        self.close_when_flushed = False
        self.waiting_since = self.server.now
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    def _discard(self, data: bytes) -> bool:
        self._discarded_bytes = (self._discarded_bytes or 0) + len(data)
        if self._discarded_bytes > LINGER_BYTES:
            self.handle_close()
        return False

    def handle_close(self) -> None:
        """Close the connection, and wake a writer that waits for buffer space; it then finds the connection closed."""
        super().handle_close()
        self._wake_blocked_writer()

    def _flush_some(self, do_close: bool = True) -> bool:
        """Send buffered data as far as the socket takes it; if any was sent, restart the deadline."""
        is_sent: bool = super()._flush_some(do_close)
        if is_sent:
            self.waiting_since = self.server.now
        return is_sent

    def _wake_blocked_writer(self) -> None:
        writer = self._blocked_writer
        if writer is not None and (not self.connected or self.total_outbufs_len <= self.adj.outbuf_high_watermark):
            self._blocked_writer = None
            self.server.calls.wake(writer)

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Yield to the event loop until the client has read enough (backpressure).

        Waitress would block the thread here, which all connections share.
        """
        while self.connected and self.total_outbufs_len > self.adj.outbuf_high_watermark:
            self._flush_exception(self._flush_some, do_close=False)
            if self.will_close or self.total_outbufs_len <= self.adj.outbuf_high_watermark:
                return
            self._blocked_writer = getcurrent()
            self.server.schedule_update(self)
            self.server.calls.park()

    @property
    def has_one_request(self) -> bool:
        """True if no further request, not even a part of one, has arrived behind the one that is being served."""
        return len(self.requests) == 1 and self.request is None

    @property
    def is_idle(self) -> bool:
        """True if the connection has no unanswered request, no unsent data and no lingering close."""
        has_work = self.requests or self.request is not None or self.total_outbufs_len
        return not has_work and self._discarded_bytes is None

    @property
    def is_open(self) -> bool:
        """True until the socket is closed."""
        return self._fileno is not None

    @property
    def fileno(self) -> int:
        """The file descriptor of the socket."""
        descriptor: int = self._fileno
        return descriptor

    def add_channel(self, map: Any = None) -> None:
        """Register the connection with the event loop and with epoll, for reading."""
        super().add_channel(map)
        self.events = select.EPOLLIN
        self.server.epoll.register(self._fileno, self.events)

    def del_channel(self, map: Any = None) -> None:
        """Unregister the connection from epoll and from the event loop."""
        if self.is_open:
            # Closing a descriptor removes it from epoll only once no process holds it, and a child that was just forked
            # may hold it. Its event would then close the next connection, which gets the same descriptor number.
            with suppress(OSError, ValueError):  # The socket is closed next, even if epoll reports an error.
                self.server.epoll.unregister(self._fileno)
        super().del_channel(map)
        self.server.cancel_update(self)
