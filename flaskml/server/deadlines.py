"""How long clients may let the engine wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long clients may let the engine wait; whoever takes longer loses the connection."""

    request: float = 10.0
    """Seconds from the first byte of a request to its last, though each of them comes in good time: an absolute limit
    is what makes slow clients harmless. Headers and small bodies take two round trips, with a lost packet 3 seconds."""

    rate: float = 8192.0
    """Bytes of a body that are worth one more second: the slowest mobile links carry twice as many."""

    answer: float = 30.0
    """Seconds in which a client that has an answer to read reads nothing of it."""

    grace: float = 1.0
    """Seconds that a connection has in any case, though all connections there may be are taken: whoever connects to
    ask something does so at once."""

    def of_request(self, body_bytes: int) -> float:
        """Seconds that a request may take of whose body so many bytes have come."""
        return self.request + body_bytes / self.rate
