"""Batching: concurrent requests for the same predictor and method share one call to the estimator.

A lane decides how a caller waits. On threads, the default lane, the first caller computes for all that queue behind
it. A server with an event loop sets its own lane in the context of each call that it starts.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np

from flaskml.codecs.answers import Answer
from flaskml.codecs.rows import Rows

Result = TypeVar("Result")

MAX_BATCH_ROWS = 1024
"""Rows of the largest shared batch. A larger one gains no throughput: of the estimators measured, none has a fixed
cost per call above the cost of so many rows."""

MAX_BATCH_SECONDS = 0.005
"""Seconds that a batch of small requests may take, estimated from earlier batches of its size. This bounds the
latency: the first row of a batch waits for the last."""

MIN_QUEUED_CALL_SECONDS = 0.0005
"""Seconds that one row must take before threads queue for a shared call. Handing an answer to another thread takes
about a fifth of this."""


class Call:
    """One caller's rows, and their answer or error."""

    __slots__ = ("answer", "batcher", "error", "leads", "method", "rows", "waiting")

    def __init__(self, batcher: Batcher, rows: Rows, method: str) -> None:
        self.batcher = batcher
        self.rows = rows
        self.method = method
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.leads = False
        self.waiting: Any = None
        """The lock or greenlet by which the lane wakes the caller."""

    def result(self) -> Answer:
        """Return the answer, or raise what the estimator raised for these rows."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError("the thread that computed this batch was stopped; send the request again")
        return self.answer


class Lane(Protocol):
    """The way in which a caller waits."""

    def ask(self, batcher: Batcher, rows: Rows, method: str) -> Answer:
        """Return the batcher's answer, perhaps computed together with other calls."""

    def apart(self, work: Callable[[], Result]) -> Result:
        """Return or raise the outcome of `work`, which may wait for files and processes without blocking others."""


class CallCosts:
    """Recent latencies of one method, by number of rows rounded up to a power of two.

    They are not fitted by a line: gradient boosting takes three times as long for 1,024 rows as a line through 1 to
    256 rows predicts.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def record(self, rows: int, seconds: float) -> None:
        """Update the average with one call. A faster call weighs more, because other load only makes calls slower."""
        exponent = (rows - 1).bit_length()
        average = self._seconds.get(exponent, seconds)
        self._seconds[exponent] = average + (seconds - average) / (2 if seconds < average else 16)

    def estimate(self, rows: int) -> float | None:
        """Return the seconds that a call with so many rows is expected to take; None before the first `record`.

        For a size without a measurement, it scales the next smaller measured size in proportion to the rows. Below
        the smallest measured size, it returns the cost of that size.
        """
        exponent = (rows - 1).bit_length()
        if exponent in self._seconds or not self._seconds:
            return self._seconds.get(exponent)
        smaller = max((measured for measured in self._seconds if measured < exponent), default=None)
        if smaller is None:
            return self._seconds[min(self._seconds)]
        return self._seconds[smaller] * 2.0 ** (exponent - smaller)


class Batcher:
    """Calls to the runtime of one version, each for the rows of one caller or of several."""

    def __init__(
        self,
        compute: Callable[[Any, str], Answer],
        build_table: Callable[[Sequence[Sequence[Any]]], Any],
        methods: Sequence[str],
    ) -> None:
        self.compute = compute
        self._build_table = build_table
        self.costs: Mapping[str, CallCosts] = {method: CallCosts() for method in methods}
        self.slice_rows: dict[str, int] = {}
        """The rows per slice of each method that holds the GIL; no entry for any other method."""
        self.queues: Mapping[str, Queue] = {method: Queue() for method in methods}

    def ask(self, rows: Rows, method: str) -> Answer:
        """Return the method's answer to one or more rows, or raise what the estimator raises for them."""
        return lane.get().ask(self, rows, method)

    def compute_alone(self, rows: Rows, method: str) -> Answer:
        """Return the same answer, computed in this thread and without batching."""
        return self._compute_timed(rows.table, len(rows.values), method)

    def _compute_timed(self, table: Any, row_count: int, method: str) -> Answer:
        start = time.perf_counter()
        answer = self.compute(table, method)
        self.costs[method].record(row_count, time.perf_counter() - start)
        return answer

    def compute_batch(self, calls: Sequence[Call], *, in_slices: bool = False) -> None:
        """Set the answer or the error of calls of one method, computed together.

        If the shared call raises, each call is computed alone: a bad row fails only its own caller. With `in_slices`,
        a method that holds the GIL is computed slice by slice, so that other threads run in between.
        """
        slice_rows = self.slice_rows.get(calls[0].method, 0) if in_slices else 0
        if len(calls) > 1:
            try:
                self._compute_shared(calls, slice_rows)
                return
            except Exception:  # One row may have caused it. The rows of the other callers still get their answers.
                pass
        for call in calls:
            try:
                values = call.rows.values
                if 0 < slice_rows < len(values):
                    call.answer = self._compute_slices(values, call.method, slice_rows)
                else:
                    call.answer = self.compute_alone(call.rows, call.method)
            except Exception as error:  # `Call.result` raises it in the caller.
                call.error = error

    def _compute_shared(self, calls: Sequence[Call], slice_rows: int) -> None:
        values = list(chain.from_iterable(call.rows.values for call in calls))
        answer = self._compute_slices(values, calls[0].method, slice_rows or len(values))
        if len(answer[0] if isinstance(answer, list) else answer) != len(values):
            raise ValueError("the estimator answered a different number of rows than it was given")
        start = 0
        for call in calls:
            end = start + len(call.rows.values)
            call.answer = [part[start:end] for part in answer] if isinstance(answer, list) else answer[start:end]
            start = end

    def _compute_slices(self, values: Sequence[Sequence[Any]], method: str, slice_rows: int) -> Answer:
        """Return the answer to rows of values, computed `slice_rows` rows at a time."""
        answers = []
        for start in range(0, len(values), slice_rows):
            if start:
                time.sleep(0)  # Release the GIL, so that a waiting thread runs now.
            part = values[start : start + slice_rows]
            answers.append(self._compute_timed(self._build_table(part), len(part), method))
        return concatenate_answers(answers)

    def batches(self, calls: Sequence[Call]) -> list[list[Call]]:
        """Split calls of one method into batches, in order.

        A batch of several calls has at most `MAX_BATCH_ROWS` rows. It is expected to take at most `MAX_BATCH_SECONDS`,
        unless a single row already takes longer.
        """
        batches: list[list[Call]] = []
        costs, row_count = self.costs[calls[0].method], 0
        for call in calls:
            row_count += len(call.rows.values)
            if (
                not batches
                or row_count > MAX_BATCH_ROWS
                or (costs.estimate(row_count) or 0) > MAX_BATCH_SECONDS > (costs.estimate(1) or 0)
            ):
                batches.append([])
                row_count = len(call.rows.values)
            batches[-1].append(call)
        return batches


