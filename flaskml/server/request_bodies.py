"""The bodies of requests: how large each may be, and where the server keeps it while it arrives.

A body of up to 16 KiB is read as part of its request. For a larger one, the app says the limit, which depends on the
method, the path and the Content-Type, before a byte is kept. The memory of all larger bodies is counted together.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Protocol

from waitress.buffers import OverflowableBuffer
from waitress.utilities import Error

from flaskml.errors import TooLarge
from flaskml.server.memory_account import MemoryAccount

MAX_SMALL_BODY_BYTES = 16_384
"""Bytes of the largest body that has no limit of its own and is not counted: as much as the header of a request."""

MAX_FILELESS_BODY_BYTES = 2**19
"""Bytes from which a body goes into a temporary file, unless it must stay in memory."""


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """The largest body of some requests."""

    max_bytes: int
    setting: str
    """The setting that raises the limit."""

    stays_in_memory: bool = False
    """True if the body never goes into a temporary file."""


class BodyLimits(Protocol):
    """The limits that an app gives to the server. The event loop calls it for bodies that are not small."""

    def find(self, method: str, path: str, content_type: str) -> BodyLimit:
        """Return the limit of a request. `path` is decoded as in a WSGI environment."""


@dataclass(frozen=True, slots=True)
class EqualLimits:
    """The same limit for all requests."""

    limit: BodyLimit

    def find(self, method: str, path: str, content_type: str) -> BodyLimit:
        """Return the limit."""
        return self.limit


class ContentTooLarge(Error):
    """The response to a body above its limit; Flask gives the same one."""

    code = 413
    reason = "Content Too Large"
    title = TooLarge.title

    def __init__(self, limit: BodyLimit) -> None:
        super().__init__(TooLarge(limit.max_bytes, limit.setting).detail)


class TemporaryStorageFailed(Error):
    """The response to a body that the temporary folder cannot take, because it is full or missing."""

    code = 507
    reason = "Insufficient Storage"

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The temporary folder of the server cannot take the body: {error.strerror}")


class BodyBuffer(OverflowableBuffer):
    """The received part of a body; its bytes in memory are charged to an account, if one is given.

    From `max_memory_bytes` on, it is a temporary file.
    """

    def __init__(self, max_memory_bytes: int, account: MemoryAccount | None) -> None:
        super().__init__(max_memory_bytes)
        self._account = account
        self.charged_bytes = 0

    def append(self, data: bytes) -> None:
        """Add bytes. Raises OSError if the temporary folder cannot take them."""
        super().append(data)
        self._charge(0 if self.overflowed else len(self))

    def take(self) -> bytes:
        """Return all bytes, and free the buffer; the bytes stay charged until `close`."""
        file = self.getfile()
        content: bytes = file.getvalue() if isinstance(file, BytesIO) else file.read()
        super().close()
        return content

    def close(self) -> None:
        """Free the buffer or its file."""
        self.strbuf = b""
        with suppress(OSError):  # On a full disk, a file is closed, but its last bytes cannot be written.
            super().close()
        self._charge(0)

    def _charge(self, new_bytes: int) -> None:
        if self._account is not None and new_bytes != self.charged_bytes:
            difference, self.charged_bytes = new_bytes - self.charged_bytes, new_bytes
            self._account.change(difference)


class RequestBodies:
    """The limits and the memory of the bodies of one server."""

    def __init__(self, limits: BodyLimits, account: MemoryAccount, max_small_bytes: int = MAX_SMALL_BODY_BYTES) -> None:
        self.limits = limits
        self.account = account
        self.max_small_bytes = max_small_bytes

    def small_buffer(self) -> BodyBuffer:
        """Return a buffer for a small body, which is not counted."""
        return BodyBuffer(sys.maxsize, None)

    def buffer(self, limit: BodyLimit) -> BodyBuffer:
        """Return a buffer for a body with this limit."""
        return BodyBuffer(sys.maxsize if limit.stays_in_memory else MAX_FILELESS_BODY_BYTES, self.account)
