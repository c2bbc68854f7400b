"""Non-blocking system calls that keep the GIL.

Python releases the GIL during every `recv` and `send`. If another thread computes in Python, the event loop then waits
for a whole switch interval after each call, so for two intervals per request. A non-blocking call takes microseconds:
keeping the GIL, the loop waits once per iteration, however many requests it answers. Each call costs half a microsecond
more than Python's, so the loop uses them only while other threads run.
"""

from __future__ import annotations

import ctypes
import socket
import threading

MAX_RECEIVED_BYTES = 65_536
"""Bytes that one call receives at most."""

_FLAGS = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)
_libc = ctypes.PyDLL(None)
_recv, _send = _libc.recv, _libc.send
for _function in (_recv, _send):
    _function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    _function.restype = ctypes.c_ssize_t


class _Buffers(threading.local):
    """A buffer for each thread: the GIL may be switched between a call and the copy of its bytes."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(MAX_RECEIVED_BYTES)


_buffers = _Buffers()


def receive(descriptor: int) -> bytes:
    """Return bytes that have arrived; none if there are none, the peer has closed the socket, or an error occurred."""
    buffer = _buffers.buffer
    count = _recv(descriptor, buffer, MAX_RECEIVED_BYTES, _FLAGS)
    return ctypes.string_at(buffer, count) if count > 0 else b""


def send(descriptor: int, data: bytes) -> int:
    """Send what the socket takes and return the number of bytes; 0 if it takes none, or an error occurred."""
    return max(int(_send(descriptor, data, len(data), _FLAGS)), 0)