def concatenate_answers(answers: Sequence[Answer]) -> Answer:
    """Concatenate the answers to consecutive rows into one answer; several outputs are concatenated one by one."""
    if len(answers) == 1:
        return answers[0]
    if isinstance(answers[0], list):
        return [np.concatenate(output) for output in zip(*answers, strict=True)]
    return np.concatenate([answer for answer in answers if not isinstance(answer, list)])


class Queue:
    """The threads that wait for one method of one predictor."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.calls: deque[Call] = deque()
        self.is_led = False


class Threads:
    """Callers are threads. The first computes for those who come while it does; the next of them then leads."""

    def ask(self, batcher: Batcher, rows: Rows, method: str) -> Answer:
        """Return the batcher's answer, computed here or by the thread that leads."""
        alone = batcher.costs[method].estimate(1)
        if alone is None or alone < MIN_QUEUED_CALL_SECONDS or len(rows.values) >= MAX_BATCH_ROWS:
            return batcher.compute_alone(rows, method)
        queue, call = batcher.queues[method], Call(batcher, rows, method)
        with queue.mutex:
            queue.calls.append(call)
            call.leads = not queue.is_led
            queue.is_led = True
            if not call.leads:
                call.waiting = threading.Lock()
                call.waiting.acquire()
        if not call.leads:
            call.waiting.acquire()
        if call.leads:
            self._lead(batcher, queue)
        return call.result()

    def apart(self, work: Callable[[], Result]) -> Result:
        """Return or raise the outcome of `work`; the caller has a thread of its own."""
        return work()

    def _lead(self, batcher: Batcher, queue: Queue) -> None:
        """Compute for all waiting calls, the leader's among them; then the first call that came meanwhile leads."""
        with queue.mutex:
            calls, queue.calls = queue.calls, deque()
        followers = []
        try:
            batch, *later = batcher.batches(list(calls))
            followers = [call for call in batch if call.waiting is not None and not call.leads]
            batcher.compute_batch(batch)
        finally:
            with queue.mutex:
                queue.calls.extendleft(reversed([call for rest in later for call in rest]))
                successor = queue.calls[0] if queue.calls else None
                queue.is_led = successor is not None
                if successor is not None:
                    successor.leads = True
            for call in [*followers, *([successor] if successor else [])]:
                call.waiting.release()


lane: ContextVar[Lane] = ContextVar("lane", default=Threads())  # noqa: B039 - it has no state
"""The lane of the current call."""
