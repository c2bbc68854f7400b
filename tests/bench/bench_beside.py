"""The effect of a user's own views, and of many connections, on predictions under `flask serve --workers 1`.

Four conditions are measured in each round on one server, in an order that changes between rounds: predictions alone;
beside clients of a view that waits; beside a client of a view that computes in Python; and alone at many connections.
The clients of the views send their requests back to back. A ratio to the first condition is taken in each round before
its median is.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from arguments import some_of
from harness import CLIENTS, Launch, Outcome, Server, ServerError, ask, choose_client, exit_on_terminate, short_number
from peers.sides import SIDES, Side
from peers.workload import ESTIMATORS, RUNTIMES, Workload, make_workload
from running import load_of, run

from flaskml.errors import FlaskmlError

HERE = Path(__file__).parent
BESIDE = HERE / "beside_clients.py"
MEASURES = {"throughput": "requests/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms"}


@dataclass(frozen=True)
class Condition:
    """The connections that predict, and the clients of a view beside them."""

    name: str
    connections: int
    path: str = ""
    clients: int = 0


@dataclass(frozen=True)
class Measurement:
    """Measurements of the predictions, with the answers a second of the view beside them and its failures."""

    predictions: Outcome
    beside_throughput: float = 0.0
    beside_failures: int = 0


Rounds = Sequence[Mapping[str, Measurement]]
"""The measurements of each round by the name of the condition."""


def main() -> None:
    """Run what the command line asks for."""
    exit_on_terminate()
    options = _parse()
    conditions = _conditions(options)
    client = choose_client(options.client)
    seconds = math.ceil(options.seconds) if client == "wrk" else options.seconds
    print(f"Load client: {client}; figures are medians of {options.rounds} rounds of {seconds:g} s for each condition.")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            try:
                rounds = _measure(make_workload(model, Path(folder)), conditions, client, options)
            except (ServerError, FlaskmlError) as error:
                sys.exit(str(error))
            print(*_report(model, conditions, rounds), sep="\n", flush=True)
            failed += sum(_errors(rounds, condition) for condition in conditions)
    if failed:
        sys.exit(f"{failed} requests failed")


def _conditions(options: argparse.Namespace) -> list[Condition]:
    return [
        Condition("alone", options.connections),
        Condition(f"beside {options.waiting} that wait", options.connections, "/wait", options.waiting),
        Condition("beside 1 that computes", options.connections, "/compute", 1),
        Condition(f"alone, {options.many} connections", options.many),
    ]


def _measure(
    workload: Workload, conditions: Sequence[Condition], client: str, options: argparse.Namespace
) -> list[dict[str, Measurement]]:
    side = _with_views(SIDES[f"serve-{options.runtime}"])
    rounds = []
    with run(side, workload, Path()) as (server, _):
        CLIENTS[client](server, load_of(side, workload, options.connections, 1.0))
        for number in range(options.rounds):
            found = {}
            for condition in conditions[:: -1 if number % 2 else 1]:
                found[condition.name] = _measure_once(server, side, workload, condition, client, options.seconds)
            rounds.append(found)
    return rounds


def _with_views(side: Side) -> Side:
    """Return the side with the app of `beside_app.py`."""

    def launch(workload: Workload, programs: Path) -> Launch:
        given = side.launch(workload, programs)
        flask, *command = given.command
        return replace(given, command=(flask, "--app=beside_app", *command), folder=HERE)

    return replace(side, launch=launch)


def _measure_once(
    server: Server, side: Side, workload: Workload, condition: Condition, client: str, seconds: float
) -> Measurement:
    load = load_of(side, workload, condition.connections, seconds)
    # The answer comes after those to requests that the clients before left behind.
    ask(server, load.path, load.body)
    if not condition.clients:
        return Measurement(CLIENTS[client](server, load))
    with _clients_beside(server, condition) as process:
        outcome = CLIENTS[client](server, load)
        last, _ = process.communicate()
    beside = json.loads(last)
    return Measurement(outcome, beside["answers"] / beside["elapsed_seconds"], beside["failures"])


@contextmanager
def _clients_beside(server: Server, condition: Condition) -> Iterator[subprocess.Popen[str]]:
    """Run the clients of the view for the length of the block, which begins when each had an answer."""
    command = [sys.executable, str(BESIDE), str(server.port), condition.path, str(condition.clients)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise ServerError(f"the clients of {condition.path} did not begin")
            yield process
        finally:
            process.kill()


def _report(model: str, conditions: Sequence[Condition], rounds: Rounds) -> Iterator[str]:
    """Yield a table with a line for each condition: the medians, each with the median of its ratios to the first."""
    yield f"\n{model}\n"
    yield f"| condition | {' | '.join(f'{label} | ratio' for label in MEASURES.values())} | errors | view's answers/s |"
    yield f"| --- | {'---: | ' * (2 * len(MEASURES) + 2)}".rstrip()
    for condition in conditions:
        cells = (cell for measure in MEASURES for cell in _cells(rounds, condition, conditions[0], measure))
        beside = statistics.median(found[condition.name].beside_throughput for found in rounds)
        others = short_number(beside) if condition.clients else ""
        yield f"| {condition.name} | {' | '.join(cells)} | {_errors(rounds, condition)} | {others} |"


def _cells(rounds: Rounds, condition: Condition, first: Condition, measure: str) -> tuple[str, str]:
    values, bases = ([_value(found[one.name].predictions, measure) for found in rounds] for one in (condition, first))
    ratios = [value / base if base else math.nan for value, base in zip(values, bases, strict=True)]
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    return short_number(statistics.median(values)), "" if condition is first else spread


def _value(outcome: Outcome, measure: str) -> float:
    """Return the measure, in which a latency is infinite when no request was answered in time."""
    is_latency = measure != "throughput"
    return math.inf if is_latency and not outcome.requests else getattr(outcome, measure)


def _errors(rounds: Rounds, condition: Condition) -> int:
    measurements = [found[condition.name] for found in rounds]
    return sum(one.predictions.errors + one.beside_failures for one in measurements)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=some_of(ESTIMATORS), default=["linear"], metavar="NAME,...")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnx")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections that predict")
    parser.add_argument("--many", type=int, default=1000, help="connections of the last condition")
    parser.add_argument("--waiting", type=int, default=8, help="clients of the view that waits")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement; wrk knows whole seconds")
    parser.add_argument("--rounds", type=int, default=5, help="figures are medians over the rounds")
    parser.add_argument("--client", choices=["auto", *CLIENTS], default="auto", help="auto: wrk where it is installed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
