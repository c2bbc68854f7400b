"""Heads of the responses that the event loop writes itself: the bytes that waitress writes for the same headers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import TypeAlias

Headers: TypeAlias = Sequence[tuple[str, str]]

MAX_CACHED_HEADS = 256
"""Sets of headers whose encoded heads are kept."""


class ResponseHeads:
    """Encoded heads of responses on keep-alive connections. The Date header changes once a second."""

    def __init__(self, ident: str | None) -> None:
        self._ident = ident
        self._second = 0
        self._encoded: dict[tuple[str, Headers], tuple[bytes, bytes]] = {}

    def response(self, headers: Headers, body: bytes, status: str = "200 OK") -> bytes:
        """Return head and body of a response. `headers` is a tuple without Content-Length, Date and Server."""
        now = int(time.time())
        if now != self._second or len(self._encoded) > MAX_CACHED_HEADS:
            self._second, self._encoded = now, {}
        encoded = self._encoded.get((status, headers))
        if encoded is None:
            encoded = self._encoded[status, headers] = self._encode(headers, status)
        return b"".join((encoded[0], b"%d" % len(body), encoded[1], body))

    def _encode(self, headers: Headers, status: str) -> tuple[bytes, bytes]:
        """Return the bytes before and after the value of Content-Length."""
        own = [("Content-Length", "\0"), ("Date", formatdate(self._second, usegmt=True))]
        if self._ident:
            own.append(("Server", self._ident))
        named = [("-".join(part.capitalize() for part in name.split("-")), value) for name, value in headers]
        lines = [f"{name}: {value}" for name, value in sorted([*own, *named], key=lambda header: header[0])]
        before, _, after = "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1").partition(b"\0")
        return before, after
