"""A channel that reads one request at a time: the receiving half of a connection, for the thread of the event loop.

Waitress parses all requests that have arrived, and a client may send two thousand in one packet (pipelining). Here, the
bytes behind a request wait until it is answered and the answer is sent.
"""

from __future__ import annotations

import fcntl
import sys
import termios
from typing import Any

from flaskml.server.connection_owner import ConnectionOwner
from flaskml.server.thread_channel import ThreadChannel

LINGER_BYTES = 64 * 2**20
"""Bytes that a lingering close discards; the connection of a client that sends more is closed."""


class ReadingChannel(ThreadChannel):
    """The requests that arrive on a connection."""

    is_receiving_body = False
    """True if a part of a body that is charged to the memory of the server has arrived."""

    waits_for_memory = False
    """True while the rest of the body is not read, because bodies fill the memory of the server."""

    _is_paced = False
    """True while the next request waits for its time."""

    def __init__(self, server: ConnectionOwner, *args: Any, **kwargs: Any) -> None:
        self._discarded_bytes: int | None = None
        """Bytes of input discarded during a lingering close; None if there is none."""

        super().__init__(server, *args, **kwargs)
        self.waiting_since = server.now
        """Time since which the server waits for the client, on the clock of the event loop."""

    def readable(self) -> bool:
        """Return whether the loop may read: no request has arrived, no answer is unsent, and no body waits."""
        return not (
            self.requests
            or self.unparsed
            or self.total_outbufs_len
            or self.will_close
            or self.close_when_flushed
            or self.waits_for_memory
        )

    def received(self, data: bytes) -> bool:
        """Process received bytes, most often exactly one complete request; return whether they were used."""
        if self._discarded_bytes is not None:
            return self._discard(data)
        if self.request is None and not (self.will_close or self.close_when_flushed):
            request = self.parser_class.from_complete_request(self.adj, data)
            if request is not None:
                self.sent_continue = False
                with self.requests_lock:  # A thread that has ended a request may still look for the next one.
                    self.requests.append(request)
                self._loop.add_task(self)
                return True
        return self._receive(data)

    def _receive(self, data: bytes) -> bool:
        """Process received bytes up to the end of a request; return whether they were used."""
        with self.requests_lock:
            while data and not (self.requests or self.will_close or self.close_when_flushed):
                data = data[self._parse(data) :]
            is_used = bool(self.requests) or not data
            self.unparsed = data if self.requests else b""
        request = self.request
        has_bytes = request is not None and (request.headers_finished or request.header_plus.strip())
        if has_bytes and not request.has_started:
            request.has_started = True
            self.waiting_since = self._loop.now
        if self.is_receiving_body or self.received_body_bytes:
            self._loop.body_admission.note(self, self._loop.now)
        self._loop.schedule_update(self)
        return is_used

    def _parse(self, data: bytes) -> int:
        """Process bytes of one request; return how many belonged to it."""
        if self.request is None:
            self.request = self.parser_class(self.adj)
        request = self.request
        consumed: int = request.received(data)
        if request.expect_continue and request.headers_finished and not self.sent_continue:
            self.send_continue()
        if request.completed:
            self.request, self.sent_continue = None, False
            if not request.empty:
                self.requests.append(request)
                self._loop.add_task(self)
        return consumed

    @property
    def received_body_bytes(self) -> int:
        """The bytes of the partly received body that are charged to the memory of the server."""
        return 0 if self.request is None else self.request.body_bytes_in_memory

    @property
    def missing_body_bytes(self) -> int:
        """The bytes that the memory must take until the body is complete or in a file."""
        return 0 if self.request is None else self.request.missing_bytes_in_memory

    def close_if_abandoned(self) -> None:
        """Close the connection if its client sends no more, and the rest of the body has not arrived."""
        unread_bytes = int.from_bytes(fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4)), sys.byteorder)
        receiver = self.request.body_rcv if self.request is not None else None
        if receiver is not None and unread_bytes < getattr(receiver, "remain", 1):
            self.handle_close()

    def refuse_partial_request(self, error: Any) -> None:
        """Answer the partly received request with an error, and free its body."""
        request, self.request = self.request, None
        request.error = error
        request.close()
        self._loop.body_admission.forget(self)
        with self.requests_lock:
            self.requests.append(request)
        self._loop.add_task(self)

    def begin_next_request(self) -> None:
        """Read the next request from the bytes that have arrived, once the previous answer is sent (backpressure)."""
        self._is_paced = False
        if self.unparsed and not self.requests and not self.total_outbufs_len:
            data, self.unparsed = self.unparsed, b""
            self._receive(data)

    def pace_next_request(self) -> None:
        """Let the next request begin a little later, if its bytes have arrived."""
        if self.unparsed and not (self.requests or self.total_outbufs_len or self._is_paced):
            self._is_paced = True
            self._loop.pipelined.add(self, self._loop.now)

    def _discard(self, data: bytes) -> bool:
        self._discarded_bytes = (self._discarded_bytes or 0) + len(data)
        if self._discarded_bytes > LINGER_BYTES:
            self.handle_close()
        return False
