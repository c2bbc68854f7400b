"""A client connection of the event loop: what the loop does with it.

The event loop reads requests and answers direct ones. All others are served by a thread of a pool (`thread_channel`).
`reading_channel` is the receiving half. Epoll events and deadlines change on the loop only, and only the loop closes a
connection.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import Any

from flaskml.server import gil_holding_io
from flaskml.server.connection_owner import ConnectionOwner
from flaskml.server.http_validation import RequestTimeout
from flaskml.server.reading_channel import ReadingChannel

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which the kernel discards unsent data on close and sends the client a TCP reset."""

LINGER_SECONDS = 2.0
"""Seconds for which a lingering close reads and discards input, so that a refused client can read the refusal."""


class Connection(ReadingChannel):
    """A client connection: its requests, its output buffers and its deadlines."""

    def __init__(self, server: ConnectionOwner, *args: Any, **kwargs: Any) -> None:
        self._seen_progress = (0, 0)
        """The numbers of sent bytes and ended requests that the event loop has seen."""

        super().__init__(server, *args, **kwargs)

    def recv(self, buffer_size: int) -> bytes:
        """Return received bytes; none if the connection was closed."""
        if self._loop.is_contended and (data := gil_holding_io.receive(self._fileno)):
            return data
        received: bytes = super().recv(buffer_size)  # It also treats the error, if there was one.
        return received

    def respond(self, response: bytes, *, closes: bool) -> None:
        """Send the response to the first request, which no thread serves, and go on with the next request.

        With `closes`, the response says that it is the last one on the connection.
        """
        self._send_or_buffer(response)
        with self.requests_lock:
            self.requests.pop(0).close()
        self.close_when_flushed = closes
        if self.unparsed:
            self.begin_next_request()
        self.waiting_since = self._loop.now
        if self.needs_update:
            self._loop.schedule_update(self)

    def _send_or_buffer(self, data: bytes) -> None:
        """Send what the socket takes at once if the output buffers are empty; buffer the remainder."""
        if not self.total_outbufs_len:
            sent_bytes = gil_holding_io.send(self._fileno, data) if self._loop.is_contended else 0
            try:
                data = data[sent_bytes or self.send(data, do_close=False) :]
            except OSError:
                self.will_close = True
                return
        if data:
            with self.outbuf_lock:
                self.outbufs[-1].append(data)
                self.current_outbuf_count += len(data)
                self.total_outbufs_len += len(data)
                self.count_unread_bytes()

    def refuse(self) -> None:
        """Answer the first request, which has an error, on the event loop."""
        super().service()
        if self.close_when_flushed:
            self._discarded_bytes = 0
            self.unparsed = b""
        self.begin_next_request()
        self.waiting_since = self._loop.now
        self._loop.schedule_update(self)

    def update(self) -> None:
        """Send what the socket takes, and register with epoll for the events that the connection waits for."""
        if self.is_open and self.writable() and not self.events & select.EPOLLOUT:
            self.handle_write()
        if not self.is_open:
            return
        self.pace_next_request()
        with self.requests_lock:  # A thread that has ended a request reads `events` to know whether to call again.
            events = (select.EPOLLIN if self.readable() else 0) | (select.EPOLLOUT if self.writable() else 0)
            if self.waits_for_memory:
                events |= select.EPOLLRDHUP | select.EPOLLET
            if events != self.events:
                self.events = events
                self._loop.epoll.modify(self._fileno, events)

    def check_deadlines(self, now: float) -> None:
        """Close the connection, or refuse its request, if the client exceeded a deadline; called once a second."""
        self.note_progress(now)
        waited, deadlines = now - self.waiting_since, self._loop.deadlines
        if self._discarded_bytes is not None and not self.total_outbufs_len:
            if waited > LINGER_SECONDS:
                self.handle_close()
        elif self.total_outbufs_len:
            if waited > deadlines.response_seconds:
                self.abort()
        elif self.requests or self.unparsed:
            self.waiting_since = now  # The client waits for the server.
        elif not self.has_partial_request:
            if waited > self.adj.channel_timeout:
                self.handle_close()
        elif self.waits_for_memory:
            pass  # The client waits for the server.
        elif waited > deadlines.request_limit_seconds(self.request.body_bytes_received):
            self.refuse_partial_request(RequestTimeout("The request did not arrive completely in time"))

    @property
    def holds_thread(self) -> bool:
        """True if a thread waits until the client has read enough (backpressure)."""
        return bool(self.requests) and self.total_outbufs_len > self.adj.outbuf_high_watermark

    def note_progress(self, now: float) -> None:
        """Restart the deadline if a thread has sent output or ended a request since the last call."""
        progress = (self.sent_bytes, self._ended_requests)
        if progress != self._seen_progress:
            self._seen_progress = progress
            self.waiting_since = now

    def abort(self) -> None:
        """Close the connection and discard unsent data, in the kernel's buffers too."""
        if self.total_outbufs_len:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.handle_close()

    def handle_write(self) -> None:
        """Send what the socket takes."""
        if self._discarded_bytes is not None and self.close_when_flushed:
            self._flush_exception(self._flush_some, do_close=False)
            if not self.total_outbufs_len and not self.will_close:
                self._begin_lingering_close()
        if self._discarded_bytes is None or self.will_close:
            super().handle_write()

    def handle_close(self) -> None:
        """Close the connection, and free its requests at once, as far as no thread uses them."""
        super().handle_close()
        self.count_unread_bytes()
        self.drop_requests()
        if self.is_receiving_body:
            self._loop.body_admission.forget(self)

    def _begin_lingering_close(self) -> None:
        """Close the sending half only (RFC 9112, section 9.6).

        If the socket were closed, bytes that the client still sends would cause a TCP reset, and the client would lose
        the response.
        """
        self.close_when_flushed = False
        self.waiting_since = self._loop.now
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.handle_close()

    @property
    def is_idle(self) -> bool:
        """True if the connection has no unanswered request, no unsent data and no lingering close."""
        has_work = self.requests or self.has_partial_request or self.total_outbufs_len
        return not has_work and self._discarded_bytes is None

    @property
    def is_open(self) -> bool:
        """True until the socket is closed."""
        return self._fileno is not None

    def add_channel(self, map: Any = None) -> None:
        """Register the connection with the event loop and with epoll, for reading."""
        super().add_channel(map)
        self.events = select.EPOLLIN
        self._loop.epoll.register(self._fileno, self.events)

    def del_channel(self, map: Any = None) -> None:
        """Unregister the connection from epoll and from the event loop."""
        if self.is_open:
            # Closing a descriptor removes it from epoll only once no process holds it, and a child that was just forked
            # may hold it. Its event would then close the next connection, which gets the same descriptor number.
            with suppress(OSError, ValueError):  # The socket is closed next, even if epoll reports an error.
                self._loop.epoll.unregister(self._fileno)
        super().del_channel(map)
        self._loop.cancel_update(self)
