"""Warm-up: the latencies measured before a predictor serves, and methods that hold the GIL."""

import datetime as dt
import hashlib
import threading
import time

import numpy as np
import pytest

from flaskml.codecs.parser import Parser
from flaskml.inference import warmup
from flaskml.inference.batching import Batcher
from flaskml.inference.warmup import (
    EXAMPLE_ROWS,
    GIL_HELD_SHARE,
    MAX_PROBE_ROWS,
    TIMED_BATCH_SIZES,
    example_rows,
    gil_held_share,
    warm_up,
)
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder

SCHEMA = Schema(
    features=(
        Feature(name="size", kind="float", minimum=-1.5, maximum=2.5),
        Feature(name="rooms", kind="integer", minimum=1, maximum=8),
        Feature(name="town", kind="category", categories=("Oslo", "Rome", "Bern")),
        Feature(name="floor", kind="category", categories=(1, 2, 10), dtype="category[int64]"),
        Feature(name="member", kind="boolean"),
        Feature(name="note", kind="text"),
        Feature(name="sold", kind="datetime", minimum="2020-01-01", maximum="2021-01-01"),
        Feature(name="any", kind="float"),
        Feature(name="half", kind="float", minimum=3.0),
        Feature(name="wide", kind="float", minimum=-1.7e308, maximum=1.7e308),
        Feature(name="same", kind="integer", minimum=2**60 + 1, maximum=2**60 + 1),
        Feature(name="gaps", kind="integer", minimum=0, maximum=3, nullable=True),
    ),
    layout="frame",
    out_of_range="refuse",
)


def test_example_rows_are_valid_and_cover_the_ranges():
    rows = example_rows(SCHEMA, EXAMPLE_ROWS)
    assert len(Parser(SCHEMA, max_rows=EXAMPLE_ROWS).parse_table(rows).values) == EXAMPLE_ROWS
    sizes = [row["size"] for row in rows]
    assert min(sizes) < -1.4 and max(sizes) > 2.4 and len(set(sizes)) == EXAMPLE_ROWS
    assert {row["rooms"] for row in rows} == set(range(1, 9))
    assert {row["town"] for row in rows} == {"Oslo", "Rome", "Bern"} and {row["floor"] for row in rows} == {1, 2, 10}
    assert {row["same"] for row in rows} == {2**60 + 1}
    assert all(dt.datetime.fromisoformat(row["sold"]).year == 2020 for row in rows)


NUMBER = Schema(features=(Feature(name="a", kind="float"),), layout="array")
TABLE_BUILDER = SchemaTableBuilder(NUMBER)


def batcher_of(compute, methods=("predict",)):
    return Batcher(compute, TABLE_BUILDER.build, methods)


def test_every_method_is_timed_with_growing_batches():
    calls = []

    def compute(table, method):
        calls.append((method, len(table)))
        return table[:, 0]

    batcher = batcher_of(compute, ("predict", "transform"))
    warm_up(batcher, TABLE_BUILDER, [(0.5,), (1.5,)], ("predict", "transform"))
    for method in ("predict", "transform"):
        sizes = [size for name, size in calls if name == method]
        assert [size for size in sizes if size <= 2 ** (TIMED_BATCH_SIZES - 1)][::2] == [
            2**power for power in range(TIMED_BATCH_SIZES)
        ]
        assert all(batcher.costs[method].estimate(2**power) is not None for power in range(TIMED_BATCH_SIZES))
    assert max(size for _, size in calls) <= MAX_PROBE_ROWS
    assert batcher.slice_rows == {}


def test_a_slow_method_is_not_timed_with_many_rows():
    batch_sizes = []

    def compute(table, method):
        batch_sizes.append(len(table))
        time.sleep(0.005 * len(table))
        return table[:, 0]

    batcher = batcher_of(compute)
    warm_up(batcher, TABLE_BUILDER, [(0.5,)], ("predict",))
    assert max(batch_sizes) <= 8 and batcher.costs["predict"].estimate(1) >= 0.005


def test_warm_up_raises_the_error_of_the_estimator():
    def compute(table, method):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        warm_up(batcher_of(compute), TABLE_BUILDER, [(0.5,)], ("predict",))


def hold_the_gil():
    """Compute one operation on numbers of many digits, which never releases the GIL."""
    return pow(7, 10**1200, 10**1000 + 9)


def test_a_held_gil_is_distinguished_from_a_released_one():
    start = time.perf_counter()
    hold_the_gil()
    assert time.perf_counter() - start > 0.05
    assert max(gil_held_share(hold_the_gil) for _ in range(3)) > GIL_HELD_SHARE
    content = bytes(2**27)
    assert min(gil_held_share(lambda: hashlib.sha256(content)) for _ in range(5)) < GIL_HELD_SHARE
    assert min(gil_held_share(lambda: time.sleep(0.1)) for _ in range(5)) < GIL_HELD_SHARE


def test_a_delayed_call_does_not_make_slices_small():
    batcher = batcher_of(lambda table, method: table[:, 0])
    for power in range(11):
        batcher.costs["predict"].record(2**power, 0.05 if power in (1, 2) else 0.0015)
    assert warmup._slice_rows(batcher, "predict") == 2048


def test_the_probe_leaves_no_thread():
    before = threading.active_count()
    gil_held_share(lambda: time.sleep(0.01))
    assert threading.active_count() == before


@pytest.mark.parametrize(("share", "is_sliced"), [(0.9, True), (0.1, False)])
def test_a_method_that_holds_the_gil_gets_a_slice_size(monkeypatch, share, is_sliced):
    """The measured share decides; the measurement itself has its own test."""
    monkeypatch.setattr(warmup, "gil_held_share", lambda call: call() is None or share)

    def compute(table, method):
        time.sleep(len(table) * 2e-5)
        return table[:, 0]

    batcher = batcher_of(compute)
    warm_up(batcher, TABLE_BUILDER, [(0.5,)], ("predict",))
    assert (batcher.slice_rows.keys() == {"predict"}) is is_sliced
    if is_sliced:
        size, costs = batcher.slice_rows["predict"], batcher.costs["predict"]
        limit = max(warmup.MAX_SLICE_SECONDS, 2 * costs.estimate(1))
        assert np.log2(size).is_integer() and costs.estimate(size) <= limit < costs.estimate(2 * size)
