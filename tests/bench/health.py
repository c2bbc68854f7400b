"""The latency of health checks during large predictions that follow one another."""

import argparse
import json
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from harness import Load, Server, ServerError, ask, load_with_python
from peers.sides import Side
from peers.workload import Workload
from running import run

MODELS = ("small-forest", "gradient-boosting", "histogram-boosting", "neighbours", "support-vectors")


@dataclass(frozen=True)
class Figures:
    """Milliseconds of GET /livez alone, of GET /livez during large predictions, and of these; the sum of all errors."""

    alone_p50: float
    alone_p99: float
    p50: float
    p99: float
    large_p50: float
    large_p99: float
    errors: float


def measure(side: Side, workload: Workload, options: argparse.Namespace) -> Figures:
    """Serve the workload by the side in each round, and return the medians of the rounds."""
    rounds = [_measure_once(side, workload, options) for _ in range(options.rounds)]
    medians = {field.name: statistics.median(getattr(one, field.name) for one in rounds) for field in fields(Figures)}
    return Figures(**{**medians, "errors": sum(one.errors for one in rounds)})


def head(options: argparse.Namespace) -> Iterator[str]:
    """Yield what is measured, and the first two lines of its table."""
    interval = options.interval * 1e3
    yield f"GET /livez each {interval:g} ms during predictions of {options.rows} rows back to back, in milliseconds;"
    yield f"requests due while an answer was late count. Medians of {options.rounds} rounds, {options.seconds:g} s."
    yield ""
    yield "| model | server | alone p50 | p99 | during p50 | p99 | large p50 | p99 |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"


def row(name: str, workload: Workload, figures: Figures) -> str:
    """Return the line of one server."""
    values = [getattr(figures, field.name) for field in fields(Figures) if field.name != "errors"]
    return f"| {workload.name} | {name} | {' | '.join(f'{value:.2f}' for value in values)} |"


def _measure_once(side: Side, workload: Workload, options: argparse.Namespace) -> Figures:
    table = np.resize(workload.table, (options.rows, len(workload.features)))
    large = Load("/predict", json.dumps({"instances": table.tolist()}), 1, options.seconds)
    livez = Load("/livez", "", 1, options.seconds, interval_seconds=options.interval)
    with run(side, workload, options.cache) as (server, _), ThreadPoolExecutor(1) as pool:
        _check(server, large, workload.estimator.predict(table))
        alone = load_with_python(server, livez)
        busy = pool.submit(load_with_python, server, large)
        beside = load_with_python(server, livez)
        heavy = busy.result()
    errors = alone.errors + beside.errors + heavy.errors
    times = (moment for outcome in (alone, beside, heavy) for moment in (outcome.p50_ms, outcome.p99_ms))
    return Figures(*times, errors)


def _check(server: Server, large: Load, expected: np.ndarray) -> None:
    """Raise ServerError unless the large prediction is the estimator's."""
    found = json.loads(ask(server, large.path, large.body))["predictions"]
    if not np.allclose(found, expected, rtol=1e-5):
        raise ServerError("a large prediction is not the estimator's")
