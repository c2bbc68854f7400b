"""From bytes to a WSGI environment and from a WSGI answer to bytes, as waitress does it, with less done twice.

Clients send the same block of headers again and again, so what a block means is kept. Waitress alone parses it.
"""

from __future__ import annotations

import sys
import time
from email.utils import formatdate
from typing import Any

from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.task import WSGITask, rename_headers

BLOCKS_KEPT = 256
"""Blocks of headers of one generation; two are kept, so that odd clients cannot push out the usual ones at once."""

BLOCK_LIMIT = 2048
"""Bytes of the largest block that is kept: what is kept is bounded by this and the number."""


ONE_PACKET = 65_536
"""Bytes up to which a body is copied behind its headers rather than sent for itself."""


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
    environ: dict[str, str] | None = None
    """The headers as a WSGI environment has them."""

    def parse_header(self, block: bytes) -> None:
        """Sets what the block of headers says, raising what waitress raises."""
        meaning = self.blocks.get(block)
        if meaning is not None:
            self.__dict__.update(meaning)
            if self.content_length:
                self.body_rcv = FixedStreamReceiver(self.content_length, OverflowableBuffer(self.adj.inbuf_overflow))
            return
        super().parse_header(block)
        self.environ = {rename_headers.get(name, f"HTTP_{name}"): value for name, value in self.headers.items()}
        if not self.chunked and not self.expect_continue:
            own = ("adj", "body_rcv", "header_plus", "header_bytes_received")
            self.blocks.put(block, {name: value for name, value in vars(self).items() if name not in own})


class Task(WSGITask):
    """A WSGI call, with its environment made from a template and its headers written in one go."""

    environ: dict[str, Any] | None = None
    wrote_header = False
    content_bytes_written = 0

    def get_environment(self) -> dict[str, Any]:
        """The WSGI environment of the request."""
        if self.environ is None:
            request, channel = self.request, self.channel
            if channel.server.adj.url_prefix or request.environ is None:
                return self._environment_of_waitress()
            path = request.path
            if path.startswith("//"):
                path = "/" + path.lstrip("/")
            self.environ = {
                **channel.template,
                **request.environ,
                "REQUEST_METHOD": request.command.upper(),
                "SERVER_PROTOCOL": f"HTTP/{self.version}",
                "PATH_INFO": path,
                "REQUEST_URI": request.request_uri,
                "QUERY_STRING": request.query,
                "wsgi.url_scheme": request.url_scheme,
                "wsgi.errors": sys.stderr,
                "wsgi.input": request.get_body_stream(),
            }
            if request.chunked:  # Its length is known only now.
                self.environ["CONTENT_LENGTH"] = request.headers["CONTENT_LENGTH"]
        return self.environ

    def _environment_of_waitress(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        return {**environ, "wsgi.multithread": False}

    def write(self, data: bytes) -> None:
        """Writes a part of the answer; a small one leaves in one packet with the headers."""
        is_first = self.complete and not self.wrote_header and self.content_length is not None
        if not is_first or not self.has_body or not 0 < len(data) <= min(self.content_length, ONE_PACKET):
            super().write(data)
            return
        header = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(header + data)

    def build_response_header(self) -> bytes:
        """Status line and headers; for what is not the usual answer, those of waitress."""
        usual = self.version == "1.1" and self.content_length is not None and not self.close_on_finish
        if not usual or self.request.headers.get("CONNECTION", "").lower() == "close" or not self.has_body:
            header: bytes = super().build_response_header()
            return header
        lines = [f"HTTP/1.1 {self.status}"]
        names = set()
        for name, value in self.response_headers:
            lines.append(f"{name}: {value}")
            names.add(name.lower())
        if "content-length" not in names:
            lines.append(f"Content-Length: {self.content_length}")
        if "date" not in names:
            lines.append(self.channel.server.clock.line())
        ident = self.channel.server.adj.ident
        if "server" in names:
            lines.append(f"Via: {ident or 'waitress'}")
        elif ident:
            lines.append(f"Server: {ident}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Clock:
    """The Date header (RFC 9110, section 6.6.1), written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = ""

    def line(self) -> str:
        """The header of this second."""
        now = int(time.time())
        if now != self._second:
            self._second, self._line = now, f"Date: {formatdate(now, usegmt=True)}"
        return self._line


def template(channel: Any) -> dict[str, Any]:
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
        "waitress.client_disconnected": channel.check_client_disconnected,
    }
