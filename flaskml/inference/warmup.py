"""Warm-up: the calls that a predictor answers before it serves, and the latencies measured with them.

Warm-up calls each method with growing batches, so that no client pays for first calls. If a long call holds the GIL
throughout, moving it to another thread does not help the requests beside it. Batches of such a method are therefore
computed in slices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

from flaskml.codecs.rows import Rows, TableBuilder
from flaskml.inference.batching import Batcher
from flaskml.schema.features import Feature, Schema, Value

TIMED_BATCH_SIZES = 11
"""The number of batch sizes that are timed: the powers of two from 1 to 1,024 rows."""

SLOW_CALL_SECONDS = 0.02
"""Seconds of a call after which no larger batch is timed."""

EXAMPLE_ROWS = 64
"""Rows that are made up. Larger batches repeat them."""

MAX_PROBE_ROWS = 8_192
"""Rows of the largest call that is probed for holding the GIL."""

MIN_PROBE_SECONDS = 0.005
"""Seconds that a probed call takes at least: during a shorter one, no effect on other threads is measurable."""

PROBE_ATTEMPTS = 3
"""The number of probes, which must agree: any other load on the machine looks like a held GIL."""

GIL_HELD_SHARE = 0.5
"""The share of a call without a turn for another thread, above which the call counts as holding the GIL."""

MAX_SLICE_SECONDS = 0.002
"""Seconds that a slice may take."""

PROBE_TICK_SECONDS = 0.0002
"""Seconds that the probing thread sleeps between two readings of the clock."""


def warm_up(
    batcher: Batcher, table_builder: TableBuilder, example_values: Sequence[Sequence[Any]], methods: Sequence[str]
) -> None:
    """Time every method with growing batches of the example rows, and set the slice size of methods that hold the GIL.

    `example_values` has shape (rows, features). Raises what the estimator raises.
    """

    def rows(count: int) -> Rows:
        return Rows(list(islice(cycle(example_values), count)), table_builder, is_single=False)

    for method in methods:
        size = 1
        for _ in range(TIMED_BATCH_SIZES):
            for _ in range(2):  # The first call of a size does one-time work.
                batcher.compute_alone(rows(size), method)
            if (batcher.costs[method].estimate(size) or 0) >= SLOW_CALL_SECONDS:
                break
            size *= 2
        probe_rows = _probe_rows(batcher, method)
        if probe_rows and all(
            gil_held_share(partial(batcher.compute_alone, rows(probe_rows), method)) > GIL_HELD_SHARE
            for _ in range(PROBE_ATTEMPTS)
        ):
            batcher.slice_rows[method] = _slice_rows(batcher, method)


def example_rows(schema: Schema, count: int) -> list[dict[str, Value]]:
    """Make up rows spread over the ranges of training: a tree is faster if all rows take the same path."""
    return [
        {
            feature.name: _value_at((number * (0.618 + 0.1 * index)) % 1, feature)
            for index, feature in enumerate(schema.features)
        }
        for number in range(count)
    ]


def _value_at(share: float, feature: Feature) -> Value:
    """Return the value at this share, from 0 to 1, of the way from the minimum to the maximum of training."""
    if feature.categories is not None:
        return feature.categories[int(share * len(feature.categories))]
    low, high = feature.observed_range
    if not feature.is_number or low is None or high is None:
        return feature.example
    value = float(low) * (1 - share) + float(high) * share
    return int(min(max(round(value), low), high)) if feature.kind == "integer" else float(min(max(value, low), high))


def _probe_rows(batcher: Batcher, method: str) -> int | None:
    """Return how many rows take long enough for a probe; None if that is more than `MAX_PROBE_ROWS`."""
    costs, size = batcher.costs[method], 1
    while (costs.estimate(size) or 0) < MIN_PROBE_SECONDS:
        size *= 2
        if size > MAX_PROBE_ROWS:
            return None
    return size


def _slice_rows(batcher: Batcher, method: str) -> int:
    """Return the largest power of two of rows that takes at most `MAX_SLICE_SECONDS`, or twice as long as one row.

    In smaller slices, the fixed cost of each call would dominate. Every size is considered, because a disturbance of
    the machine may have delayed the calls of a smaller one.
    """
    costs = batcher.costs[method]
    limit = max(MAX_SLICE_SECONDS, 2 * (costs.estimate(1) or 0))
    sizes = (1 << power for power in range(MAX_PROBE_ROWS.bit_length()))
    return max(size for size in sizes if size == 1 or (costs.estimate(size) or 0) <= limit)


def gil_held_share(call: Callable[[], object]) -> float:
    """Return the longest time without a turn for this thread during a call in another, as a share of the call."""
    durations: list[float] = []

    def timed_call() -> None:
        time.sleep(PROBE_TICK_SECONDS)  # The probing thread starts now, even if the call never releases the GIL.
        start = time.perf_counter()
        try:
            call()
        finally:
            durations.append(time.perf_counter() - start)

    thread = threading.Thread(target=timed_call)
    thread.start()
    longest, last = 0.0, time.perf_counter()
    while not durations:
        time.sleep(PROBE_TICK_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest / durations[0]
