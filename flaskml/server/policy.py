"""What a server is told about how to serve, and what it tells the app about itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaskml.server.deadlines import Deadlines

ENVIRON_KEY = "flaskml.server"
"""Where in the WSGI environment it is found."""


@dataclass(slots=True)
class ServerStatus:
    """The present state of a server; it changes while requests are served."""

    draining: bool = False
    """Whether it is about to stop, and only finishes what it has accepted."""


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """How a server treats those who ask."""

    patience: float = 30.0
    """Seconds to finish what was accepted, once it is told to stop: what orchestrators wait before they kill."""

    queue_limit: int = 1024
    """Requests that may be unanswered before more are refused: a few dozen batches, so that none waits for long."""

    deadlines: Deadlines = field(default_factory=Deadlines)
    """How long clients may let it wait."""

    first: frozenset[str] = frozenset()
    """Paths that are served before all others, and never refused: those that tell how the server is."""
