"""What a predictor is found to cost before it serves, so that the first clients are not who finds out.

Each method is called with more and more rows. Where a long call holds the interpreter all the while, no thread helps
those who wait beside it: its batches will be computed in slices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

from flaskml.codecs.parser import Rows, TableBuilder
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema, Value

TIMED_BATCH_SIZES = 11
"""Powers of two up to which batches are timed, from one row on: to 1,024."""

SLOW_CALL_SECONDS = 0.02
"""Seconds of a call after which no larger batch is timed."""

EXAMPLE_ROWS = 64
"""Rows that are made up; larger batches hold them again and again."""

MAX_PROBE_ROWS = 8_192
"""Rows of the largest call that is watched."""

MIN_PROBE_SECONDS = 0.005
"""Seconds that a call has to take for what happens beside it to be seen."""

PROBE_ATTEMPTS = 3
"""How often it is watched: whatever else the machine does looks as if the interpreter were held."""

GIL_HELD_SHARE = 0.5
"""The share of a call in which nobody else ran from which it is taken to hold the interpreter."""

MAX_SLICE_SECONDS = 0.002
"""What a slice may cost."""

PROBE_TICK_SECONDS = 0.0002
"""Seconds that somebody beside the call sleeps between two looks at the clock."""


def warm_up(
    batcher: Batcher, table_builder: TableBuilder, some: Sequence[Sequence[Any]], methods: Sequence[str]
) -> None:
    """Times every method with more and more of the rows, and finds which of them have to be sliced."""

    def rows(count: int) -> Rows:
        return Rows(list(islice(cycle(some), count)), table_builder, is_single=False)

    for method in methods:
        size = 1
        for _ in range(TIMED_BATCH_SIZES):
            for _ in range(2):  # The first call of a size does what later ones need not.
                batcher.alone(rows(size), method)
            if (batcher.costs[method].of(size) or 0) >= SLOW_CALL_SECONDS:
                break
            size *= 2
        long = _long(batcher, method)
        if long and all(
            gil_held_share(partial(batcher.alone, rows(long), method)) > GIL_HELD_SHARE for _ in range(PROBE_ATTEMPTS)
        ):
            batcher.slices[method] = _slice(batcher, method)


def example_rows(schema: Schema, count: int) -> list[dict[str, Value]]:
    """Rows from all over the ranges of training, for trees are faster where all rows take the same way."""
    return [
        {
            feature.name: _at((number * (0.618 + 0.1 * index)) % 1, feature)
            for index, feature in enumerate(schema.features)
        }
        for number in range(count)
    ]


def _at(share: float, feature: Feature) -> Value:
    """The value that lies so far between the least and the greatest of training."""
    if feature.categories is not None:
        return feature.categories[int(share * len(feature.categories))]
    low, high = feature.span
    if not feature.is_number or low is None or high is None:
        return feature.example
    value = float(low) * (1 - share) + float(high) * share
    return int(min(max(round(value), low), high)) if feature.kind == "integer" else float(min(max(value, low), high))


def _long(batcher: Batcher, method: str) -> int | None:
    """How many rows take long enough to see what happens beside them; None if that is more than requests have."""
    costs, size = batcher.costs[method], 1
    while (costs.of(size) or 0) < MIN_PROBE_SECONDS:
        size *= 2
        if size > MAX_PROBE_ROWS:
            return None
    return size


def _slice(batcher: Batcher, method: str) -> int:
    """The most rows, a power of two, that cost no more than a slice may, or than twice what a single row costs.

    Smaller ones would do little but begin: what a call costs before its first row is not to be paid for every few.
    """
    costs, size = batcher.costs[method], 1
    limit = max(MAX_SLICE_SECONDS, 2 * (costs.of(1) or 0))
    while size < MAX_PROBE_ROWS and (costs.of(2 * size) or 0) <= limit:
        size *= 2
    return size


def gil_held_share(call: Callable[[], object]) -> float:
    """The longest time in which nobody else could run beside a call, as a share of the call."""
    seconds: list[float] = []

    def timed() -> None:
        time.sleep(PROBE_TICK_SECONDS)  # Whoever watches does so by then, even if the call lets nobody.
        start = time.perf_counter()
        try:
            call()
        finally:
            seconds.append(time.perf_counter() - start)

    thread = threading.Thread(target=timed)
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while not seconds:
        time.sleep(PROBE_TICK_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest / seconds[0]
