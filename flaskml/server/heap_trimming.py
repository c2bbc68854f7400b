"""Freed memory goes back to the system after a peak of bodies and answers.

The C library returns large blocks at once, but it keeps the smaller ones of bodies that arrived in pieces.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from flaskml.server.memory_account import MemoryAccount

MIN_TRIMMED_BYTES = 2**25
"""Bytes by which the use must fall before the heap is trimmed, which takes up to ten milliseconds."""

MIN_INTERVAL_SECONDS = 2.0
"""Seconds between two trims."""


class HeapTrimming:
    """The trims of the heap of a server process, after peaks of the given accounts."""

    def __init__(self, accounts: Sequence[MemoryAccount]) -> None:
        self._accounts = accounts
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Only the C library of GNU has it.
        self._trimmed_at = float("-inf")

    def trim_after_peak(self, now: float) -> bool:
        """Trim the heap if the use has fallen far below its peak; return whether it was trimmed."""
        fall_bytes = sum(account.peak_bytes - account.used_bytes for account in self._accounts)
        if self._trim is None or fall_bytes < MIN_TRIMMED_BYTES or now < self._trimmed_at + MIN_INTERVAL_SECONDS:
            return False
        self._trimmed_at = now
        for account in self._accounts:
            account.peak_bytes = account.used_bytes
        self._trim(0)
        return True
