"""Strict validation of HTTP/1.1 framing against request smuggling (RFC 9112), beyond what waitress checks.

Request smuggling needs a request whose end a proxy and this server see at different places.
"""

from __future__ import annotations

import re

from waitress.parser import ParsingError, TransferEncodingNotImplemented
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest, Error

MAX_TARGET_BYTES = 8192
"""Bytes of the longest request target; RFC 9112, section 3, recommends at least 8000."""

MAX_EMPTY_LINES = 4
"""Empty lines accepted before a request; old browsers send one after a form (RFC 9112, section 2.2)."""

MAX_LENGTH_DIGITS = 18
"""Digits of a Content-Length. `int` is slow for thousands of digits, and raises ValueError above its own limit."""

MAX_CHUNK_LINE_BYTES = 1024
"""Bytes of a line between chunks: a size with its extensions, or a trailer field. Usual clients send 20."""

MAX_TRAILER_BYTES = 8192
"""Bytes of all lines of a trailer section, which the server discards."""

TOKEN_PATTERN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_PATTERN = TOKEN_PATTERN + rb"++:[\t -~\x80-\xff]*+"

# Each pattern matches in at most one way, so matching takes time linear in the input. Only single characters are
# repeated possessively: before 3.11.5, Python matches possessive groups wrongly
# (https://github.com/python/cpython/issues/106052).
LEADING_EMPTY_LINES = re.compile(rb"(?:\r\n){0,%d}(?:\r?\Z|(?P<first>[!-~]))" % MAX_EMPTY_LINES)
FORBIDDEN_BYTES = re.compile(rb"[^\t\r\n -~\x80-\xff]|(?<!\r)\n|\r(?!\n|\Z)")
START_LINE = re.compile(rb"(" + TOKEN_PATTERN + rb"++) ([!-~]++) HTTP/([0-9]\.[0-9])")
FIELD_LINES = re.compile(rb"(?:" + FIELD_PATTERN + rb"\r\n)*(?:\r\n)?")
SINGLETON_FIELDS = re.compile(rb"\r\n(?i:(host|content-type|content-length|transfer-encoding)):([^\r]*+)")
REPEATED_SPACES = re.compile(rb"(\r\n[^:]*+:)[ \t]{2,}+")
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]++)[^#]*+")
HOST_VALUE = re.compile(rb"[A-Za-z0-9._~%:\[\]-]*+")
CONTENT_LENGTH_VALUE = re.compile(rb"[0-9]{1,%d}+" % MAX_LENGTH_DIGITS)
CHUNK_EXTENSION_VALUE = TOKEN_PATTERN + rb'++|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
CHUNK_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16}+)(?:;" + TOKEN_PATTERN + rb"++(?:=(?:" + CHUNK_EXTENSION_VALUE + rb"))?)*"
)
TRAILER_LINE = re.compile(FIELD_PATTERN)


class VersionNotSupported(Error):
    """The response to an HTTP version other than 1.0 and 1.1."""

    code = 505
    reason = "HTTP Version Not Supported"


class TargetTooLong(Error):
    """The response to a request target above the limit."""

    code = 414
    reason = "URI Too Long"


class RequestTimeout(Error):
    """The response to a request that does not arrive completely within its deadline (a slow client)."""

    code = 408
    reason = "Request Timeout"


class RefusedRequest(Exception):
    """A refusal with a status for which waitress has no exception."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.body)
        self.error = error


def validate_header_block(block: bytes) -> None:
    """Raise `RefusedRequest`, or an error of waitress's parser, unless the header block is unambiguous."""
    line, _, field_lines = block.partition(b"\r\n")
    start = START_LINE.fullmatch(line)
    if start is None:
        raise ParsingError("Start line is invalid")
    method, target, version = start.groups()
    if version not in (b"1.0", b"1.1"):
        raise RefusedRequest(VersionNotSupported("Only HTTP/1.0 and HTTP/1.1 are supported"))
    if FIELD_LINES.fullmatch(field_lines) is None:
        raise ParsingError("Invalid header")
    singletons = [(name.lower(), value.strip(b" \t")) for name, value in SINGLETON_FIELDS.findall(block)]
    fields = dict(singletons)
    if len(fields) < len(singletons):
        raise ParsingError("A header that must not be repeated is repeated")
    _check_host(fields.get(b"host"), version)
    _check_target(method, target, fields.get(b"host"))
    _check_length(fields.get(b"content-length"), fields.get(b"transfer-encoding"), version)


