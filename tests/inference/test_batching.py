"""Batching: concurrent callers share one call to the estimator, and each gets its own answer."""

import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import (
    MAX_BATCH_ROWS,
    MAX_BATCH_SECONDS,
    MIN_QUEUED_CALL_SECONDS,
    Batcher,
    Call,
    CallCosts,
    concatenate_answers,
)
from flaskml.schema.features import Feature, Schema
from flaskml.schema.tables import SchemaTableBuilder
from tests.support.concurrency import call_at_once

TABLE_BUILDER = SchemaTableBuilder(
    Schema(features=(Feature(name="a", kind="float"), Feature(name="b", kind="float")), layout="array")
)


class Estimator:
    """An estimator that answers twice the first column, and records the number of rows of each call."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.sizes = []

    def compute(self, table, method):
        self.sizes.append(len(table))
        time.sleep(self.seconds)
        if (table[:, 1] < 0).any():
            raise ValueError("a negative value")
        if method == "outputs":
            return [table[:, 0] * 2, table[:, :1]]
        return table[:1, 0] if method == "short" else table[:, 0] * 2


def rows(*values, b=0.0):
    return Rows([(value, b) for value in values], TABLE_BUILDER, is_single=False)


def batcher_of(estimator):
    return Batcher(estimator.compute, TABLE_BUILDER.build, ["predict", "outputs", "short"])


class FixedCosts:
    """Costs that do not depend on measurements, nor on other load on the machine."""

    def __init__(self, seconds):
        self.seconds = seconds

    def record(self, rows, seconds):
        pass

    def estimate(self, rows):
        return self.seconds


def make_slow(batcher):
    """Set costs that make threads queue for a shared call."""
    batcher.costs = dict.fromkeys(batcher.costs, FixedCosts(2 * MIN_QUEUED_CALL_SECONDS))


def test_each_call_gets_the_answer_to_its_own_rows():
    estimator = Estimator()
    batcher = batcher_of(estimator)
    calls = [Call(rows(*range(n, 2 * n))) for n in range(1, 6)]
    batcher.compute_batch(calls, "predict")
    assert estimator.sizes == [15]
    for n, call in enumerate(calls, 1):
        assert call.result().tolist() == [2.0 * value for value in range(n, 2 * n)]


def test_several_outputs_are_split_one_by_one():
    batcher = batcher_of(Estimator())
    calls = [Call(rows(1, 2)), Call(rows(3))]
    batcher.compute_batch(calls, "outputs")
    assert [part.tolist() for part in calls[1].result()] == [[6.0], [[3.0]]]


@pytest.mark.parametrize("method", ["predict", "outputs"])
def test_a_bad_row_fails_only_its_own_call(method):
    estimator = Estimator()
    batcher = batcher_of(estimator)
    calls = [Call(rows(1)), Call(rows(2, b=-1)), Call(rows(3))]
    batcher.compute_batch(calls, method)
    assert estimator.sizes == [3, 1, 1, 1]
    with pytest.raises(ValueError, match="negative"):
        calls[1].result()
    for call, value in ((calls[0], 2.0), (calls[2], 6.0)):
        assert np.ravel(call.result()[0])[0] == value


def test_calls_are_computed_alone_if_the_shared_answer_has_too_few_rows():
    batcher = batcher_of(Estimator())
    calls = [Call(rows(1)), Call(rows(2))]
    batcher.compute_batch(calls, "short")
    assert [call.result().tolist() for call in calls] == [[1.0], [2.0]]


def test_batches_are_limited_in_rows_and_seconds():
    batcher = batcher_of(Estimator())
    assert batcher.batch_lengths("predict", [MAX_BATCH_ROWS // 4] * 9) == [4, 4, 1]
    assert batcher.batch_lengths("predict", [2 * MAX_BATCH_ROWS, 1, MAX_BATCH_ROWS, 1]) == [1, 1, 1, 1]
    batcher.costs["predict"].record(1, MAX_BATCH_SECONDS / 10)
    batcher.costs["predict"].record(16, 2 * MAX_BATCH_SECONDS)
    assert batcher.batch_lengths("predict", [1] * 20) == [8, 8, 4]


def test_costs_are_estimated_by_size_and_follow_the_measurements():
    costs = CallCosts()
    assert costs.estimate(1) is None
    costs.record(4, 0.004)
    assert (
        costs.estimate(1) == costs.estimate(3) == 0.004
        and costs.estimate(8) == 0.008
        and costs.estimate(1000) == 0.004 * 256
    )
    costs.record(3, 0.002)
    assert costs.estimate(4) == pytest.approx(0.003)
    for _ in range(1000):
        costs.record(4, 0.02)
    assert costs.estimate(4) == pytest.approx(0.02, rel=0.01)


def test_costs_are_estimated_while_other_threads_record_new_sizes():
    sizes = [2**exponent for exponent in range(0, 40, 2)]

    def use(costs):
        for rows in sizes:
            costs.record(rows, 0.001)
            assert costs.estimate(3 * rows) >= 0.001

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            call_at_once([partial(use, CallCosts())] * 4)
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize("method", ["predict", "outputs"])
def test_a_method_that_holds_the_gil_is_computed_in_slices(method):
    estimator = Estimator()
    batcher = batcher_of(estimator)
    batcher.slice_rows[method] = 4
    calls = [Call(rows(*range(5))), Call(rows(*range(5, 11)))]
    batcher.compute_batch(calls, method)
    assert estimator.sizes == [4, 4, 3]
    for call, values in zip(calls, (range(5), range(5, 11)), strict=True):
        answer = call.result()
        assert np.ravel(answer[0] if method == "outputs" else answer).tolist() == [2.0 * value for value in values]
    alone = Call(rows(*range(9)))
    batcher.compute_batch([alone], method)
    assert estimator.sizes[3:] == [4, 4, 1]


def test_a_call_of_few_rows_is_not_sliced():
    estimator = Estimator()
    batcher = batcher_of(estimator)
    batcher.slice_rows["predict"] = 2
    assert batcher.compute_alone(rows(1, 2), "predict").tolist() == [2.0, 4.0]
    assert batcher.compute_alone(rows(1, 2, 3), "predict").tolist() == [2.0, 4.0, 6.0]
    assert estimator.sizes == [2, 2, 1]


def test_a_bad_row_in_a_slice_fails_only_its_own_call():
    estimator = Estimator()
    batcher = batcher_of(estimator)
    batcher.slice_rows["predict"] = 2
    calls = [Call(rows(*range(3))), Call(rows(*range(3), b=-1))]
    batcher.compute_batch(calls, "predict")
    assert calls[0].result().tolist() == [0.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="negative"):
        calls[1].result()


def test_answers_are_concatenated():
    assert concatenate_answers([np.array([1.0])]).tolist() == [1.0]
    assert concatenate_answers([np.array([1, 2]), np.array([3])]).tolist() == [1, 2, 3]
    outputs = concatenate_answers([[np.array([1]), np.array([[1.5]])], [np.array([2]), np.array([[2.5]])]])
    assert [part.tolist() for part in outputs] == [[1, 2], [[1.5], [2.5]]]
    assert concatenate_answers([np.array(["a"]), np.array(["long"])]).tolist() == ["a", "long"]


def ask_from_threads(batcher, requests, method="predict"):
    """Return the answers or errors of concurrent requests, each from a thread of its own."""
    answers = [None] * len(requests)
    start = threading.Barrier(len(requests))

    def ask(index):
        start.wait()
        try:
            answers[index] = batcher.ask(requests[index], method)
        except Exception as error:
            answers[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return answers


def test_waiting_threads_share_a_call():
    estimator = Estimator(0.02)
    batcher = batcher_of(estimator)
    make_slow(batcher)
    answers = ask_from_threads(batcher, [rows(value) for value in range(16)])
    assert [answer.tolist() for answer in answers] == [[2.0 * value] for value in range(16)]
    assert sum(estimator.sizes) == 16 and len(estimator.sizes) < 16


def test_threads_do_not_queue_for_a_cheap_method():
    estimator = Estimator()
    batcher = batcher_of(estimator)
    batcher.costs = dict.fromkeys(batcher.costs, FixedCosts(MIN_QUEUED_CALL_SECONDS / 2))
    ask_from_threads(batcher, [rows(value) for value in range(16)])
    assert estimator.sizes == [1] * 16


def test_every_thread_gets_its_own_answer_or_error():
    batcher = batcher_of(Estimator(0.001))
    make_slow(batcher)
    for turn in range(20):
        requests = [rows(value, value + turn, b=-1 if value % 5 == 4 else 0) for value in range(12)]
        for value, answer in enumerate(ask_from_threads(batcher, requests)):
            if value % 5 == 4:
                assert isinstance(answer, ValueError)
            else:
                assert answer.tolist() == [2.0 * value, 2.0 * (value + turn)]
        assert not any(queue.is_led or queue.calls for queue in batcher._queues.values())
