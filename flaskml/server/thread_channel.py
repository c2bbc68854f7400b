"""A channel of waitress that threads serve: the part of a connection that any thread may use.

A thread of a pool serves a request through waitress's own `service`. It changes requests and output buffers under the
channel's locks only, and tells the event loop if there is something left to do.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Any

from waitress.channel import HTTPChannel

from flaskml.server.connection_owner import ConnectionOwner, ServerOfChannel
from flaskml.server.error_responses import CLIENT_TIMEOUT_PASSED, ErrorResponseTask
from flaskml.server.http_parser import RequestParser
from flaskml.server.wsgi_task import RequestTask


class ThreadChannel(HTTPChannel):
    """The requests and output buffers of a connection."""

    parser_class = RequestParser
    task_class = RequestTask
    error_task_class = ErrorResponseTask
    request: Any = None
    events = 0
    """The epoll events that the connection is registered for."""

    def __init__(self, server: ConnectionOwner, *args: Any, **kwargs: Any) -> None:
        self._loop = server
        self._progress = 0
        """Number of times that output was sent or a request ended."""

        super().__init__(ServerOfChannel(server, self), *args, **kwargs)

    def service(self) -> None:
        """Serve the first request through WSGI, unless its client has stopped waiting for the response."""
        request = self.requests[0]
        if request.error is None and request.is_expired(time.monotonic()):
            request.error = CLIENT_TIMEOUT_PASSED
        try:
            super().service()
        except BaseException:  # Such as SystemExit in a view. Waitress logs it, and would leave the connection open.
            self.will_close = True
            self._loop.request_update(self)
            raise
        finally:
            self._progress += 1

    def _flush_some(self, do_close: bool = True) -> bool:
        """Send buffered data as far as the socket takes it."""
        is_sent: bool = super()._flush_some(do_close and self._loop.is_own_thread)
        self._progress += is_sent
        return is_sent

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
            or self.events != select.EPOLLIN
        )

    @property
    def has_one_request(self) -> bool:
        """True if no further request, not even a part of one, has arrived behind the one that is being served."""
        return len(self.requests) == 1 and self.request is None and not self._has_unread_input

    @property
    def _has_unread_input(self) -> bool:
        connected_socket = self.socket  # None once the loop has closed the connection.
        try:
            return connected_socket is not None and bool(
                connected_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            )
        except OSError:
            return False
