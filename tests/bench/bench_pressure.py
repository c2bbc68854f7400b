"""The effect of slow clients and of overload on well-behaved clients.

`--slow 2000` compares the latency of predictions alone with the latency beside 2,000 connections whose requests never
end. `--overload 10` compares the goodput with as many connections as the queue has places with the goodput with ten
times as many, which retry at once when they are refused. Both sides are measured in each round on one server.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from arguments import some_of
from harness import CLIENTS, Outcome, Server, ServerError, choose_client, exit_on_terminate, serve, short_number
from peers.sides import SIDES
from peers.workload import ESTIMATORS, make_workload
from running import load_of

SLOW = Path(__file__).with_name("slow_clients.py")


def main() -> None:
    """Run what the command line asks for."""
    exit_on_terminate()
    options = _parse()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for model in options.models:
                _compare(model, Path(folder), options)
        except ServerError as error:
            sys.exit(str(error))


def _compare(model: str, folder: Path, options: argparse.Namespace) -> None:
    side, workload = SIDES[f"serve-{options.runtime}"], make_workload(model, folder)
    launch = side.launch(workload, Path())
    launch = replace(launch, variables={**(launch.variables or {}), "FLASKML_MAX_QUEUE": str(options.queue)})
    client = CLIENTS[choose_client("auto")]
    rounds: list[tuple[Outcome, Outcome]] = []
    with serve(launch) as server:
        few = options.queue if options.overload else options.connections
        load = load_of(side, workload, few, options.seconds)
        client(server, load)
        for _ in range(options.rounds):
            before = client(server, load)
            if options.overload:
                many = load_of(side, workload, few * options.overload, options.seconds)
                rounds.append((before, client(server, many)))
            else:
                with _slow_clients(server, options.slow):
                    rounds.append((before, client(server, load)))
    for line in _report(model, rounds):
        print(line)


@contextmanager
def _slow_clients(server: Server, count: int) -> Iterator[None]:
    command = [sys.executable, str(SLOW), str(server.port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def _report(model: str, rounds: list[tuple[Outcome, Outcome]]) -> Iterator[str]:
    """Yield the medians of both sides and of their ratio."""
    for measure in ("throughput", "p50_ms", "p99_ms", "errors"):
        sides = [statistics.median(getattr(outcome, measure) for outcome in side) for side in zip(*rounds, strict=True)]
        found = [getattr(b, measure) / getattr(a, measure) for a, b in rounds if getattr(a, measure)]
        ratio = f"{statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})" if found else ""
        yield f"{model} {measure}: {short_number(sides[0])} -> {short_number(sides[1])} {ratio}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure predictions while slow clients are connected, or under overload."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--slow", type=int, help="connections whose requests never end")
    what.add_argument("--overload", type=int, help="times as many connections as the queue has places")
    parser.add_argument("--models", type=some_of(ESTIMATORS), default=["linear", "forest"], metavar="NAME,...")
    parser.add_argument("--runtime", choices=("onnx", "sklearn"), default="onnx")
    parser.add_argument("--queue", type=int, default=64, help="places in the queue")
    parser.add_argument("--connections", type=int, default=8, help="well-behaved connections")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
