"""The lane of the event loop: calls are greenlets of one thread, and a call that waits lets the others run.

A call runs until it needs an answer; then it parks. When no more can start, what is parked is computed together and
each call goes on with its own part. Nobody waits for a batch to fill; only where one is long, and computed beside the
loop, those who come meanwhile share the next, which leaves a moment for the callers of the last to come again. No lock
is held by anybody, ever: a view must not hold one either while it asks for a prediction, and a `threading.local` is
shared by all calls here.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from greenlet import getcurrent, greenlet

from flaskml.codecs.answers import Answer
from flaskml.codecs.rows import Rows
from flaskml.inference.batching import MAX_BATCH_ROWS, Batcher, Call, Result, Threads, lane

logger = logging.getLogger(__name__)

INLINE_SECONDS = 0.005
"""What a batch may cost on the loop, where all others wait for it; what costs more goes to a thread."""

TURN_SECONDS = 0.005
"""For how long one turn computes batches before the loop looks at its sockets again."""

PARKED = 10_000
"""Calls that may wait at once, at about 13 kB each; those beyond are computed on the spot."""

COMPUTING = 2
"""Threads for batches that would hold up the loop."""

QUIET_SECONDS = 0.001
"""After a long batch, the next begins when nobody has joined it for so long; those who were answered may come again.

Half of the clients in one batch and half in the next would make two of what one could answer.
"""

GATHERING = 0.5
"""For which share of what one row costs the next batch waits for others at most."""

ALIKE = 2.0
"""How many times as long as one row a batch may take for others to wait until it is over, to share the next.

One that takes longer does not gain by being shared, and a single row would wait for it in vain.
"""

BLOCKING = 8
"""Threads for views that wait for files or other processes."""


Key: TypeAlias = "tuple[Batcher, str]"
"""A predictor's batcher and a method: what calls must have in common to share a batch."""


def rows_of(calls: Iterable[Call]) -> int:
    """How many rows calls ask about."""
    return sum(len(call.rows.values) for call in calls)


@dataclass(slots=True)
class HeldCalls:
    """Calls that wait for a batch to be over."""

    calls: list[Call] = field(default_factory=list)
    rows: int = 0


@dataclass(slots=True)
class Gathering:
    """What the next long batch waits for. Times are on the performance counter."""

    calls: int
    """With how many calls it begins at once."""

    latest: float
    """When it begins at the latest."""

    until: float = 0.0
    """When it begins if nobody joins it."""

    def wait_on(self) -> None:
        """Waits for one more."""
        self.until = min(time.perf_counter() + QUIET_SECONDS, self.latest)


class Greenlets:
    """Starts calls in pooled greenlets, and wakes those that wait. Made and used by one thread, the loop's."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._hub = getcurrent()
        self._idle: list[greenlet] = []
        self._parked: list[Call] = []
        self._woken: deque[greenlet] = deque()
        self._held: dict[Key, HeldCalls] = {}
        """Calls that wait until a long batch of their predictor and method is over."""

        self._running: dict[Key, int] = {}
        """How many long batches that are worth waiting for are computed now."""

        self._over: deque[tuple[Key, int]] = deque()
        """Those that have ended, as their threads tell, and how many calls each has answered."""

        self._gathering: dict[Key, Gathering] = {}
        """What the next waits for."""

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
        return bool(self._parked or self._woken or self._over)

    def sleep_at_most(self, timeout: float) -> float:
        """For how long the loop may sleep until a batch is to begin."""
        due = [gathering.until for key, gathering in self._gathering.items() if key in self._held]
        return max(min(due) - time.perf_counter(), 0.0) if due else timeout

    def proceed(self) -> None:
        """Wakes those whose wait is over, and computes what is parked, for as long as a turn may take."""
        while self._woken:
            self._woken.popleft().switch()
        while self._over:
            self._note_end(*self._over.popleft())
        end = time.perf_counter() + TURN_SECONDS
        while self._parked and time.perf_counter() < end:
            calls, self._parked = self._parked, []
            self._compute(calls)
        for key in [key for key in self._held if self._may_begin(key)]:
            self._begin(key, self._held.pop(key).calls)

    def _compute(self, calls: list[Call]) -> None:
        groups: dict[Key, list[Call]] = {}
        for call in calls:
            groups.setdefault((call.batcher, call.method), []).append(call)
        for (batcher, method), group in groups.items():
            for batch in batcher.batches(group):
                if self._is_long(batcher, method, rows_of(batch)):
                    self._hold((batcher, method), batch)
                else:
                    batcher.compute_batch(batch)
                    for call in batch:
                        call.waiting.switch()

    def _is_long(self, batcher: Batcher, method: str, rows: int) -> bool:
        """Whether rows would hold up the loop. What was never measured is taken for long if there are many."""
        seconds = batcher.costs[method].estimate(rows)
        return rows > MAX_BATCH_ROWS if seconds is None else seconds > INLINE_SECONDS

    def _hold(self, key: Key, calls: list[Call]) -> None:
        held = self._held.setdefault(key, HeldCalls())
        held.calls += calls
        held.rows += rows_of(calls)
        if key in self._gathering:
            self._gathering[key].wait_on()

    def _may_begin(self, key: Key) -> bool:
        """Whether the calls that are held need wait for no others."""
        held = self._held[key]
        if key in self._running:
            return held.rows >= MAX_BATCH_ROWS
        gathering = self._gathering.get(key)
        return gathering is None or len(held.calls) >= gathering.calls or time.perf_counter() >= gathering.until

    def _begin(self, key: Key, calls: list[Call]) -> None:
        """Has calls computed beside the loop."""
        batcher, method = key
        self._gathering.pop(key, None)

        def finished(calls: list[Call], worth_waiting: bool, _: Future[None]) -> None:
            if worth_waiting:
                self._over.append((key, len(calls)))
            self._woken.extend(call.waiting for call in calls)
            self._wake()

        for batch in batcher.batches(calls):
            costs = batcher.costs[method]
            worth_waiting = (costs.estimate(rows_of(batch)) or math.inf) <= ALIKE * (costs.estimate(1) or 0.0)
            if worth_waiting:
                self._running[key] = self._running.get(key, 0) + 1
            work = self._computing.submit(batcher.compute_batch, batch, in_slices=True)
            work.add_done_callback(partial(finished, batch, worth_waiting))

    def _note_end(self, key: Key, answered: int) -> None:
        """A long batch is over; those who wait already give the others a moment to join them."""
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
            batcher, method = key
            if waiting := len(self._held[key].calls) if key in self._held else 0:
                longest = GATHERING * (batcher.costs[method].estimate(1) or 0.0)
                self._gathering[key] = Gathering(waiting + answered, time.perf_counter() + longest)
                self._gathering[key].wait_on()

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
            return batcher.compute_alone(rows, method)
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
