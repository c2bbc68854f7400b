"""HTTP request parser: waitress's parser, with a cache of parsed header blocks, and limits of bodies by route.

Clients send the same header block again and again, so its parsed form is cached. Only waitress's parser parses a block.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from waitress.adjustments import Adjustments
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from flaskml.server.direct_requests import DirectHandler, Target
from flaskml.server.error_responses import client_timeout_seconds
from flaskml.server.header_cache import HeaderCache
from flaskml.server.http_validation import (
    FORBIDDEN_BYTES,
    LEADING_EMPTY_LINES,
    RefusedRequest,
    StrictChunkedReceiver,
    collapse_spaces,
    validate_header_block,
)
from flaskml.server.request_bodies import BodyLimit, ContentTooLarge, TemporaryStorageFailed

CACHED_ATTRIBUTES = (
    *("headers", "first_line", "command", "path", "query", "fragment", "version", "request_uri", "url_scheme"),
    *("proxy_scheme", "proxy_netloc", "connection_close", "content_length", "client_timeout_seconds", "is_keep_alive"),
)
"""The attributes of a parser that follow from the header block alone."""


def has_close_option(connection: str) -> bool:
    """Return whether a Connection header, with the values of all its lines, has the option `close`.

    Waitress finds the option only if it stands alone.
    """
    return "close" in [option.strip(" \t").lower() for option in connection.split(",")]


class RequestParser(HTTPRequestParser):
    """Waitress's parser, with a cache of header blocks and strict validation (request smuggling, RFC 9112)."""

    header_cache = HeaderCache()
    command = path = ""
    header_plus = b""
    error: Error | None = None
    direct: tuple[object, Any] | None = None
    """The epoch of the direct handler, and the target that it found then for this header block."""

    attributes: dict[str, Any] | None = None
    """The cached attributes of the header block that these attributes were copied from."""

    connection_close = False
    """True if the connection is closed after the response: the client says so, or its version of HTTP does."""

    is_keep_alive = False
    """True if the connection stays open after the response without a Connection header."""

    client_timeout_seconds: float | None = None
    """Seconds that the client waits for the response; None if it does not say."""

    arrived_at = 0.0
    """Time of arrival on the monotonic clock; set only if the client sent a timeout."""

    has_started = False
    """True once more than empty lines have arrived of a request that arrives in parts."""

    body: bytes | None = None
    """The body of a request that arrived in one piece."""

    body_limit: BodyLimit | None = None
    """The largest body; None for a small one."""

    @classmethod
    def from_complete_request(cls, adj: Adjustments, data: bytes) -> RequestParser | None:
        """Return the request if `data` is exactly one request with a cached header block, else None."""
        body_start = data.find(b"\r\n\r\n") + 4
        attributes = cls.header_cache.get(data[:body_start])
        if attributes is None:
            return None
        body_bytes = len(data) - body_start
        if body_bytes != attributes["content_length"] or body_bytes > adj.bodies.max_small_bytes:
            return None
        request = cls(adj)
        request.__dict__.update(attributes)
        request.attributes = attributes
        request.body = data[body_start:]
        request.completed = request.headers_finished = True
        return request

    def received(self, data: bytes) -> int:
        """Process bytes of the request; return how many belonged to it, or all once the request is refused."""
        consumed = self._received_header(data) if self.body_rcv is None else self._received_body(data)
        if not (self.error or self.headers_finished) and self._has_forbidden_bytes(len(data)):
            self.error = BadRequest("Invalid header")
        if self.error is None:
            return consumed
        self.completed, self.expect_continue = True, False
        if self.body_rcv is None:
            self.header_plus = self.header_plus or data  # It shows the method of a request that was not parsed.
        return len(data)

    def _received_header(self, data: bytes) -> int:
        """Process bytes before the body; count leading empty lines across pieces."""
        lead = LEADING_EMPTY_LINES.match(self.header_plus + data)
        if lead is None:
            self.error = BadRequest("Start line is invalid")
            return 0
        start = lead.start("first")
        if start < 0:
            self.header_plus += data
            return len(data)
        skipped = 0
        if start > 0:  # Only empty lines have arrived before these bytes.
            skipped = start - len(self.header_plus)
            self.header_plus = b""
        consumed: int = super().received(data[skipped:])
        return skipped + consumed

    def _received_body(self, data: bytes) -> int:
        """Process bytes of the body; a body with chunked transfer coding is refused once it exceeds its limit."""
        try:
            consumed: int = super().received(data)
        except OSError as error:
            self.error = TemporaryStorageFailed(error)
            return len(data)
        limit = self.body_limit
        if limit is not None and (
            len(self.body_rcv) > limit.max_bytes or isinstance(self.error, RequestEntityTooLarge)
        ):
            self.error = ContentTooLarge(limit)
        return consumed

    def _has_forbidden_bytes(self, new_bytes: int) -> bool:
        """Return whether the unfinished headers, whose last `new_bytes` bytes are new, contain forbidden bytes."""
        return FORBIDDEN_BYTES.search(self.header_plus, max(len(self.header_plus) - new_bytes - 1, 0)) is not None

    def parse_header(self, block: bytes) -> None:
        """Set the attributes that follow from a header block. Raises the errors of waitress's parser."""
        attributes = self.header_cache.get(block)
        if attributes is not None:
            self.__dict__.update(attributes)
            self.attributes = attributes
            self._prepare_for_body()
            return
        try:
            validate_header_block(block)
        except RefusedRequest as refused:
            self.error = refused.error
            return
        super().parse_header(collapse_spaces(block))
        if not self.content_length and not self.chunked:
            self.expect_continue = False  # Waitress would wait for a body, and read the next request into this one.
        self.client_timeout_seconds = client_timeout_seconds(self.headers)
        self.connection_close = self.connection_close or has_close_option(self.headers.get("CONNECTION", ""))
        self.is_keep_alive = self.version == "1.1" and not self.connection_close
        if not self.chunked and not self.expect_continue:
            self.header_cache.put(block, {name: getattr(self, name) for name in CACHED_ATTRIBUTES})
        self._prepare_for_body()

    def _prepare_for_body(self) -> None:
        """Choose the buffer of the body; refuse the request if its Content-Length is above the limit."""
        bodies, length = self.adj.bodies, self.content_length
        if not self.chunked and length <= bodies.max_small_bytes:
            if length:
                self.body_rcv = FixedStreamReceiver(length, bodies.small_buffer())
            return
        limit = self.body_limit = bodies.limits.find(self.command, self.path, self.headers.get("CONTENT_TYPE", ""))
        if length > limit.max_bytes:
            self.body_rcv, self.error = None, ContentTooLarge(limit)
            return
        buffer = bodies.buffer(limit)
        self.body_rcv = StrictChunkedReceiver(buffer) if self.chunked else FixedStreamReceiver(length, buffer)

    @property
    def is_head(self) -> bool:
        """True if the response has no body, because the method is HEAD; also if the request was refused unparsed."""
        return self.command == "HEAD" or self.header_plus.lstrip(b"\r\n").startswith(b"HEAD ")

    @property
    def body_bytes_in_memory(self) -> int:
        """The bytes of a larger body that are charged to the memory of the server."""
        return self.body_rcv.getbuf().charged_bytes if self.body_rcv is not None else 0

    @property
    def missing_bytes_in_memory(self) -> int:
        """The bytes that the memory must take until the body is complete or in a file."""
        buffer, limit = self.body_rcv.getbuf(), self.body_limit
        max_bytes = limit.max_bytes if self.chunked and limit is not None else self.content_length
        return max(int(min(max_bytes, buffer.overflow) - buffer.charged_bytes), 0)

    def find_target(self, handler: DirectHandler) -> Target | None:
        """Return the target of this request if the event loop may answer it, else None.

        The handler decides by header block; its decision is cached with the block.
        """
        direct = self.direct
        if direct is None or direct[0] is not handler.epoch:
            epoch, target = handler.epoch, None
            connection = self.headers.get("CONNECTION", "keep-alive").lower()
            if connection == "keep-alive" and self.version == "1.1" and not self.chunked:
                target = handler.find_target(self.command, self.path, self.query, self.headers)
            direct = (epoch, target)
            if self.attributes is not None:
                self.attributes["direct"] = direct
        return direct[1]

    def is_expired(self, now: float) -> bool:
        """Return whether the client no longer waits for the response. `now` is on the monotonic clock."""
        timeout = self.client_timeout_seconds
        return timeout is not None and now - self.arrived_at >= timeout

    def read_body(self) -> bytes:
        """Return the whole body; `get_body_stream` gives the same bytes afterwards."""
        if self.body is None:
            self.body = b"" if self.body_rcv is None else self.body_rcv.getbuf().take()
        return self.body

    def close(self) -> None:
        """Free the body."""
        if self.body_rcv is not None:
            self.body = b""  # The event loop may still try to parse it.
            self.body_rcv.getbuf().close()

    def get_body_stream(self) -> Any:
        """Return the body as a file."""
        return super().get_body_stream() if self.body is None else BytesIO(self.body)
