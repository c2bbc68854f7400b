"""The policy of a server: deadlines, queue length, drain time; and its status, which the app can read."""

from __future__ import annotations

from dataclasses import dataclass, field

ENVIRON_KEY = "flaskml.server"
"""Key of the `ServerStatus` in the WSGI environment."""


@dataclass(slots=True)
class ServerStatus:
    """The current state of a server; it changes while requests are served."""

    is_draining: bool = False
    """True once a graceful shutdown has begun: the server only finishes the requests that it has accepted."""

    is_replaced: bool = False
    """True if another worker has taken the place of this one (rolling restart): the service stays ready."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Time limits for clients; the event loop closes the connection of a client that exceeds one."""

    request_seconds: float = 10.0
    """Seconds from the first byte of a request to its last. The limit is absolute: a slow client (slowloris) does not
    extend it by sending one byte at a time. Headers and small bodies take two round trips, 3 seconds if a packet is
    lost."""

    body_bytes_per_second: float = 8192.0
    """Bytes of a received body that extend the limit of the request by one second. The slowest mobile links carry
    twice as many."""

    max_request_seconds: float = 600.0
    """The longest that a request may take, however large its body is."""

    response_seconds: float = 30.0
    """Seconds that a client may read nothing of a response that waits for it."""

    grace_seconds: float = 1.0
    """Seconds for which a connection is not closed in favour of new ones, even at the connection limit: a client that
    connects to send a request sends it at once."""

    def request_limit_seconds(self, body_bytes: int) -> float:
        """Return the seconds that a request may take once `body_bytes` bytes of its body have arrived."""
        return min(self.request_seconds + body_bytes / self.body_bytes_per_second, self.max_request_seconds)


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    """The limits of a server: graceful shutdown, load shedding, slow clients, prioritized paths."""

    drain_seconds: float = 30.0
    """Seconds that a graceful shutdown may take to answer the accepted requests. Orchestrators kill a process after
    the same time."""

    queue_limit: int = 1024
    """Unanswered requests above which further ones are refused with 503 (load shedding): a few dozen batches, so that
    the latency of accepted requests stays low."""

    threads: int = 32
    """Threads of a pool that serves requests through WSGI; one pool serves predictions, another one all other
    requests. As many views may wait for a database or another server at once."""

    is_multiprocess: bool = False
    """True if other workers serve the same app: `wsgi.multiprocess` of the WSGI environment."""

    body_memory_bytes: int = 2**28
    """Memory for the bodies of requests that are received or served, except small ones; as much again is for answers
    that clients have not read. 256 MiB are 128 of the largest predictions."""

    deadlines: Deadlines = field(default_factory=Deadlines)
    """Time limits for slow clients."""

    priority_paths: frozenset[str] = frozenset()
    """Paths that are served before all others and never refused: the health checks."""
