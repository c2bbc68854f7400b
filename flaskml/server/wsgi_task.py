"""The WSGI call of a request: environment, app, response; waitress's task with cached response heads.

Apps answer with the same status and headers again and again. Their encoded form is cached once it has passed waitress's
checks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.task import WSGITask, hop_by_hop

from flaskml.server.bounded_cache import BoundedCache
from flaskml.server.policy import ENVIRON_KEY

MAX_CACHED_HEADS = 512
"""Response heads in one generation of the cache, which keeps two."""

MAX_CACHED_HEAD_BYTES = 512
"""Bytes of the largest response head that is cached. This and their number bound the memory of the cache."""

MAX_COPIED_BODY_BYTES = 65_536
"""Bytes of the largest body that is copied behind its headers and sent with them; a larger one is sent separately."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The encoded head of a response with Content-Length on a keep-alive connection."""

    content: bytes
    """Status line and headers without the Date header."""

    length: int
    """Bytes of the body."""


class ResponseHeadCache:
    """A bounded cache of response heads by status and headers."""

    def __init__(self, ident: str | None) -> None:
        self._ident = ident
        self._cache: BoundedCache[tuple[Any, ...], ResponseHead] = BoundedCache(MAX_CACHED_HEADS)

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, status: str, headers: Sequence[tuple[str, str]]) -> ResponseHead | None:
        """Return the head for status and headers; None if such a response needs waitress's own header code.

        Raises AssertionError or ValueError, as waitress does, if they break the rules of WSGI.
        """
        try:
            head = self._cache.get((status, *headers))
        except TypeError:  # Headers that cannot be hashed, such as lists instead of tuples.
            head = None
        if head is not None:
            return head
        validate_response(status, headers)
        return self._build(status, headers)

    def _build(self, status: str, headers: Sequence[tuple[str, str]]) -> ResponseHead | None:
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
    """Raise AssertionError or ValueError if status or headers break the rules of WSGI (PEP 3333), as waitress does."""
    texts = [("status", status), *(("header", text) for header in headers for text in header)]
    for part, text in texts:
        if not isinstance(text, str):
            raise AssertionError(f"{part} {text!r} is not a string")
        if "\n" in text or "\r" in text:
            raise ValueError(f"carriage return/line feed character present in {part}")
    for name, _ in headers:
        if name.lower() in hop_by_hop:
            raise AssertionError(f'{name} is a "hop-by-hop" header; it cannot be used by a WSGI application (PEP 3333)')


def may_have_body(status: str) -> bool:
    """Return whether a response with that status may have a body (RFC 9110, section 6.4.1)."""
    return not status.startswith(("1", "204", "304"))


class RequestTask(WSGITask):
    """A WSGI call whose environment is built from a template and whose response is sent at once."""

    environ: dict[str, Any] | None = None
    head: ResponseHead | None = None
    content_length: Any = None
    complete = False
    wrote_header = False
    content_bytes_written = 0

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment of the request."""
        if self.environ is None:
            request, channel = self.request, self.channel
            if channel.server.adj.url_prefix or request.environ is None:
                environ: dict[str, Any] = super().get_environment()
                return {**environ, "wsgi.multithread": False}
            self.environ = {
                **channel.environ_template,
                **request.environ,
                "wsgi.errors": sys.stderr,
                "wsgi.input": request.get_body_stream(),
            }
            if request.chunked:  # The length is known only after the last chunk.
                self.environ["CONTENT_LENGTH"] = request.headers["CONTENT_LENGTH"]
        return self.environ

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Set the status and headers of the response, and return the `write` callable (PEP 3333)."""
        if exc_info:
            if self.wrote_header:
                raise exc_info[1]
            self.response_headers = []
        elif self.complete:
            raise AssertionError("start_response called a second time without providing exc_info.")
        self.complete = True
        self.status = status
        self.head = self.channel.server.response_heads.get(status, headers)
        self.content_length = self.head.length if self.head else declared_length(headers)
        self.response_headers.extend(headers)
        if self.channel.server.status.is_draining and self.channel.has_one_request:
            self.set_close_on_finish()
        return self.write

    def execute(self) -> None:
        """Call the app and write its response (PEP 3333)."""
        response = self.channel.server.application(self.get_environment(), self.start_response)
        head = self.head
        if head and type(response) is list and len(response) == 1 and self._can_send_at_once(head, response[0]):
            self.wrote_header = True
            self.content_bytes_written = head.length
            self.channel.write_soon(b"".join((head.content, self.channel.server.date_header.line(), response[0])))
            return
        try:
            if isinstance(response, ReadOnlyFileBasedBuffer):
                response = () if self._send_file(response) else response
            else:
                self._write_chunks(response)
        finally:
            if hasattr(response, "close"):
                response.close()

    def _can_send_at_once(self, head: ResponseHead, body: bytes) -> bool:
        """Return whether the cached head and the body together are the whole response."""
        if head.length != len(body) or head.length > MAX_COPIED_BODY_BYTES or self.wrote_header:
            return False
        return bool(self.request.is_keep_alive and not self.close_on_finish)

    def _send_file(self, file: ReadOnlyFileBasedBuffer) -> bool:
        """Pass a file to the channel, which sends and closes it; return False if the file is empty."""
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

    def _write_chunks(self, response: Iterable[bytes]) -> None:
        is_first = True
        for chunk in response:
            # An app may call start_response as late as with its first chunk.
            if is_first and self.content_length is None and isinstance(response, Sequence) and len(response) == 1:
                self.content_length = len(chunk)
            is_first = False
            if chunk:  # The headers are sent with the first chunk that is not empty.
                self.write(chunk)
        is_wrong_length = self.content_length is not None and self.content_bytes_written != self.content_length
        if is_wrong_length and self.request.command != "HEAD":
            self.set_close_on_finish()
            written, declared = self.content_bytes_written, self.content_length
            self.logger.warning("The app sent %s bytes of body, but declared a Content-Length of %s", written, declared)

    def write(self, data: bytes) -> None:
        """Write a part of the body; send a small complete body in one packet with the headers."""
        is_first = self.complete and not self.wrote_header and self.content_length is not None
        if not is_first or not self.has_body or not 0 < len(data) <= min(self.content_length, MAX_COPIED_BODY_BYTES):
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)


def declared_length(headers: Sequence[tuple[str, str]]) -> int | None:
    """Return the Content-Length among the headers; None if there is none."""
    return next((int(value) for name, value in headers if name.lower() == "content-length"), None)


class DateHeader:
    """The Date header (RFC 9110, section 6.6.1), encoded once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        """Return the Date header of this second, with the empty line that ends the response head."""
        now = int(time.time())
        if now != self._second:
            self._second, self._line = now, f"Date: {formatdate(now, usegmt=True)}\r\n\r\n".encode()
        return self._line


def environ_template(channel: Any) -> dict[str, Any]:
    """Return the part of the WSGI environment that all requests of a connection share."""
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
