"""The comparison of two servers over several rounds, as a Markdown table."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from harness import short_number
from sample import Sample

MEASURES = {
    "throughput": "requests/s",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "tail": "p99/p50",
    "cpu_microseconds": "server CPU us/request",
    "rss_mb": "RSS MB",
}

Rounds = Sequence[Mapping[str, Sample]]
"""The samples of each round by the name of the server."""


def head(below: str, above: str) -> Iterator[str]:
    """Yield the first two lines of a table in which the ratio is that of `above` to `below`."""
    yield f"| connections | measure | {below} | {above} | {above}/{below} | range |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: |"


def rows(connections: int, rounds: Rounds, below: str, above: str) -> Iterator[str]:
    """Yield a line for each measure with the medians of the rounds, and one with the errors of all."""
    for measure, label in MEASURES.items():
        middle = " | ".join(short_number(median(rounds, side, measure)) for side in (below, above))
        found = ratios(rounds, below, above, measure)
        spread = f"{min(found):.3f} to {max(found):.3f}"
        yield f"| {connections} | {label} | {middle} | {statistics.median(found):.3f} | {spread} |"
    errors = " | ".join(str(sum(sides[side].errors for sides in rounds)) for side in (below, above))
    yield f"| {connections} | errors, all rounds | {errors} | | |"


def median(rounds: Rounds, side: str, measure: str) -> float:
    """Return the median of a measure over the rounds."""
    return statistics.median(getattr(sides[side], measure) for sides in rounds)


def ratios(rounds: Rounds, below: str, above: str, measure: str) -> list[float]:
    """Return the ratio of a measure in each round, in which both servers had the same minute."""
    pairs = ((getattr(sides[below], measure), getattr(sides[above], measure)) for sides in rounds)
    return [b / a if a else math.nan for a, b in pairs]
