"""Batching: concurrent requests for the same predictor and method share one call to the estimator.

Threads that ask for the same slow model share calls: the first one computes for all that queue behind it. The event
loop of `flask serve` forms its own batches from the requests of one iteration (`server/direct_requests.py`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from flaskml.codecs.answers import Answer
from flaskml.codecs.rows import Rows

MAX_BATCH_ROWS = 1024
"""Rows of the largest shared batch. A larger one gains no throughput: of the estimators measured, none has a fixed
cost per call above the cost of so many rows."""

MAX_BATCH_SECONDS = 0.005
"""Seconds that a batch of small requests may take, estimated from earlier batches of its size. This bounds the
latency: the first row of a batch waits for the last."""

MIN_QUEUED_CALL_SECONDS = 0.0005
"""Seconds that one row must take before threads queue for a shared call. Handing an answer to another thread takes
about a fifth of this."""


MAX_SLICES = 64
"""Largest number of slices of one call. Each slice has the fixed cost of a call."""


class Call:
    """One thread's rows, and their answer or error."""

    __slots__ = ("answer", "error", "leads", "lock", "rows")

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.leads = False
        self.lock: threading.Lock | None = None
        """The lock that the thread waits for; None if it computes itself."""

    def result(self) -> Answer:
        """Return the answer, or raise what the estimator raised for these rows."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError("the thread that computed this batch was stopped; send the request again")
        return self.answer


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
        smaller = max((measured for measured in tuple(self._seconds) if measured < exponent), default=None)
        if smaller is None:
            return self._seconds[min(tuple(self._seconds))]
        return self._seconds[smaller] * 2.0 ** (exponent - smaller)


class Queue:
    """The threads that wait for one method of one predictor."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.calls: deque[Call] = deque()
        self.is_led = False


