"""HTTP request parser: waitress's parser, with a cache of parsed header blocks.

Clients send the same header block again and again, so its parsed form is cached. Only waitress's parser parses a block.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.utilities import BadRequest, Error

from flaskml.server.bounded_cache import BoundedCache
from flaskml.server.direct_requests import DirectHandler, Target
from flaskml.server.error_responses import CLIENT_TIMEOUT_HEADER, client_timeout_seconds
from flaskml.server.http_validation import (
    FIELD_PATTERN,
    FORBIDDEN_BYTES,
    LEADING_EMPTY_LINES,
    RefusedRequest,
    StrictChunkedReceiver,
    collapse_spaces,
    validate_header_block,
)

MAX_CACHED_BLOCKS = 256
"""Header blocks in one generation of the cache. It keeps two, so unusual clients cannot evict the usual blocks."""

MAX_CACHED_BLOCK_BYTES = 2048
"""Bytes of the largest header block that is cached. This and the number of blocks bound the memory of the cache."""

MAX_CACHED_LINES = 1024
"""Known header lines in one generation of the cache; they show which lines of a block are new."""

MAX_NEW_VALUES = 4
"""Header fields of a block that may have new values; proxies add a few ids and timestamps to each request."""

FRAMING_HEADERS = frozenset(
    {
        *(b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection", b"expect", b"upgrade"),
        CLIENT_TIMEOUT_HEADER.lower().replace("_", "-").encode(),
    }
)
"""Header fields that change how the server treats a request; waitress parses each block with a new value of one."""

CACHED_ATTRIBUTES = (
    *("headers", "first_line", "command", "path", "query", "fragment", "version", "request_uri", "url_scheme"),
    *("proxy_scheme", "proxy_netloc", "connection_close", "content_length", "client_timeout_seconds", "is_keep_alive"),
)
"""The attributes of a parser that follow from the header block alone."""

FIELD_LINE = re.compile(FIELD_PATTERN)


def has_close_option(connection: str) -> bool:
    """Return whether a Connection header, with the values of all its lines, has the option `close`.

    Waitress finds the option only if it stands alone.
    """
    return "close" in [option.strip(" \t").lower() for option in connection.split(",")]


class HeaderCache:
    """A bounded cache from header blocks to the parser attributes that they result in.

    A block that differs from a cached one only in the values of a few header fields, such as a request id, is not
    parsed either: the new values are inserted into the cached attributes. That is limited to fields that only pass
    through to the app.
    """

    def __init__(self) -> None:
        self._blocks: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._templates: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._known_lines: BoundedCache[bytes, bool] = BoundedCache(MAX_CACHED_LINES)

    def __len__(self) -> int:
        return len(self._blocks) + len(self._templates)

    def get(self, block: bytes) -> dict[str, Any] | None:
        """Return the parser attributes of the block; None if neither it nor a similar block is cached."""
        attributes: dict[str, Any] | None = self._blocks.get(block)
        if attributes is None and len(block) <= MAX_CACHED_BLOCK_BYTES and (split := self._split(block)) is not None:
            template, new_values = split
            similar = self._templates.get(template)
            return None if similar is None else _with_values(similar, new_values)
        return attributes

    def put(self, block: bytes, attributes: dict[str, Any]) -> None:
        """Cache the parser attributes of a block, unless it is too large."""
        if len(block) > MAX_CACHED_BLOCK_BYTES:
            return
        if (split := self._split(block)) is not None:
            self._templates.put(split[0], attributes)
        self._blocks.put(block, attributes)
        for line in block.split(b"\r\n"):
            self._known_lines.put(line, True)

    def _split(self, block: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
        """Return the block without its new values, and these by field name.

        Returns None if no value is new, more than a few are, or one of them must be parsed.
        """
        lines = block.split(b"\r\n")
        new_values: dict[bytes, bytes] = {}
        for index, line in enumerate(lines):
            if self._known_lines.get(line) is None:
                name, _, value = line.partition(b":")
                is_field = index > 0 and FIELD_LINE.fullmatch(line) is not None and b"_" not in name
                if not is_field or name.lower() in FRAMING_HEADERS or len(new_values) == MAX_NEW_VALUES:
                    return None
                new_values[name] = value
                lines[index] = name + b"\0"  # No cached block contains this byte.
        names = [line.partition(b":")[0].rstrip(b"\0").lower() for line in lines]
        if not new_values or any(names.count(name.lower()) > 1 for name in new_values):
            return None  # The values of a repeated field are joined.
        return b"\r\n".join(lines), new_values


def _with_values(attributes: dict[str, Any], values: dict[bytes, bytes]) -> dict[str, Any]:
    """Return parser attributes with other values of some header fields."""
    new = {
        name.upper().replace(b"-", b"_").decode("latin-1"): value.strip(b" \t").decode("latin-1")
        for name, value in values.items()
    }
    derived = {**attributes, "headers": {**attributes["headers"], **new}}
    derived.pop("direct", None)  # It depends on the values.
    return derived


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

    @classmethod
    def from_complete_request(cls, adj: Adjustments, data: bytes) -> RequestParser | None:
        """Return the request if `data` is exactly one request with a cached header block, else None."""
        body_start = data.find(b"\r\n\r\n") + 4
        attributes = cls.header_cache.get(data[:body_start])
        if attributes is None:
            return None
        if len(data) - body_start != attributes["content_length"] or len(data) >= adj.max_request_body_size:
            return None
        request = cls(adj)
        request.__dict__.update(attributes)
        request.attributes = attributes
        request.body = data[body_start:]
        request.completed = request.headers_finished = True
        return request

    def received(self, data: bytes) -> int:
        """Process bytes of the request; return how many belonged to it, or all once the request is refused."""
        consumed: int = self._received_header(data) if self.body_rcv is None else super().received(data)
        if not (self.error or self.headers_finished) and self._has_forbidden_bytes(len(data)):
            self.error = BadRequest("Invalid header")
        if self.error is None:
            return consumed
        self.completed, self.expect_continue = True, False
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

    def _has_forbidden_bytes(self, new_bytes: int) -> bool:
        """Return whether the unfinished headers, whose last `new_bytes` bytes are new, contain forbidden bytes."""
        return FORBIDDEN_BYTES.search(self.header_plus, max(len(self.header_plus) - new_bytes - 1, 0)) is not None

    def parse_header(self, block: bytes) -> None:
        """Set the attributes that follow from a header block. Raises the errors of waitress's parser."""
        attributes = self.header_cache.get(block)
        if attributes is not None:
            self.__dict__.update(attributes)
            self.attributes = attributes
            if self.content_length:
                self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))
            return
        try:
            validate_header_block(block)
        except RefusedRequest as refused:
            self.error = refused.error
            return
        super().parse_header(collapse_spaces(block))
        if not self.content_length and not self.chunked:
            self.expect_continue = False  # Waitress would wait for a body, and read the next request into this one.
        if self.chunked:
            self.body_rcv = StrictChunkedReceiver(OverflowableBuffer(self.adj.inbuf_overflow))
        self.client_timeout_seconds = client_timeout_seconds(self.headers)
        self.connection_close = self.connection_close or has_close_option(self.headers.get("CONNECTION", ""))
        self.is_keep_alive = self.version == "1.1" and not self.connection_close
        if not self.chunked and not self.expect_continue:
            self.header_cache.put(block, {name: getattr(self, name) for name in CACHED_ATTRIBUTES})

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
            self.body = super().get_body_stream().read()
        return self.body

    def close(self) -> None:
        """Free the body."""
        if self.body_rcv is not None:
            self.body = b""  # The event loop may still try to parse it.
            self.body_rcv.getbuf().close()

    def get_body_stream(self) -> Any:
        """Return the body as a file."""
        return super().get_body_stream() if self.body is None else BytesIO(self.body)
