"""A channel of waitress that threads serve: the part of a connection that any thread may use.

A thread of a pool serves a request through waitress's own `service`. It changes requests and output buffers under the
channel's locks only, and tells the event loop if there is something left to do.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel

from flaskml.server.connection_owner import ConnectionOwner, ServerOfChannel
from flaskml.server.error_responses import CLIENT_TIMEOUT_PASSED, ErrorResponseTask
from flaskml.server.http_parser import RequestParser
from flaskml.server.wsgi_task import RequestTask

MAX_OUTPUT_BUFFER_BYTES = 2**18
"""Bytes after which a stream continues in a new output buffer. A buffer frees its memory only as a whole."""


class ThreadChannel(HTTPChannel):
    """The requests and output buffers of a connection."""

    parser_class = RequestParser
    task_class = RequestTask
    error_task_class = ErrorResponseTask
    requests: list[Any]
    request: Any = None
    unparsed = b""
    """The bytes that have arrived behind the request that is being served."""

    events = 0
    """The epoll events that the connection is registered for."""

    unread_bytes = 0
    """The bytes of answers in memory that the client has not read; the server counts them together."""

    def __init__(self, server: ConnectionOwner, *args: Any, **kwargs: Any) -> None:
        self._loop = server
        self.sent_bytes = 0
        self._ended_requests = 0

        self._served: Any = None
        """The request that a thread serves."""

        super().__init__(ServerOfChannel(server, self), *args, **kwargs)

    def service(self) -> None:
        """Serve the first request through WSGI, unless its client has stopped waiting for the response."""
        with self.requests_lock:
            if not self.requests:  # The connection was closed.
                return
            request = self._served = self.requests[0]
        if request.error is None and request.is_expired(time.monotonic()):
            request.error = CLIENT_TIMEOUT_PASSED
        try:
            super().service()
        except BaseException:  # Such as SystemExit in a view. Waitress logs it, and would leave the connection open.
            self.will_close = True
            self._loop.request_update(self)
            raise
        finally:
            self._ended_requests += 1
            with self.requests_lock:  # Another thread may already serve the next request.
                if self._served is request:
                    self._served = None

    def drop_requests(self) -> None:
        """Close all requests, the partly received one too, except the one that a thread serves."""
        with self.requests_lock:
            requests, partial, served = self.requests, self.request, self._served
            self.requests, self.request = [request for request in requests if request is served], None
            self.unparsed = b""
        for request in requests if partial is None else (*requests, partial):
            if request is not served:
                request.close()

    def _flush_some(self, do_close: bool = False) -> bool:
        """Send buffered data as far as the socket takes it.

        `send_continue` does not pass `do_close`: it holds `requests_lock`, with which the connection cannot be closed.
        """
        unsent_bytes = self.total_outbufs_len
        is_sent: bool = super()._flush_some(do_close and self._loop.is_own_thread)
        self.sent_bytes += unsent_bytes - self.total_outbufs_len
        if not self.total_outbufs_len and self.outbufs[-1].buf is not None:
            self.outbufs[-1].close()  # It still holds the bytes that were sent.
            self.outbufs[-1] = OverflowableBuffer(self.adj.outbuf_overflow)
            self.current_outbuf_count = 0
        if self.total_outbufs_len or self.unread_bytes:
            self.count_unread_bytes()
        return is_sent

    def count_unread_bytes(self) -> None:
        """Count the unsent bytes that are in memory, not in files, with those of all other connections."""
        buffers = self.outbufs if self.connected else ()
        unread_bytes = sum(len(buffer) for buffer in buffers if not getattr(buffer, "overflowed", True))
        if unread_bytes != self.unread_bytes:
            difference, self.unread_bytes = unread_bytes - self.unread_bytes, unread_bytes
            self._loop.unread_answers.account.change(difference)

    def write_soon(self, data: Any) -> int:
        """Send or buffer a part of an answer. Raises `ClientDisconnected`."""
        if self.current_outbuf_count >= MAX_OUTPUT_BUFFER_BYTES:
            self.current_outbuf_count = self.adj.outbuf_high_watermark  # Waitress begins a new buffer there.
        length: int = super().write_soon(data)
        return length

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Let a thread wait until the client has read enough (backpressure); the event loop never waits."""
        if not self._loop.is_own_thread:
            super()._flush_outbufs_below_high_watermark()

    def send_continue(self) -> None:
        """Send 100 (Continue). Only the event loop closes a connection, so a thread leaves that to it."""
        with self.outbuf_lock:  # The loop closes the socket after it has cleared `connected` under this lock.
            if not self.connected:
                return
            try:
                super().send_continue()
            except OSError:
                self.will_close = True

    @property
    def needs_update(self) -> bool:
        """True if the event loop has to send output, close the connection, or change its epoll events."""
        return bool(
            self.total_outbufs_len
            or self.will_close
            or self.close_when_flushed
            or self.requests
            or self.unparsed
            or self.events != select.EPOLLIN
        )

    @property
    def has_one_request(self) -> bool:
        """True if no further request, not even a part of one, has arrived behind the one that is being served."""
        return len(self.requests) == 1 and not self.has_partial_request and not self._has_unread_input

    @property
    def has_partial_request(self) -> bool:
        """True if a part of a request has arrived; empty lines do not count (RFC 9112, section 2.2)."""
        request = self.request
        is_partial = request is not None and request.has_started
        return is_partial or bool(self.unparsed and not self.unparsed.isspace())

    @property
    def _has_unread_input(self) -> bool:
        connected_socket = self.socket  # None once the loop has closed the connection.
        try:
            return connected_socket is not None and bool(
                connected_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            )
        except OSError:
            return False