def collapse_spaces(block: bytes) -> bytes:
    """Return the block with one space after each field name: waitress takes quadratic time on many spaces."""
    return REPEATED_SPACES.sub(rb"\1 ", block)


def _check_host(host: bytes | None, version: bytes) -> None:
    """Validate the Host field (RFC 9112, section 3.2)."""
    if host is None and version == b"1.1":
        raise ParsingError("Host is missing")
    if host is not None and HOST_VALUE.fullmatch(host) is None:
        raise ParsingError("Host is invalid")


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    """Validate the request target (RFC 9112, sections 3.2.1 to 3.2.4).

    The authority form of CONNECT is refused: it is for proxies only.
    """
    if len(target) > MAX_TARGET_BYTES:
        raise RefusedRequest(TargetTooLong(f"The request target is longer than {MAX_TARGET_BYTES} bytes"))
    if b"%00" in target.partition(b"?")[0] or b"#" in target:
        raise ParsingError("Bad URI")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or (host is not None and host.lower() != absolute[1].lower()):
        raise ParsingError("Bad URI")


def _check_length(length: bytes | None, coding: bytes | None, version: bytes) -> None:
    """Validate the body length (RFC 9112, sections 6.1 to 6.3); where these leave a choice, take the stricter one."""
    if length is not None and CONTENT_LENGTH_VALUE.fullmatch(length) is None:
        raise ParsingError("Content-Length is invalid")
    if coding is None:
        return
    if length is not None or version == b"1.0":
        raise ParsingError("Transfer-Encoding is not allowed here")
    if coding.lower() != b"chunked":
        if {part.strip(b" \t").lower() for part in coding.split(b",")} <= {b"chunked", b""}:
            raise ParsingError("Transfer-Encoding is invalid")
        raise TransferEncodingNotImplemented("Transfer-Encoding requested is not supported.")


class StrictChunkedReceiver(ChunkedReceiver):
    """A receiver of chunked bodies (RFC 9112, section 7.1) that takes time linear in the length of the body."""

    completed = False
    error: BadRequest | None = None
    chunk_remainder = 0
    control_line = b""
    trailer = b""
    validate_chunk_end = False
    all_chunks_received = False

    def received(self, data: bytes) -> int:
        """Process bytes of the body; return how many belonged to it, or all once the body is refused."""
        previous_bytes, data = len(self.control_line), self.control_line + data
        position, parts, self.control_line = 0, [], b""
        while position < len(data) and not self.completed:
            if self.chunk_remainder:
                parts.append(data[position : position + self.chunk_remainder])
                position += len(parts[-1])
                self.chunk_remainder -= len(parts[-1])
                continue
            end = data.find(b"\r\n", position, position + MAX_CHUNK_LINE_BYTES)
            if end < 0:
                self.control_line, position = data[position:], len(data)
                self._require(len(self.control_line) < MAX_CHUNK_LINE_BYTES, "A line between chunks is too long")
            else:
                self._read_control_line(data[position:end])
                position = end + 2
            if self.error:
                return len(data) - previous_bytes
        if parts:
            self.buf.append(b"".join(parts))
        return position - previous_bytes

    def _read_control_line(self, line: bytes) -> None:
        """Process a line that is not chunk data: a chunk size, the end of a chunk, or a trailer field."""
        if self.all_chunks_received:
            self._read_trailer(line)
        elif self.validate_chunk_end:
            self.validate_chunk_end = False
            self._require(not line, "Chunk not properly terminated")
        elif size := CHUNK_SIZE_LINE.fullmatch(line):
            self.chunk_remainder = int(size[1], 16)
            self.validate_chunk_end = self.chunk_remainder > 0
            self.all_chunks_received = self.chunk_remainder == 0
        else:
            self._require(False, "Invalid chunk size")

    def _read_trailer(self, line: bytes) -> None:
        """Validate a trailer field, and discard it."""
        self.completed = not line
        self.trailer += line + b"\r\n"
        self._require(not line or TRAILER_LINE.fullmatch(line) is not None, "Invalid trailer")
        self._require(len(self.trailer) <= MAX_TRAILER_BYTES, "The trailer is too long")

    def _require(self, is_valid: bool, message: str) -> None:
        if not is_valid:
            self.error = BadRequest(message)
