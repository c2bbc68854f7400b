"""What waitress lets pass and the engine refuses: requests that two servers could read differently (RFC 9112)."""

from __future__ import annotations

import re

from waitress.parser import ParsingError, TransferEncodingNotImplemented
from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest, Error

MAX_TARGET_BYTES = 8192
"""Bytes of the longest request target; RFC 9112, section 3, asks for 8000 at least."""

MAX_EMPTY_LINES = 4
"""Empty lines that may come before a request; old browsers send one after a form (RFC 9112, section 2.2)."""

MAX_LENGTH_DIGITS = 18
"""Digits of a Content-Length; Python takes long to read thousands of them, and refuses some without saying so."""

MAX_CHUNK_LINE_BYTES = 1024
"""Bytes of a line between chunks: a size with its extensions, or a field of the trailer. Clients send 20."""

MAX_TRAILER_BYTES = 8192
"""Bytes of all lines of a trailer, which nobody reads here."""

TOKEN_PATTERN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_PATTERN = TOKEN_PATTERN + rb"++:[\t -~\x80-\xff]*+"

# What follows matches in one way or in none, so that it takes no longer than its input is long. Only single characters
# are repeated possessively: before 3.11.5, Python matches groups wrongly (https://github.com/python/cpython/issues/106052).
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
    """The answer to another HTTP than 1.0 and 1.1."""

    code = 505
    reason = "HTTP Version Not Supported"


class TargetTooLong(Error):
    """The answer to a target above the limit."""

    code = 414
    reason = "URI Too Long"


class RequestTimeout(Error):
    """The answer to a request that does not come to its end."""

    code = 408
    reason = "Request Timeout"


class RefusedRequest(Exception):
    """A request is refused with another status than waitress has an exception for."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.body)
        self.error = error


def validate_header_block(block: bytes) -> None:
    """Raises `RefusedRequest` or what waitress's parser raises, unless a block of headers is unambiguous."""
    line, _, fields = block.partition(b"\r\n")
    start = START_LINE.fullmatch(line)
    if start is None:
        raise ParsingError("Start line is invalid")
    method, target, version = start.groups()
    if version not in (b"1.0", b"1.1"):
        raise RefusedRequest(VersionNotSupported("Only HTTP/1.0 and HTTP/1.1 are spoken here"))
    if FIELD_LINES.fullmatch(fields) is None:
        raise ParsingError("Invalid header")
    found = [(name.lower(), value.strip(b" \t")) for name, value in SINGLETON_FIELDS.findall(block)]
    single = dict(found)
    if len(single) < len(found):
        raise ParsingError("A header that may come once came twice")
    _check_host(single.get(b"host"), version)
    _check_target(method, target, single.get(b"host"))
    _check_length(single.get(b"content-length"), single.get(b"transfer-encoding"), version)


def collapse_spaces(block: bytes) -> bytes:
    """The block with one space after each name: on many, waitress takes a time that grows with their square."""
    return REPEATED_SPACES.sub(rb"\1 ", block)


def _check_host(host: bytes | None, version: bytes) -> None:
    """RFC 9112, section 3.2."""
    if host is None and version == b"1.1":
        raise ParsingError("Host is missing")
    if host is not None and HOST_VALUE.fullmatch(host) is None:
        raise ParsingError("Host is invalid")


def _check_target(method: bytes, target: bytes, host: bytes | None) -> None:
    """RFC 9112, sections 3.2.1 to 3.2.4; a proxy would have to know of tunnels, and there is none here."""
    if len(target) > MAX_TARGET_BYTES:
        raise RefusedRequest(TargetTooLong(f"The target has more than {MAX_TARGET_BYTES} bytes"))
    if b"%00" in target.partition(b"?")[0] or b"#" in target:
        raise ParsingError("Bad URI")
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or (host is not None and host.lower() != absolute[1].lower()):
        raise ParsingError("Bad URI")


def _check_length(length: bytes | None, coding: bytes | None, version: bytes) -> None:
    """RFC 9112, sections 6.1 to 6.3, where they leave a choice the stricter one."""
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
    """Takes in a body that comes in chunks (RFC 9112, section 7.1), in a time that grows with its length only."""

    completed = False
    error: BadRequest | None = None
    chunk_remainder = 0
    control_line = b""
    trailer = b""
    validate_chunk_end = False
    all_chunks_received = False

    def received(self, data: bytes) -> int:
        """Takes in what belongs to the body, and returns how many bytes that was; all, once it is refused."""
        before, data = len(self.control_line), self.control_line + data
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
                self._check(len(self.control_line) < MAX_CHUNK_LINE_BYTES, "A line between chunks is too long")
            else:
                self._read(data[position:end])
                position = end + 2
            if self.error:
                return len(data) - before
        if parts:
            self.buf.append(b"".join(parts))
        return position - before

    def _read(self, line: bytes) -> None:
        if self.all_chunks_received:
            self._read_trailer(line)
        elif self.validate_chunk_end:
            self.validate_chunk_end = False
            self._check(not line, "Chunk not properly terminated")
        elif size := CHUNK_SIZE_LINE.fullmatch(line):
            self.chunk_remainder = int(size[1], 16)
            self.validate_chunk_end = self.chunk_remainder > 0
            self.all_chunks_received = self.chunk_remainder == 0
        else:
            self._check(False, "Invalid chunk size")

    def _read_trailer(self, line: bytes) -> None:
        """A trailer has the form of headers, and is otherwise left aside."""
        self.completed = not line
        self.trailer += line + b"\r\n"
        self._check(not line or TRAILER_LINE.fullmatch(line) is not None, "Invalid trailer")
        self._check(len(self.trailer) <= MAX_TRAILER_BYTES, "The trailer is too long")

    def _check(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.error = BadRequest(otherwise)
