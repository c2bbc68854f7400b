"""A side that runs: started, timed to its first answer, and held to what the estimator answers."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness import Load, Server, ServerError, ask, memory_mb, serve
from peers.sides import Side
from peers.workload import Workload

STOP_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Start:
    """The seconds from the start of a server to its first answer, and the memory of all its processes then."""

    seconds: float
    rss_mb: float


@contextmanager
def run(side: Side, workload: Workload, cache: Path) -> Iterator[tuple[Server, Start]]:
    """Run the side for the length of the block; raise ServerError unless it answers right."""
    programs = side.environment.make(cache) if side.environment else Path()
    with ExitStack() as stack:
        try:
            server = stack.enter_context(serve(side.launch(workload, programs)))
            _await_answer(server, side, workload)
            start = Start(time.perf_counter() - server.born, memory_mb(server, "Rss"))
            _check(server, side, workload)
        except ServerError as error:
            raise ServerError(f"{side.name} with {workload.name}: {error}") from error
        yield server, start


def load_of(side: Side, workload: Workload, connections: int, seconds: float, *, unique_header: bool = False) -> Load:
    """Return the load for the side: one row, in its own protocol."""
    body = _bodies(side, workload)[0]
    return Load(side.protocol.path, body, connections, seconds, unique_header=unique_header)


def _await_answer(server: Server, side: Side, workload: Workload) -> None:
    """Ask until there is an answer, as some servers accept connections before they have read their model."""
    body = _bodies(side, workload)[0]
    while time.perf_counter() < server.born + STOP_TIMEOUT_SECONDS and server.process.poll() is None:
        with suppress(ServerError):
            ask(server, side.protocol.path, body)
            return
        time.sleep(POLL_SECONDS)
    ask(server, side.protocol.path, body)


def _check(server: Server, side: Side, workload: Workload) -> None:
    """Raise ServerError unless every answer is the estimator's."""
    for body, right in zip(_bodies(side, workload), workload.expected, strict=True):
        found = side.protocol.prediction(json.loads(ask(server, side.protocol.path, body)))
        if side.tolerance is not None and not math.isclose(found, right, rel_tol=side.tolerance):
            raise ServerError(f"it predicts {found} where the estimator predicts {right}")


def _bodies(side: Side, workload: Workload) -> list[str]:
    bodies = (side.protocol.body(workload, row) for row in workload.questions)
    return ["" if body is None else json.dumps(body) for body in bodies]
