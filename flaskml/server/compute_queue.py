"""Direct predictions that would hold up the event loop: they wait here for a compute thread.

Two calls of a predictor run at once at most: a batch of small requests, and one large request. So no slow model takes
all threads, and a single row does not wait for a request of thousands. Small requests that arrive during a
batch share the next one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from flaskml.inference.batching import Batcher
from flaskml.server.direct_requests import DirectHandler, DirectRequest, GroupKey
from flaskml.server.threads import ThreadPool

MAX_COMPUTE_THREADS = 32
"""Compute threads of one process. They start when they are needed."""

QUIET_SECONDS = 0.001
"""Seconds without a further request after which the next batch begins.

The clients that were answered by the last batch may send their next requests. If half of the clients were in one batch
and half in the next, each row would wait for two batches.
"""

MAX_GATHERING_SHARE = 0.5
"""The longest wait for further requests, as a share of the time of a call for one row."""

SMALL_REQUEST_COST = 2.0
"""The largest time of a small request, as a multiple of the time of one row. A larger one gains little from sharing a
call, and others would wait for it."""


class ComputeTask:
    """A task for a compute thread."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def service(self) -> None:
        """Run the task."""
        self._work()

    def cancel(self) -> None:
        """Do nothing: the server that waits for the result is ending."""


@dataclass(slots=True)
class SmallRequests:
    """The small requests of one predictor and method. Times are on the performance counter."""

    waiting: list[DirectRequest] = field(default_factory=list)
    expected: int = 0
    """Number of requests with which the next batch begins at once."""

    begins_at: float = 0.0
    """Time at which the next batch begins if no further request arrives."""

    begins_by: float = 0.0
    """Time at which the next batch begins in any case."""

    def wait_on(self) -> None:
        """Wait for one more request."""
        self.begins_at = min(time.perf_counter() + QUIET_SECONDS, self.begins_by)

    def may_begin(self) -> bool:
        """Return whether the next batch need not wait for further requests."""
        return len(self.waiting) >= self.expected or time.perf_counter() >= self.begins_at


