"""Many callers, one call: rows that wait for the same predictor and method are computed together.

How a caller waits is its lane's affair. On threads, the default, the first to come computes for all who queue behind
it. A server with a loop of its own sets its own lane in the context of each call that it starts.
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
from flaskml.codecs.parser import Rows

Result = TypeVar("Result")

MAX_BATCH_ROWS = 1024
"""Rows beyond which nothing is gained: of the estimators measured, none has a larger base cost than these rows."""

MAX_BATCH_SECONDS = 0.005
"""What a batch of small requests may cost, by what batches of its size have cost: its first row waits for the last."""

MIN_QUEUED_CALL_SECONDS = 0.0005
"""Seconds that a row alone must cost before threads queue for each other; handing over costs them about a fifth."""


class Call:
    """One caller's question, and what became of it."""

    __slots__ = ("answer", "batcher", "error", "leads", "method", "rows", "waiting")

    def __init__(self, batcher: Batcher, rows: Rows, method: str) -> None:
        self.batcher = batcher
        self.rows = rows
        self.method = method
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.leads = False
        self.waiting: Any = None
        """What its lane wakes the caller by."""

    def result(self) -> Answer:
        """The answer; raises what the estimator raised at these very rows."""
        if self.error is not None:
            raise self.error
        if self.answer is None:
            raise RuntimeError("the thread that computed for this one was stopped")
        return self.answer


class Lane(Protocol):
    """How a caller waits."""

    def ask(self, batcher: Batcher, rows: Rows, method: str) -> Answer:
        """What the batcher answers, perhaps computed together with others."""

    def apart(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, which may wait for files and other processes without holding up anybody."""


class CallCosts:
    """What calls of a method have cost lately, by the power of two that their rows fill.

    No line fits: gradient boosting at 1,024 rows costs three times what a line through 1 to 256 says.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def note(self, rows: int, seconds: float) -> None:
        """Takes in what a call cost. A faster one counts for more: whatever else the machine did only delays."""
        size = (rows - 1).bit_length()
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + (seconds - known) / (2 if seconds < known else 16)

    def of(self, rows: int) -> float | None:
        """What so many rows would cost, in seconds: None if nothing is known."""
        size = (rows - 1).bit_length()
        if size in self._seconds or not self._seconds:
            return self._seconds.get(size)
        smaller = max((known for known in self._seconds if known < size), default=None)
        if smaller is None:
            return self._seconds[min(self._seconds)]
        return self._seconds[smaller] * 2.0 ** (size - smaller)


class Batcher:
    """Asks one version's runtime, for one caller or for many at once."""

    def __init__(
        self,
        compute: Callable[[Any, str], Answer],
        table: Callable[[Sequence[Sequence[Any]]], Any],
        methods: Sequence[str],
    ) -> None:
        self.compute = compute
        self._table = table
        self.costs: Mapping[str, CallCosts] = {method: CallCosts() for method in methods}
        self.slices: dict[str, int] = {}
        """The rows after which a method that holds the interpreter is to let others run; none for any other."""
        self.queues: Mapping[str, Queue] = {method: Queue() for method in methods}

    def ask(self, rows: Rows, method: str) -> Answer:
        """What the method answers to the rows, at least one; raises what the estimator raises at them."""
        return lane.get().ask(self, rows, method)

    def alone(self, rows: Rows, method: str) -> Answer:
        """The same, computed here and now."""
        return self._timed(rows.table, len(rows.values), method)

    def _timed(self, table: Any, count: int, method: str) -> Answer:
        start = time.perf_counter()
        answer = self.compute(table, method)
        self.costs[method].note(count, time.perf_counter() - start)
        return answer

    def together(self, calls: Sequence[Call], *, in_slices: bool = False) -> None:
        """Answers calls of one method: each gets its own rows' answer, or what the estimator raises at these alone.

        In a thread beside others, `in_slices` lets these run now and then, where the estimator itself does not.
        """
        most = self.slices.get(calls[0].method, 0) if in_slices else 0
        if len(calls) > 1:
            try:
                self._share(calls, most)
                return
            except Exception:  # One row may be to blame; its neighbours are not.
                pass
        for call in calls:
            try:
                sliced = 0 < most < len(call.rows.values)
                call.answer = (
                    self._sliced(call.rows.values, call.method, most) if sliced else self.alone(call.rows, call.method)
                )
            except Exception as error:  # It is raised again where the caller waits.
                call.error = error

    def _share(self, calls: Sequence[Call], most: int) -> None:
        values = list(chain.from_iterable(call.rows.values for call in calls))
        answer = self._sliced(values, calls[0].method, most or len(values))
        if len(answer[0] if isinstance(answer, list) else answer) != len(values):
            raise ValueError("the rows and the answers differ in number")
        start = 0
        for call in calls:
            end = start + len(call.rows.values)
            call.answer = [part[start:end] for part in answer] if isinstance(answer, list) else answer[start:end]
            start = end

    def _sliced(self, values: Sequence[Sequence[Any]], method: str, most: int) -> Answer:
        """The answer to rows, `most` of them at a time."""
        parts = []
        for start in range(0, len(values), most):
            if start:
                time.sleep(0)  # Whoever waits for the interpreter gets it now.
            part = values[start : start + most]
            parts.append(self._timed(self._table(part), len(part), method))
        return concatenate_answers(parts)

    def batches(self, calls: Sequence[Call]) -> list[list[Call]]:
        """Calls of one method in batches, in order, none larger than pays."""
        batches: list[list[Call]] = []
        costs, count = self.costs[calls[0].method], 0
        for call in calls:
            count += len(call.rows.values)
            if not batches or count > MAX_BATCH_ROWS or (costs.of(count) or 0) > MAX_BATCH_SECONDS > (costs.of(1) or 0):
                batches.append([])
                count = len(call.rows.values)
            batches[-1].append(call)
        return batches


def concatenate_answers(parts: Sequence[Answer]) -> Answer:
    """The answers to some rows after the other as one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], list):
        return [np.concatenate(output) for output in zip(*parts, strict=True)]
    return np.concatenate([part for part in parts if not isinstance(part, list)])


class Queue:
    """The threads that wait for one method of one predictor."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.calls: deque[Call] = deque()
        self.is_led = False


class Threads:
    """Callers are threads. The first computes for those who come while it does; the next of them then leads."""

    def ask(self, batcher: Batcher, rows: Rows, method: str) -> Answer:
        """What the batcher answers, computed here, or by the thread that leads."""
        alone = batcher.costs[method].of(1)
        if alone is None or alone < MIN_QUEUED_CALL_SECONDS or len(rows.values) >= MAX_BATCH_ROWS:
            return batcher.alone(rows, method)
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
        """What `work` returns or raises; a thread of its own is what it is in."""
        return work()

    def _lead(self, batcher: Batcher, queue: Queue) -> None:
        """Computes for all who wait, the leader among them, and hands on to the first of those who came meanwhile."""
        with queue.mutex:
            calls, queue.calls = queue.calls, deque()
        followers = []
        try:
            batch, *later = batcher.batches(list(calls))
            followers = [call for call in batch if call.waiting is not None and not call.leads]
            batcher.together(batch)
        finally:
            with queue.mutex:
                queue.calls.extendleft(reversed([call for rest in later for call in rest]))
                successor = queue.calls[0] if queue.calls else None
                queue.is_led = successor is not None
                if successor is not None:
                    successor.leads = True
            for call in [*followers, *([successor] if successor else [])]:
                call.waiting.release()


lane: ContextVar[Lane] = ContextVar("lane", default=Threads())  # noqa: B039 - it holds nothing
"""Where the present call runs."""
