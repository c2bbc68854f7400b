"""The lane of the engine: calls are greenlets of one thread, and who waits lets the others run.

A call runs until it needs an answer; then it parks. When no more can start, what is parked is computed together and
each call goes on with its own part. Nobody waits for a batch to fill, and no lock is held by anybody, ever: a view
must not hold one either while it asks for a prediction, and a `threading.local` is shared by all calls here.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context

from greenlet import getcurrent, greenlet

from flaskml.answers import Answer
from flaskml.batching import BATCH_ROWS, Batcher, Call, Result, Rows, Threads, lane

logger = logging.getLogger(__name__)

INLINE_SECONDS = 0.005
"""What a batch may cost on the loop, where all others wait for it; what costs more goes to a thread."""

TURN_SECONDS = 0.005
"""For how long one turn computes batches before the loop looks at its sockets again."""

PARKED = 10_000
"""Calls that may wait at once, at about 13 kB each; those beyond are computed on the spot."""

COMPUTING = 2
"""Threads for batches that would hold up the loop."""

BLOCKING = 8
"""Threads for views that wait for files or other processes."""


class Greenlets:
    """Starts calls in pooled greenlets, and wakes those that wait. Made and used by one thread, the loop's."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._hub = getcurrent()
        self._idle: list[greenlet] = []
        self._parked: list[Call] = []
        self._woken: deque[greenlet] = deque()
        self._computing = ThreadPoolExecutor(COMPUTING, "flaskml-compute")
        self._blocking = ThreadPoolExecutor(BLOCKING, "flaskml-blocking")
        self._context = Context()
        self._context.run(lane.set, self)
        self.unfinished = 0
        """Calls that have started and not ended."""

        self.is_last = True
        """Whether no other call is about to start in this turn; then there is nobody to share a batch with."""

    # What the loop does.

    def start(self, call: Callable[[], None]) -> None:
        """Runs a call until it ends or waits."""
        worker = self._idle.pop() if self._idle else greenlet(self._work)
        worker.gr_context = self._context.copy()  # Nothing of the call before it may be seen by the next.
        self.unfinished += 1
        worker.switch(call)

    def _work(self, call: Callable[[], None]) -> None:
        while True:
            try:
                call()
            except Exception:  # Nothing that a call does may end the loop.
                logger.exception("A call failed outside of its own error handling")
            self.unfinished -= 1
            self._idle.append(getcurrent())
            call = self._hub.switch()

    @property
    def is_busy(self) -> bool:
        """Whether somebody could go on at once, so that the loop must not sleep."""
        return bool(self._parked or self._woken)

    def proceed(self) -> None:
        """Wakes those whose wait is over, and computes what is parked, for as long as a turn may take."""
        while self._woken:
            self._woken.popleft().switch()
        end = time.perf_counter() + TURN_SECONDS
        while self._parked and time.perf_counter() < end:
            calls, self._parked = self._parked, []
            self._compute(calls)

    def _compute(self, calls: list[Call]) -> None:
        groups: dict[tuple[Batcher, str], list[Call]] = {}
        for call in calls:
            groups.setdefault((call.batcher, call.method), []).append(call)
        for (batcher, method), group in groups.items():
            for batch in batcher.batches(group):
                if self._is_long(batcher, method, sum(len(call.rows.values) for call in batch)):
                    self._compute_apart(batcher, batch)
                else:
                    batcher.together(batch)
                    for call in batch:
                        call.waiting.switch()

    def _is_long(self, batcher: Batcher, method: str, rows: int) -> bool:
        """Whether rows would hold up the loop. What was never measured is taken for long if there are many."""
        seconds = batcher.costs[method].of(rows)
        return rows > BATCH_ROWS if seconds is None else seconds > INLINE_SECONDS

    def _compute_apart(self, batcher: Batcher, calls: list[Call]) -> None:
        def finished(_: Future[None]) -> None:
            self._woken.extend(call.waiting for call in calls)
            self._wake()

        self._computing.submit(batcher.together, calls, in_slices=True).add_done_callback(finished)

    def close(self) -> None:
        """Ends the threads, after what they are at."""
        for threads in (self._computing, self._blocking):
            threads.shutdown(wait=False, cancel_futures=True)

    # What calls do.

    def park(self) -> None:
        """Lets others run until the loop switches back to this call."""
        self._hub.switch()

    def wake(self, worker: greenlet) -> None:
        """Lets a call that has parked go on in this turn or the next."""
        self._woken.append(worker)

    def ask(self, batcher: Batcher, rows: Rows, method: str) -> Answer:
        """What the batcher answers, computed together with what others ask for in the same turn."""
        alone = self.is_last and not self._parked
        if (alone or len(self._parked) >= PARKED) and not self._is_long(batcher, method, len(rows.values)):
            return batcher.alone(rows, method)
        call = Call(batcher, rows, method)
        call.waiting = getcurrent()
        self._parked.append(call)
        self.park()
        return call.result()

    def apart(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises, done in a thread that may wait for files and other processes."""
        worker, context, outcome = getcurrent(), copy_context(), Future[Result]()
        context.run(lane.set, Threads())

        def do() -> None:
            try:
                outcome.set_result(context.run(work))
            except BaseException as error:  # It is raised again where the call waits.
                outcome.set_exception(error)
            self._woken.append(worker)
            self._wake()

        self._blocking.submit(do)
        self.park()
        return outcome.result()
