"""One sample of a running server under load: how fast it answered and what that cost it."""

import math
from dataclasses import dataclass, replace

from harness import CLIENTS, Load, Server, cpu_seconds, load_with_python, memory_mb

WARM_UP_REQUESTS = 200
WARM_UP_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """Measurements of one load of a server; its memory is that of all its processes after the load."""

    throughput: float
    p50_ms: float
    p99_ms: float
    cpu_microseconds: float
    rss_mb: float
    requests: int
    errors: int

    @property
    def tail(self) -> float:
        """The 99th percentile of the latency as a multiple of the median."""
        return self.p99_ms / self.p50_ms if self.p50_ms else math.nan


def take_sample(server: Server, load: Load, client: str) -> Sample:
    """Warm up the server, then load it."""
    load_with_python(server, replace(load, seconds=WARM_UP_SECONDS, most_requests=WARM_UP_REQUESTS))
    before = cpu_seconds(server)
    outcome = CLIENTS[client](server, load)
    spent = cpu_seconds(server) - before
    return Sample(
        throughput=outcome.throughput,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        cpu_microseconds=spent / outcome.requests * 1e6 if outcome.requests else math.nan,
        rss_mb=memory_mb(server, "Rss"),
        requests=outcome.requests,
        errors=outcome.errors,
    )
