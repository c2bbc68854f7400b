"""From bytes to a WSGI environment, as waitress does it, with less done twice.

Clients send the same block of headers again and again, so what a block means is kept. Waitress alone parses it.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.task import rename_headers
from waitress.utilities import BadRequest

from flaskml.serving.refusals import budget
from flaskml.serving.strict import LEAD, NEVER, Chunks, Refused, check, trimmed

BLOCKS_KEPT = 256
"""Blocks of headers of one generation; two are kept, so that odd clients cannot push out the usual ones at once."""

BLOCK_LIMIT = 2048
"""Bytes of the largest block that is kept: what is kept is bounded by this and the number."""


class Blocks:
    """What blocks of headers mean, those seen lately."""

    def __init__(self) -> None:
        self._young: dict[bytes, dict[str, Any]] = {}
        self._old: dict[bytes, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, block: bytes) -> dict[str, Any] | None:
        """What the block was found to mean."""
        meaning = self._young.get(block)
        if meaning is None and (meaning := self._old.pop(block, None)) is not None:
            self._keep(block, meaning)
        return meaning

    def put(self, block: bytes, meaning: dict[str, Any]) -> None:
        """Keeps what a block means, if it is not too large."""
        if len(block) <= BLOCK_LIMIT:
            self._keep(block, meaning)

    def _keep(self, block: bytes, meaning: dict[str, Any]) -> None:
        if len(self._young) >= BLOCKS_KEPT:
            self._old, self._young = self._young, {}
        self._young[block] = meaning


class Parser(HTTPRequestParser):
    """Waitress's parser, which asks what is kept before it parses."""

    blocks = Blocks()
    command = path = ""
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
    def whole(cls, adj: Adjustments, data: bytes) -> Parser | None:
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
        taken = 0
        if self.body_rcv is None and not LEAD.match(self.header_plus + data):
            self.error = BadRequest("Start line is invalid")
        else:
            taken = super().received(data)
        if not (self.error or self.headers_finished) and self._cannot_end_well(len(data)):
            self.error = BadRequest("Invalid header")
        if self.error is None:
            return taken
        self.completed, self.expect_continue = True, False
        return len(data)

    def _cannot_end_well(self, new: int) -> bool:
        """Whether the headers, of which so many bytes are new, have in them what none may have."""
        return NEVER.search(self.header_plus, max(len(self.header_plus) - new - 1, 0)) is not None

    def parse_header(self, block: bytes) -> None:
        """Sets what the block of headers says, raising what waitress raises."""
        meaning = self.blocks.get(block)
        if meaning is not None:
            self.__dict__.update(meaning)
            if self.content_length:
                self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))
            return
        try:
            check(block)
        except Refused as refused:
            self.error = refused.error
            return
        super().parse_header(trimmed(block))
        if self.chunked:
            self.body_rcv = Chunks(OverflowableBuffer(self.adj.inbuf_overflow))
        self.environ = self._environ()
        self.budget = budget(self.headers)
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
