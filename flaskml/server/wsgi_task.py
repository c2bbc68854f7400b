"""From a WSGI answer to bytes, as waitress does it, with less done twice.

Apps answer with the same status and headers again and again. What they become is kept once waitress's own rules were
found to hold for them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.task import WSGITask, hop_by_hop

from flaskml.server.bounded_cache import BoundedCache
from flaskml.server.policy import ENVIRON_KEY

MAX_CACHED_HEADS = 512
"""Beginnings of answers that are kept; all are dropped when there are more."""

MAX_CACHED_HEAD_BYTES = 512
"""Bytes of the largest beginning that is kept: what is kept is bounded by this and the number."""

MAX_COPIED_BODY_BYTES = 65_536
"""Bytes up to which a body is copied behind its headers rather than sent for itself."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """How an answer with a body of a known length begins, on a connection that stays open."""

    content: bytes
    """Status line and headers but for the date."""

    length: int
    """Bytes of the body."""


class ResponseHeadCache:
    """The beginnings that answers had lately, by their status and headers."""

    def __init__(self, ident: str | None) -> None:
        self._ident = ident
        self._cache: BoundedCache[tuple[Any, ...], ResponseHead] = BoundedCache(MAX_CACHED_HEADS)

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, status: str, headers: Sequence[tuple[str, str]]) -> ResponseHead | None:
        """The beginning for status and headers; None if it is none that is kept, or one that breaks WSGI's rules.

        Raises what waitress raises at these.
        """
        with suppress(TypeError):  # Headers that cannot be hashed are refused below.
            if (head := self._cache.get((status, *headers))) is not None:
                return head
        validate_response(status, headers)
        return self._made(status, headers)

    def _made(self, status: str, headers: Sequence[tuple[str, str]]) -> ResponseHead | None:
        values = {name.lower(): value for name, value in headers}
        if "content-length" not in values or "date" in values or not may_have_body(status):
            return None
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        if "server" in values:
            lines.append(f"Via: {self._ident or 'waitress'}")
        elif self._ident:
            lines.append(f"Server: {self._ident}")
        head = ResponseHead(("\r\n".join(lines) + "\r\n").encode("latin-1"), int(values["content-length"]))
        if len(head.content) <= MAX_CACHED_HEAD_BYTES:
            self._cache.put((status, *headers), head)
        return head


def validate_response(status: Any, headers: Any) -> None:
    """Raises AssertionError or ValueError for what an app may not answer with (PEP 3333), as waitress does."""
    texts = [("status", status), *(("header", text) for header in headers for text in header)]
    for what, text in texts:
        if not isinstance(text, str):
            raise AssertionError(f"{what} {text!r} is not a string")
        if "\n" in text or "\r" in text:
            raise ValueError(f"carriage return/line feed character present in {what}")
    for name, _ in headers:
        if name.lower() in hop_by_hop:
            raise AssertionError(f'{name} is a "hop-by-hop" header; it cannot be used by a WSGI application (PEP 3333)')


def may_have_body(status: str) -> bool:
    """Whether an answer of that status may have a body (RFC 9110, section 6.4.1)."""
    return not status.startswith(("1", "204", "304"))


class RequestTask(WSGITask):
    """A WSGI call, with its environment made from a template and its answer written in one go."""

    environ: dict[str, Any] | None = None
    head: ResponseHead | None = None
    content_length: Any = None
    complete = False
    wrote_header = False
    content_bytes_written = 0

    def get_environment(self) -> dict[str, Any]:
        """The WSGI environment of the request."""
        if self.environ is None:
            request, channel = self.request, self.channel
            if channel.server.adj.url_prefix or request.environ is None:
                environ: dict[str, Any] = super().get_environment()
                return {**environ, "wsgi.multithread": False}
            self.environ = {
                **channel.template,
                **request.environ,
                "wsgi.errors": sys.stderr,
                "wsgi.input": request.get_body_stream(),
            }
            if request.chunked:  # Its length is known only now.
                self.environ["CONTENT_LENGTH"] = request.headers["CONTENT_LENGTH"]
        return self.environ

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Takes status and headers of the answer, and returns what writes a part of its body."""
        if exc_info:
            if self.wrote_header:
                raise exc_info[1]
            self.response_headers = []
        elif self.complete:
            raise AssertionError("start_response called a second time without providing exc_info.")
        self.complete = True
        self.status = status
        self.head = self.channel.server.heads.get(status, headers)
        self.content_length = self.head.length if self.head else declared_length(headers)
        self.response_headers.extend(headers)
        if self.channel.server.status.draining and self.channel.has_one_request:
            self.set_close_on_finish()
        return self.write

    def execute(self) -> None:
        """Calls the app and writes what it answers (PEP 3333)."""
        answer = self.channel.server.application(self.get_environment(), self.start_response)
        head = self.head
        if head and type(answer) is list and len(answer) == 1 and self._is_usual(head, answer[0]):
            self.wrote_header = True
            self.content_bytes_written = head.length
            self.channel.write_soon(b"".join((head.content, self.channel.server.clock.line(), answer[0])))
            return
        try:
            if isinstance(answer, ReadOnlyFileBasedBuffer):
                answer = () if self._hand_over(answer) else answer
            else:
                self._write_all(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()

    def _is_usual(self, head: ResponseHead, body: bytes) -> bool:
        """Whether the beginning that is kept is the right one for this request and body."""
        if head.length != len(body) or head.length > MAX_COPIED_BODY_BYTES or self.wrote_header:
            return False
        return bool(self.request.stays_open and not self.close_on_finish)

    def _hand_over(self, file: ReadOnlyFileBasedBuffer) -> bool:
        """Leaves a file to the channel, which sends and closes it; False for one that is empty."""
        size = file.prepare(self.content_length)
        if not size:
            return False
        if self.content_length != size:
            if self.content_length is not None:
                self.remove_content_length_header()
            self.content_length = size
        self.write(b"")
        self.channel.write_soon(file)
        return True

    def _write_all(self, answer: Iterable[bytes]) -> None:
        is_first = True
        for chunk in answer:
            # An app may call start_response as late as with its first chunk.
            if is_first and self.content_length is None and isinstance(answer, Sequence) and len(answer) == 1:
                self.content_length = len(chunk)
            is_first = False
            if chunk:  # Headers leave with the first chunk that has something in it.
                self.write(chunk)
        missing = self.content_length is not None and self.content_bytes_written != self.content_length
        if missing and self.request.command != "HEAD":
            self.set_close_on_finish()
            written, said = self.content_bytes_written, self.content_length
            self.logger.warning("The app answered with %s bytes and said that there are %s", written, said)

    def write(self, data: bytes) -> None:
        """Writes a part of the answer; a small one leaves in one packet with the headers."""
        is_first = self.complete and not self.wrote_header and self.content_length is not None
        if not is_first or not self.has_body or not 0 < len(data) <= min(self.content_length, MAX_COPIED_BODY_BYTES):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)


def declared_length(headers: Sequence[tuple[str, str]]) -> int | None:
    """The Content-Length among the headers."""
    return next((int(value) for name, value in headers if name.lower() == "content-length"), None)


class DateHeader:
    """The end of a beginning: the Date header (RFC 9110, section 6.6.1), written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """The header of this second, and the empty line after it."""
        now = int(time.time())
        if now != self._second:
            self._second, self._line = now, f"Date: {formatdate(now, usegmt=True)}\r\n\r\n".encode()
        return self._line


def environ_template(channel: Any) -> dict[str, Any]:
    """What every WSGI environment of a connection has in common."""
    server, (host, port) = channel.server, channel.addr[:2]
    return {
        "REMOTE_ADDR": host,
        "REMOTE_HOST": host,
        "REMOTE_PORT": str(port),
        "SERVER_PORT": str(server.effective_port),
        "SERVER_NAME": server.server_name,
        "SERVER_SOFTWARE": server.adj.ident,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": ReadOnlyFileBasedBuffer,
        "wsgi.input_terminated": True,
        ENVIRON_KEY: server.status,
        "waitress.client_disconnected": channel.check_client_disconnected,
    }