class ComputeQueue:
    """The waiting direct predictions, and the threads that compute them. Used by the event loop's thread only.

    `finish` is called with each request and its answer, or None if Flask must answer it. `is_expired` returns whether
    the client no longer waits for the answer.
    """

    def __init__(
        self,
        handler: DirectHandler,
        finish: Callable[[DirectRequest, bytes | None], None],
        is_expired: Callable[[DirectRequest], bool],
        wake: Callable[[], None],
    ) -> None:
        self._handler = handler
        self._finish = finish
        self._is_expired = is_expired
        self._wake = wake
        self.threads = ThreadPool(MAX_COMPUTE_THREADS)
        self._small: dict[GroupKey, SmallRequests] = {}
        self._running: set[Batcher] = set()
        """The predictors of which a batch of small requests is being computed."""

        self._large: dict[object, deque[DirectRequest]] = {}
        """The large requests of each target: the first one is being computed."""

        self._done: deque[Callable[[], None]] = deque()
        """Steps that the event loop takes after calls that have ended."""

        self._unfinished = 0

    def __len__(self) -> int:
        return self._unfinished

    @property
    def is_busy(self) -> bool:
        """True if a call has ended, so that the event loop must not sleep."""
        return bool(self._done)

    def sleep_at_most(self, timeout: float) -> float:
        """Return the seconds until the next batch begins, at most `timeout`."""
        waiting = [small for key, small in self._small.items() if key[0] not in self._running]
        due = [small.begins_at for small in waiting if small.waiting]
        return min(max(min(due) - time.perf_counter(), 0.0), timeout) if due else timeout

    def add(self, key: GroupKey, batch: Sequence[DirectRequest]) -> None:
        """Compute parsed requests on a compute thread, each in a shared call or alone, by its size."""
        batcher, method = key
        costs = batcher.costs[method]
        limit = SMALL_REQUEST_COST * (costs.estimate(1) or math.inf)
        for direct in batch:
            if (costs.estimate(direct.row_count) or 0.0) > limit:
                self.add_alone(direct)
            else:
                self._unfinished += 1
                small = self._small.setdefault(key, SmallRequests())
                small.waiting.append(direct)
                small.wait_on()

    def add_alone(self, direct: DirectRequest) -> None:
        """Compute a request alone on a compute thread, which also parses it if that was not done yet."""
        self._unfinished += 1
        queue = self._large.setdefault(direct.target.key, deque())
        queue.append(direct)
        if len(queue) == 1:
            self._begin_large(direct.target.key)

    def proceed(self) -> None:
        """Finish the requests whose calls have ended, and begin the batches that are due."""
        while self._done:
            self._done.popleft()()
        for key, small in list(self._small.items()):
            if key[0] in self._running:
                continue
            if not small.waiting:
                del self._small[key]
            elif small.may_begin():
                self._begin_small(key, small)

    def stop(self) -> None:
        """End the threads, each after the call that it runs."""
        self.threads.stop()

    def _begin_small(self, key: GroupKey, small: SmallRequests) -> None:
        small.waiting = [direct for direct in small.waiting if not self._drop(direct)]
        if not small.waiting:
            del self._small[key]  # It would keep the predictor in memory.
            return
        batcher, method = key
        length = batcher.batch_lengths(method, [direct.row_count for direct in small.waiting])[0]
        batch, small.waiting = small.waiting[:length], small.waiting[length:]
        self._running.add(batcher)
        self._start(batch, partial(self._end_small, key, small, len(batch)))

    def _end_small(self, key: GroupKey, small: SmallRequests, answered: int) -> None:
        """Note the end of a batch. Requests that wait already give the answered clients a moment to join them."""
        batcher, method = key
        self._running.discard(batcher)
        small.expected = len(small.waiting) + answered if small.waiting else 0
        small.begins_by = time.perf_counter() + MAX_GATHERING_SHARE * (batcher.costs[method].estimate(1) or 0.0)
        small.wait_on()

    def _begin_large(self, key: object) -> None:
        queue = self._large[key]
        while queue and self._drop(queue[0]):
            queue.popleft()
        if queue:
            self._start([queue[0]], partial(self._end_large, key))
        else:
            del self._large[key]

    def _end_large(self, key: object) -> None:
        self._large[key].popleft()
        self._begin_large(key)

    def _drop(self, direct: DirectRequest) -> bool:
        """Drop a request whose client no longer waits for the answer; return whether it was dropped."""
        is_dropped = self._is_expired(direct)
        self._unfinished -= is_dropped
        return is_dropped

    def _start(self, batch: list[DirectRequest], end: Callable[[], None]) -> None:
        self.threads.add_task(ComputeTask(partial(self._compute, batch, end)))

    def _compute(self, batch: list[DirectRequest], end: Callable[[], None]) -> None:
        """Compute a batch on a compute thread, and let the event loop finish its requests."""
        bodies: list[bytes | None] = [None] * len(batch)
        try:
            bodies = self._answers(batch)
        finally:
            self._done.append(partial(self._end, batch, bodies, end))
            self._wake()

    def _answers(self, batch: list[DirectRequest]) -> list[bytes | None]:
        if len(batch) > 1:
            try:
                return list(self._handler.answer([direct.prediction for direct in batch if direct.prediction]))
            except BaseException:  # One row may have caused it. The other requests still get their answers.
                pass
        return [self._answer_alone(direct) for direct in batch]

    def _answer_alone(self, direct: DirectRequest) -> bytes | None:
        try:
            prediction = direct.prediction or self._handler.read(direct.target, direct.request.read_body())
            return self._handler.answer([prediction])[0] if prediction else None
        except BaseException:  # Flask reports it: it computes the request once more.
            return None

    def _end(self, batch: list[DirectRequest], bodies: list[bytes | None], end: Callable[[], None]) -> None:
        self._unfinished -= len(batch)
        end()
        for direct, body in zip(batch, bodies, strict=True):
            self._finish(direct, body)
