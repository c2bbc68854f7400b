"""The account of a limited amount of memory, which several threads charge."""

from __future__ import annotations

import threading


class MemoryAccount:
    """A number of bytes in use, and their limit. The limit is not enforced here: the owner acts once it is reached."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        """The most bytes that were in use since the peak was set back."""

        self._lock = threading.Lock()

    def change(self, difference_bytes: int) -> None:
        """Charge or, with a negative number, release bytes. Any thread may call this."""
        with self._lock:
            self.used_bytes += difference_bytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    @property
    def is_full(self) -> bool:
        """True if the limit is reached."""
        return self.used_bytes >= self.limit_bytes