class Batcher:
    """Calls to the runtime of one version, each for the rows of one caller or of several."""

    def __init__(
        self,
        compute: Callable[[Any, str], Answer],
        build_table: Callable[[Sequence[Sequence[Any]]], Any],
        methods: Sequence[str],
        *,
        is_thread_safe: bool = True,
    ) -> None:
        self.compute = compute
        self._build_table = build_table
        self.is_thread_safe = is_thread_safe
        """False if a call may wait for the lock of another; the event loop makes no such call."""

        self.costs: Mapping[str, CallCosts] = {method: CallCosts() for method in methods}
        self.slice_rows: dict[str, int] = {}
        """The rows per slice of each method that holds the GIL; no entry for any other method."""
        self._queues: Mapping[str, Queue] = {method: Queue() for method in methods}

    def ask(self, rows: Rows, method: str) -> Answer:
        """Return the method's answer to one or more rows, or raise what the estimator raises for them.

        The answer is computed in this thread, or by the thread that computes for all that wait.
        """
        seconds = self.costs[method].estimate(1)
        if seconds is None or seconds < MIN_QUEUED_CALL_SECONDS or len(rows.values) >= MAX_BATCH_ROWS:
            return self.compute_alone(rows, method)
        queue, call = self._queues[method], Call(rows)
        with queue.mutex:
            queue.calls.append(call)
            call.leads = not queue.is_led
            queue.is_led = True
            if not call.leads:
                call.lock = threading.Lock()
                call.lock.acquire()
        if call.lock is not None:
            call.lock.acquire()
        if call.leads:
            self._lead(queue, method)
        return call.result()

    def compute_alone(self, rows: Rows, method: str) -> Answer:
        """Return the same answer, computed in this thread for these rows only."""
        if 0 < self.slice_rows.get(method, 0) < len(rows.values):
            return self.compute_values(rows.values, method)
        return self._compute_timed(rows.table, len(rows.values), method)

    def compute_values(self, values: Sequence[Sequence[Any]], method: str) -> Answer:
        """Return the answer to rows of values. A method that holds the GIL computes them slice by slice."""
        slice_rows = max(self.slice_rows.get(method) or len(values), len(values) // MAX_SLICES)
        answers = []
        for start in range(0, len(values), slice_rows):
            if start:
                time.sleep(0)  # Release the GIL, so that a waiting thread runs now.
            part = values[start : start + slice_rows]
            answers.append(self._compute_timed(self._build_table(part), len(part), method))
        return concatenate_answers(answers)

    def _compute_timed(self, table: Any, row_count: int, method: str) -> Answer:
        start = time.perf_counter()
        answer = self.compute(table, method)
        self.costs[method].record(row_count, time.perf_counter() - start)
        return answer

    def _lead(self, queue: Queue, method: str) -> None:
        """Compute for all waiting calls, the leader's among them; then the first call that came meanwhile leads."""
        with queue.mutex:
            calls, queue.calls = list(queue.calls), deque()
        followers: list[Call] = []
        later: list[Call] = []
        try:
            count = self.batch_lengths(method, [len(call.rows.values) for call in calls])[0]
            batch, later = calls[:count], calls[count:]
            followers = [call for call in batch if not call.leads]
            self.compute_batch(batch, method)
        finally:
            with queue.mutex:
                queue.calls.extendleft(reversed(later))
                successor = queue.calls[0] if queue.calls else None
                queue.is_led = successor is not None
                if successor is not None:
                    successor.leads = True
            for call in [*followers, *([successor] if successor else [])]:
                if call.lock is not None:
                    call.lock.release()

    def compute_batch(self, calls: Sequence[Call], method: str) -> None:
        """Set the answer or the error of calls of one method, computed together.

        If the shared call raises, each call is computed alone: a bad row fails only its own caller.
        """
        if len(calls) > 1:
            try:
                self._compute_shared(calls, method)
                return
            except Exception:  # One row may have caused it. The rows of the other callers still get their answers.
                pass
        for call in calls:
            try:
                call.answer = self.compute_alone(call.rows, method)
            except Exception as error:  # `Call.result` raises it in the caller.
                call.error = error

    def _compute_shared(self, calls: Sequence[Call], method: str) -> None:
        values = list(chain.from_iterable(call.rows.values for call in calls))
        answer = self.compute_values(values, method)
        if answer_length(answer) != len(values):
            raise ValueError("the estimator answered a different number of rows than it was given")
        start = 0
        for call in calls:
            end = start + len(call.rows.values)
            call.answer = [part[start:end] for part in answer] if isinstance(answer, list) else answer[start:end]
            start = end

    def batch_lengths(self, method: str, row_counts: Sequence[int]) -> list[int]:
        """Split calls with so many rows each into batches, in order; return the number of calls in each batch.

        A batch of several calls has at most `MAX_BATCH_ROWS` rows. It is expected to take at most `MAX_BATCH_SECONDS`,
        unless a single row already takes longer.
        """
        costs, lengths, rows_in_batch = self.costs[method], [0], 0
        for rows in row_counts:
            rows_in_batch += rows
            if lengths[-1] and (
                rows_in_batch > MAX_BATCH_ROWS
                or (costs.estimate(rows_in_batch) or 0) > MAX_BATCH_SECONDS > (costs.estimate(1) or 0)
            ):
                lengths.append(0)
                rows_in_batch = rows
            lengths[-1] += 1
        return lengths


def answer_length(answer: Answer) -> int:
    """Return the number of rows of an answer; several outputs have one length."""
    return len(answer[0] if isinstance(answer, list) else answer)


def concatenate_answers(answers: Sequence[Answer]) -> Answer:
    """Concatenate the answers to consecutive rows into one answer; several outputs are concatenated one by one."""
    if len(answers) == 1:
        return answers[0]
    if isinstance(answers[0], list):
        return [np.concatenate(output) for output in zip(*answers, strict=True)]
    return np.concatenate([answer for answer in answers if not isinstance(answer, list)])
