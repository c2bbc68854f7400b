"""From bytes to a WSGI environment, as waitress does it, with less done twice.

Clients send the same block of headers again and again, so what a block means is kept. Waitress alone parses it.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.task import rename_headers
from waitress.utilities import BadRequest, Error

from flaskml.server.bounded_cache import BoundedCache
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
"""Blocks of headers of one generation; two are kept, so that odd clients cannot push out the usual ones at once."""

MAX_CACHED_BLOCK_BYTES = 2048
"""Bytes of the largest block that is kept: what is kept is bounded by this and the number."""

MAX_CACHED_LINES = 1024
"""Lines of blocks of one generation, by which it is seen what is new in a block."""

MAX_NEW_VALUES = 4
"""Headers of a block whose values may be new; proxies add a few ids and times to each request."""

FRAMING_HEADERS = frozenset(
    {
        *(b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection", b"expect", b"upgrade"),
        CLIENT_TIMEOUT_HEADER.lower().replace("_", "-").encode(),
    }
)
"""Headers by which it is decided how a request is read; a new value of one is parsed by waitress."""

FIELD_LINE = re.compile(FIELD_PATTERN)


class HeaderCache:
    """What blocks of headers mean, those seen lately.

    Of a block in which only the values of a few headers are new, such as the id of the request, it is known from the
    last one of its kind: these values are put in their places. That is so of headers alone that change nothing but
    what the app is told.
    """

    def __init__(self) -> None:
        self._whole: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._kinds: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._lines: BoundedCache[bytes, bool] = BoundedCache(MAX_CACHED_LINES)

    def __len__(self) -> int:
        return len(self._whole) + len(self._kinds)

    def get(self, block: bytes) -> dict[str, Any] | None:
        """What the block means, if it or its like was seen."""
        meaning: dict[str, Any] | None = self._whole.get(block)
        if meaning is None and len(block) <= MAX_CACHED_BLOCK_BYTES and (split := self._split(block)) is not None:
            kind, values = split
            like = self._kinds.get(kind)
            return None if like is None else _with(like, values)
        return meaning

    def put(self, block: bytes, meaning: dict[str, Any]) -> None:
        """Keeps what a block was found to mean, if it is not too large."""
        if len(block) > MAX_CACHED_BLOCK_BYTES:
            return
        if (split := self._split(block)) is not None:
            self._kinds.put(split[0], meaning)
        self._whole.put(block, meaning)
        for line in block.split(b"\r\n"):
            self._lines.put(line, True)

    def _split(self, block: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
        """The block without the values that are new, and these by name; None if more than a few are, or they matter."""
        lines = block.split(b"\r\n")
        values: dict[bytes, bytes] = {}
        for index, line in enumerate(lines):
            if self._lines.get(line) is None:
                name, _, value = line.partition(b":")
                is_plain = index > 0 and FIELD_LINE.fullmatch(line) is not None and b"_" not in name
                if not is_plain or name.lower() in FRAMING_HEADERS or len(values) == MAX_NEW_VALUES:
                    return None
                values[name] = value
                lines[index] = name + b"\0"  # As no block that is kept can have it.
        names = [line.partition(b":")[0].rstrip(b"\0").lower() for line in lines]
        if not values or any(names.count(name.lower()) > 1 for name in values):
            return None  # Where a name comes twice, its values are joined.
        return b"\r\n".join(lines), values


def _with(meaning: dict[str, Any], values: dict[bytes, bytes]) -> dict[str, Any]:
    """The meaning with other values of some headers."""
    names = {name.upper().replace(b"-", b"_").decode("latin-1"): value for name, value in values.items()}
    new = {name: value.strip(b" \t").decode("latin-1") for name, value in names.items()}
    environ = {**meaning["environ"], **{rename_headers.get(name, f"HTTP_{name}"): value for name, value in new.items()}}
    return {**meaning, "headers": {**meaning["headers"], **new}, "environ": environ}


class RequestParser(HTTPRequestParser):
    """Waitress's parser, which asks what is kept before it parses."""

    blocks = HeaderCache()
    command = path = ""
    header_plus = b""
    error: Error | None = None
    environ: dict[str, str] | None = None
    """What the headers and the first line say, as a WSGI environment has it."""

    stays_open = False
    """Whether the connection may stay open after the answer, without a word about it."""

    budget: float | None = None
    """Seconds from its arrival after which nobody waits for the answer."""

    arrived = 0.0
    """When it arrived, on the monotonic clock, if it has a budget."""
    has_begun = False
    """Whether more of it has come than empty lines, of a request that comes in parts."""

    body: bytes | None = None
    """The body, of a request that came in one piece."""

    @classmethod
    def whole(cls, adj: Adjustments, data: bytes) -> RequestParser | None:
        """The request that the data is, no more and no less, if its block of headers is one that is kept."""
        end = data.find(b"\r\n\r\n") + 4
        meaning = cls.blocks.get(data[:end])
        if meaning is None or len(data) - end != meaning["content_length"] or len(data) >= adj.max_request_body_size:
            return None
        request = cls(adj)
        request.__dict__.update(meaning)
        request.body = data[end:]
        request.completed = request.headers_finished = True
        return request

    def received(self, data: bytes) -> int:
        """Takes in what belongs to the request, and returns how many bytes that was; all, once it is refused."""
        taken: int = self._received_in_headers(data) if self.body_rcv is None else super().received(data)
        if not (self.error or self.headers_finished) and self._cannot_end_well(len(data)):
            self.error = BadRequest("Invalid header")
        if self.error is None:
            return taken
        self.completed, self.expect_continue = True, False
        return len(data)

    def _received_in_headers(self, data: bytes) -> int:
        """The same before a body; the empty lines before a request are counted in whatever pieces they come."""
        lead = LEADING_EMPTY_LINES.match(self.header_plus + data)
        if lead is None:
            self.error = BadRequest("Start line is invalid")
            return 0
        start = lead.start("first")
        if start < 0:
            self.header_plus += data
            return len(data)
        passed_over = 0
        if start > 0:  # Only empty lines have come before these data.
            passed_over = start - len(self.header_plus)
            self.header_plus = b""
        taken: int = super().received(data[passed_over:])
        return passed_over + taken

    def _cannot_end_well(self, new: int) -> bool:
        """Whether the headers, of which so many bytes are new, have in them what none may have."""
        return FORBIDDEN_BYTES.search(self.header_plus, max(len(self.header_plus) - new - 1, 0)) is not None

    def parse_header(self, block: bytes) -> None:
        """Sets what the block of headers says, raising what waitress raises."""
        meaning = self.blocks.get(block)
        if meaning is not None:
            self.__dict__.update(meaning)
            if self.content_length:
                self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))
            return
        try:
            validate_header_block(block)
        except RefusedRequest as refused:
            self.error = refused.error
            return
        super().parse_header(collapse_spaces(block))
        if self.chunked:
            self.body_rcv = StrictChunkedReceiver(OverflowableBuffer(self.adj.inbuf_overflow))
        self.environ = self._environ()
        self.budget = client_timeout_seconds(self.headers)
        self.stays_open = self.version == "1.1" and self.headers.get("CONNECTION", "").lower() != "close"
        if not self.chunked and not self.expect_continue:
            own = ("adj", "body_rcv", "header_plus", "header_bytes_received")
            self.blocks.put(block, {name: value for name, value in vars(self).items() if name not in own})

    def _environ(self) -> dict[str, str]:
        headers = {rename_headers.get(name, f"HTTP_{name}"): value for name, value in self.headers.items()}
        path: str = self.path
        return {
            **headers,
            "REQUEST_METHOD": self.command.upper(),
            "SERVER_PROTOCOL": f"HTTP/{self.version}",
            "PATH_INFO": "/" + path.lstrip("/") if path.startswith("/") else path,
            "REQUEST_URI": self.request_uri,
            "QUERY_STRING": self.query,
            "wsgi.url_scheme": self.url_scheme,
        }

    def get_body_stream(self) -> Any:
        """The body as a file."""
        return super().get_body_stream() if self.body is None else BytesIO(self.body)
