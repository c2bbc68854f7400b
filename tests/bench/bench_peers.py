"""Compare the product's servers with other ways to serve the same model.

Every server of a round is started, timed to its first answer and held to what the estimator answers; then, at each
count of connections, one after the other is warmed up and loaded while the rest wait idle. The order changes between
rounds, so that a slow minute falls on all; a ratio is taken in each round before its median is. All servers are given
the same files and asked for the same row with the same body, except where a peer has a protocol of its own (MLServer,
BentoML and mosec) and in the pair of plain views, which predict nothing. Peers are installed into virtual environments
of their own on first use; the plain Flask apps run with this Python, whose Flask, waitress and scikit-learn are the
product's.

`--health` measures the latency of GET /livez at intervals, during large predictions that follow one another. `--start`
measures the time to the first answer, and memory then.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import health
from arguments import counts, some_of
from comparison import Rounds, head, median, ratios, rows
from harness import CLIENTS, Server, ServerError, choose_client, exit_on_terminate, short_number
from peers.environments import SHARED, EnvironmentFailed, default_cache
from peers.mixed import MIXED, make_mixed
from peers.sides import PEERS, SIDES, SPECIAL_PEERS
from peers.workload import ESTIMATORS, RUNTIMES, Workload, make_workload, takes_runtime
from running import Start, load_of, run
from sample import Sample, take_sample

from flaskml.errors import FlaskmlError

PRODUCT = ("flask", "werkzeug", "waitress", "pydantic")
MODELS = ("linear", "pipeline", "forest")


@dataclass(frozen=True)
class Results:
    """Measurements of one model, in the order of the rounds: samples by connections, and starts."""

    samples: Mapping[int, list[dict[str, Sample]]]
    starts: list[dict[str, Start]]


def main() -> None:
    """Run what the command line asks for."""
    exit_on_terminate()
    options = _parse()
    measure = _health if options.health else _peers
    with tempfile.TemporaryDirectory() as folder:
        try:
            failed = measure(options, Path(folder))
        except (ServerError, EnvironmentFailed, FlaskmlError) as error:
            sys.exit(str(error))
    if failed:
        sys.exit(f"{failed} requests failed")


def compare(workload: Workload, names: Sequence[str], options: argparse.Namespace) -> Results:
    """Measure every side of those names in every round at every count of connections, in alternating order."""
    results = Results({connections: [] for connections in options.connections}, [])
    for number in range(options.rounds):
        order = names[:: -1 if number % 2 else 1]
        with ExitStack() as stack:
            running = {name: stack.enter_context(run(SIDES[name], workload, options.cache)) for name in order}
            results.starts.append({name: start for name, (_, start) in running.items()})
            for connections, rounds in results.samples.items():
                rounds.append({name: _sample(running[name][0], name, workload, connections, options) for name in order})
    return results


def report(results: Mapping[str, Results], peers: Mapping[str, str]) -> Iterator[str]:
    """Yield a table for each model and peer, then one of the requests a second of all, and one of the starts.

    `peers` names our side of each.
    """
    for model, result in results.items():
        for peer, ours in peers.items():
            yield f"\n{ours} against {peer}, {model}\n"
            yield from head(peer, ours)
            for connections, rounds in result.samples.items():
                yield from rows(connections, rounds, peer, ours)
    yield from _summary(results, peers)
    yield from _starts(results)


def _peers(options: argparse.Namespace, folder: Path) -> int:
    names = _sides(options)
    # All environments are made before anything is measured, as an installation would disturb it.
    conditions = list(_conditions(options, names))
    print(*conditions, sep="\n", flush=True)
    makers = {**dict.fromkeys(ESTIMATORS, make_workload), **dict.fromkeys(MIXED, make_mixed)}
    workloads = [makers[model](model, folder) for model in options.models or MODELS]
    results = {workload.name: compare(workload, names, options) for workload in workloads}
    print(*(_starts(results) if options.start else report(results, options.peers)), sep="\n")
    if options.json:
        found = {model: asdict(result) for model, result in results.items()}
        options.json.write_text(json.dumps({"conditions": conditions, "models": found}, indent=2) + "\n")
    samples = (sample for result in results.values() for rounds in result.samples.values() for sample in rounds)
    return sum(sample.errors for sides in samples for sample in sides.values())


def _health(options: argparse.Namespace, folder: Path) -> int:
    print(*health.head(options), sep="\n", flush=True)
    found = []
    for model in options.models or health.MODELS:
        workload = make_workload(model, folder)
        for name in _ours(options):
            try:
                figures = health.measure(SIDES[name], workload, options)
            except FlaskmlError as error:  # No graph can be made of some estimators.
                _say(f"{name} with {model}: {error}")
                continue
            print(health.row(name, workload, figures), flush=True)
            found.append({"model": model, "side": name, **asdict(figures)})
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return sum(figures["errors"] for figures in found)


def _sides(options: argparse.Namespace) -> list[str]:
    """Return the names of all sides that are asked for, in a comparison each of ours beside its peers."""
    if options.start:
        return [*_ours(options), *options.peers]
    return list(dict.fromkeys(name for peer, ours in options.peers.items() for name in (ours, peer)))


def _ours(options: argparse.Namespace) -> list[str]:
    return [f"serve-{runtime}" for runtime in options.runtimes]


def _sample(server: Server, name: str, workload: Workload, connections: int, options: argparse.Namespace) -> Sample:
    load = load_of(SIDES[name], workload, connections, options.seconds, unique_header=options.unique_header)
    sample = take_sample(server, load, options.client)
    _say(f"{workload.name}, {connections} connections, {name}: {sample.throughput:.0f} requests/s")
    return sample


def _conditions(options: argparse.Namespace, names: Sequence[str]) -> Iterator[str]:
    if not options.start:
        seconds = math.ceil(options.seconds) if options.client == "wrk" else options.seconds
        headers = "a unique header in each request" if options.unique_header else "the same headers in each request"
        yield f"Load client: {options.client}, {headers}; {seconds:g} s at each count of connections."
    yield f"Figures are medians of {options.rounds} rounds."
    yield f"This Python: {' '.join(f'{package}=={version(package)}' for package in (*PRODUCT, *SHARED))}"
    for environment in dict.fromkeys(SIDES[name].environment for name in names):
        if environment:
            yield f"{environment.name}: {' '.join(environment.releases(options.cache))}"
    if not takes_runtime():
        yield "This flaskml computes with scikit-learn alone, so serve-onnx is serve-sklearn."


def _summary(results: Mapping[str, Results], peers: Mapping[str, str]) -> Iterator[str]:
    """Yield the ratio of requests a second at each count of connections, and the requests a second themselves."""
    counts = list(next(iter(results.values())).samples)
    yield "\nRequests a second: ratio (ours, the peer's)\n"
    yield f"| model | ours | peer | {' | '.join(f'c={count}' for count in counts)} |"
    yield f"| --- | --- | --- | {' | '.join('---:' for _ in counts)} |"
    for model, result in results.items():
        for peer, ours in peers.items():
            cells = [_ratio(rounds, peer, ours) for rounds in result.samples.values()]
            yield f"| {model} | {ours} | {peer} | {' | '.join(cells)} |"


def _ratio(rounds: Rounds, peer: str, ours: str) -> str:
    middle = statistics.median(ratios(rounds, peer, ours, "throughput"))
    above, below = (short_number(median(rounds, side, "throughput")) for side in (ours, peer))
    return f"{middle:.2f} ({above}, {below})"


def _starts(results: Mapping[str, Results]) -> Iterator[str]:
    yield "\nFrom the start to the first answer\n"
    yield "| model | server | seconds | RSS MB |"
    yield "| --- | --- | ---: | ---: |"
    for model, result in results.items():
        for name in sorted(result.starts[0], key=list(SIDES).index):
            seconds = statistics.median(starts[name].seconds for starts in result.starts)
            memory = statistics.median(starts[name].rss_mb for starts in result.starts)
            yield f"| {model} | {name} | {seconds:.2f} | {memory:.0f} |"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--health", action="store_true", help="measure GET /livez during large predictions")
    mode.add_argument(
        "--start", action="store_true", help="measure starts alone, of our servers unless peers are named"
    )
    parser.add_argument("--peers", type=some_of(PEERS), metavar="NAME,...", help=f"from {', '.join(PEERS)}")
    parser.add_argument(
        "--ours", choices=SIDES, metavar="NAME", help=f"compared with all peers, from {', '.join(SIDES)}"
    )
    parser.add_argument(
        "--models",
        type=some_of([*ESTIMATORS, *MIXED]),
        metavar="NAME,...",
        help=f"from {', '.join([*ESTIMATORS, *MIXED])}",
    )
    parser.add_argument("--runtimes", type=some_of(RUNTIMES), metavar="NAME,...", help="for --health and --start")
    parser.add_argument("--connections", type=counts, default=[1, 8, 32, 128], help="keep-alive connections, as 1,32")
    parser.add_argument(
        "--unique-header", action="store_true", help="send an X-Request-Id of its own with each request"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a measurement; wrk knows whole seconds")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians over the rounds")
    parser.add_argument("--rows", type=int, default=5000, help="rows of a large prediction; FLASKML_MAX_ROWS holds")
    parser.add_argument("--interval", type=float, default=0.002, help="seconds between requests for health")
    parser.add_argument("--client", choices=["auto", *CLIENTS], default="auto", help="auto: wrk where it is installed")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder of the peers' environments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    options = parser.parse_args()
    options.client = choose_client(options.client)
    options.runtimes = options.runtimes or (RUNTIMES if takes_runtime() else RUNTIMES[:1])
    peers = options.peers or ([] if options.start else [peer for peer in PEERS if peer not in SPECIAL_PEERS])
    options.peers = {peer: options.ours or PEERS[peer] for peer in peers}
    if options.start:
        options.connections = []
    return options


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
