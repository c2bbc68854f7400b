"""Load two servers in turn and compare them: throughput, latency and the server's CPU time for each request.

Only the server being measured runs, so that the other cannot disturb it: each measurement starts a fresh server, asks
it once and wants status 200, warms it up, and loads it. A and B follow each other within a round and change order
between rounds, so that a slow minute falls on both; the ratio B/A is taken in each round before its median is.
Commands should listen on 127.0.0.1, for example `waitress-serve --listen 127.0.0.1:{port} wsgi:app`.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from arguments import counts
from comparison import head, rows
from harness import CLIENTS, Launch, Load, Server, ServerError, ask, choose_client, exit_on_terminate, serve
from sample import Sample, take_sample

Results = dict[int, list[dict[str, Sample]]]


def main() -> None:
    """Run the comparison as the command line asks."""
    exit_on_terminate()
    options = _parse()
    client = choose_client(options.client)
    sides = {
        "A": _launch(options.a, options.cwd_a, options.env_a),
        "B": _launch(options.b, options.cwd_b, options.env_b),
    }
    try:
        results = compare(sides, options, client)
    except ServerError as error:
        sys.exit(str(error))
    print(*report(results, options, client), sep="\n")
    if options.json:
        options.json.write_text(to_json(results, client) + "\n")


def compare(sides: Mapping[str, Launch], options: argparse.Namespace, client: str) -> Results:
    """Measure both sides in every round at every count of connections, in alternating order."""
    results: Results = {connections: [] for connections in options.connections}
    for number in range(options.rounds):
        order = sorted(sides, reverse=number % 2 == 1)
        for connections in options.connections:
            load = Load(options.url, options.body, connections, options.seconds)
            results[connections].append({side: _measure_side(side, sides[side], load, client) for side in order})
    return results


def measure(launch: Launch, load: Load, client: str) -> Sample:
    """Serve, check, warm up and load one side; raise ServerError when it does not start or answer 200."""
    with serve(launch) as server:
        check(server, load)
        return take_sample(server, load, client)


def check(server: Server, load: Load) -> None:
    """Raise ServerError unless the server answers 200 to the request that will be sent."""
    ask(server, load.path, load.body)


def report(results: Results, options: argparse.Namespace, client: str) -> Iterator[str]:
    """Yield the lines of the printed result: what was run, and a Markdown table."""
    seconds = math.ceil(options.seconds) if client == "wrk" else options.seconds
    yield f"A: {options.a}"
    yield f"B: {options.b}"
    yield f"Load client: {client}; {options.rounds} rounds of {seconds:g} s; A, B and B/A are medians of the rounds."
    yield ""
    yield from head("A", "B")
    for connections, rounds in results.items():
        yield from rows(connections, rounds, "A", "B")


def to_json(results: Results, client: str) -> str:
    """Return every sample of every round as JSON."""
    rounds = {
        str(connections): [{side: asdict(sample) for side, sample in pair.items()} for pair in pairs]
        for connections, pairs in results.items()
    }
    return json.dumps({"client": client, "connections": rounds}, indent=2)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for side in "ab":
        parser.add_argument(f"--{side}", required=True, metavar="COMMAND", help="server command, {port} is its port")
        parser.add_argument(f"--cwd-{side}", type=Path, metavar="FOLDER", help="where the command runs")
        parser.add_argument(f"--env-{side}", type=_pair, nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument("--url", default="/predict", help="path that is asked")
    parser.add_argument("--body", default='{"feature": 0.5}', help="JSON body that is posted; empty: GET")
    parser.add_argument("--connections", type=counts, default=[1, 32], help="keep-alive connections, as 1,32")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a measurement; wrk knows whole seconds")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side at each count")
    parser.add_argument("--client", choices=["auto", *CLIENTS], default="auto", help="auto: wrk where it is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    return parser.parse_args()


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("write NAME=VALUE")
    return name, value


def _launch(command: str, folder: Path | None, variables: Sequence[tuple[str, str]]) -> Launch:
    return Launch(shlex.split(command), folder, dict(variables))


def _measure_side(side: str, launch: Launch, load: Load, client: str) -> Sample:
    try:
        sample = measure(launch, load, client)
    except ServerError as error:
        raise ServerError(f"{side}: {error}") from error
    print(f"{side}, {load.connections} connections: {sample.throughput:.0f} requests/s", file=sys.stderr, flush=True)
    return sample


if __name__ == "__main__":
    main()
