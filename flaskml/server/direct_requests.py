"""Predictions that the event loop answers itself, past WSGI and Flask: parsed, computed in batches, written.

The loop collects such requests while it reads its sockets. Once per iteration, they are parsed, grouped by predictor
and method, and each group is computed in as few calls as the measured costs allow. A call that takes long runs on a
compute thread (`compute_queue`). A request that turns out to be wrong goes to Flask, which reports every problem.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from flaskml.codecs.rows import Rows
from flaskml.inference.batching import MAX_BATCH_ROWS, Batcher
from flaskml.inference.predictor import Predictor
from flaskml.server.response_heads import Headers

logger = logging.getLogger(__name__)

MAX_ITERATION_SECONDS = 0.005
"""Seconds for which one iteration parses and computes before the loop looks at its sockets again, and of the longest
call that it makes; a longer call runs on a compute thread."""

MAX_INLINE_BODY_BYTES = 16_384
"""Bytes of the largest body that is parsed on the event loop. Parsing takes at most 60 ns per byte, so up to 1 ms."""


class Target(Protocol):
    """The model or version that a request asks, and the headers of the answer: decided by request line and headers."""

    @property
    def key(self) -> object:
        """A hashable value that is equal for requests to the same model and version."""

    @property
    def headers(self) -> Headers:
        """The headers of an answer, as a tuple, without Content-Length, Date and Server."""


@dataclass(slots=True)
class Prediction:
    """The rows of one request, and the predictor and method that answer them."""

    predictor: Predictor
    method: str
    rows: Rows


class DirectHandler(Protocol):
    """The object by which an app lets the event loop answer its predictions without Flask.

    The answers are those that Flask would give. Every method may be called by any thread.
    """

    epoch: object
    """An object that is replaced when targets that were found before may be wrong."""

    def refresh(self) -> None:
        """Notice changes of the app. The event loop calls this once per iteration with predictions."""

    def find_target(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> Target | None:
        """Return the target of a request; None if it needs Flask.

        `headers` has names in capitals with underscores. The result depends on the arguments and the epoch only.
        """

    def is_prediction(self, path: str) -> bool:
        """Return whether requests to the path are predictions."""

    def read(self, target: Target, body: bytes) -> Prediction | None:
        """Return the prediction that a body asks for; None if it needs Flask. Reads the current version once."""

    def answer(self, predictions: Sequence[Prediction]) -> list[bytes]:
        """Return the body of each answer. The predictions have one predictor and method, and share one call.

        Raises what the estimator raises.
        """


class DirectRequest:
    """A request of a connection that is answered without Flask."""

    __slots__ = ("channel", "prediction", "request", "target")

    def __init__(self, channel: Any, request: Any, target: Target) -> None:
        self.channel = channel
        self.request = request
        self.target = target
        self.prediction: Prediction | None = None

    @property
    def row_count(self) -> int:
        """The number of rows; 0 if the body has not been parsed."""
        return len(self.prediction.rows.values) if self.prediction else 0


GroupKey: TypeAlias = tuple[Batcher, str]
"""The batcher of a predictor and a method: equal for predictions that may share a call."""


class LongCalls(Protocol):
    """The part of the compute queue that the event loop's own batches need."""

    def add(self, key: GroupKey, batch: Sequence[DirectRequest]) -> None:
        """Compute parsed requests on a compute thread."""

    def add_alone(self, direct: DirectRequest) -> None:
        """Compute a request alone on a compute thread, which also parses it if that was not done yet."""


class DirectRequests:
    """The direct requests of an event loop that are parsed and computed on it. Used by its thread only.

    `finish` is called with each request and its answer, or None if Flask must answer it. `is_expired` returns whether
    the client no longer waits for the answer.
    """

    def __init__(
        self,
        handler: DirectHandler,
        long_calls: LongCalls,
        finish: Callable[[DirectRequest, bytes | None], None],
        is_expired: Callable[[DirectRequest], bool],
    ) -> None:
        self._handler = handler
        self._long_calls = long_calls
        self._finish = finish
        self._is_expired = is_expired
        self._received: deque[DirectRequest] = deque()
        self._groups: dict[GroupKey, list[DirectRequest]] = {}
        """Parsed requests that are not computed yet."""

    def __len__(self) -> int:
        return len(self._received) + sum(map(len, self._groups.values()))

    def add(self, direct: DirectRequest) -> None:
        """Queue a request for this iteration."""
        self._received.append(direct)

    def process(self) -> None:
        """Parse and compute what was received, for as long as one iteration may take."""
        end = time.perf_counter() + MAX_ITERATION_SECONDS
        self._parse(end)
        while self._groups:
            key = next(iter(self._groups))
            self._compute(key, self._groups.pop(key), end)
            if time.perf_counter() >= end:
                return

    def _parse(self, end: float) -> None:
        while self._received:
            direct = self._received.popleft()
            if direct.request.client_timeout_seconds is not None and self._is_expired(direct):
                continue
            body = direct.request.read_body()
            if len(body) > MAX_INLINE_BODY_BYTES:
                self._long_calls.add_alone(direct)
                continue
            prediction = self._read(direct, body)
            if prediction is None:
                self._finish(direct, None)
                continue
            direct.prediction = prediction
            self._groups.setdefault((prediction.predictor.batcher, prediction.method), []).append(direct)
            if time.perf_counter() >= end:
                return

    def _read(self, direct: DirectRequest, body: bytes) -> Prediction | None:
        try:
            return self._handler.read(direct.target, body)
        except BaseException:  # Nothing that a body causes may end the event loop. Flask reports it.
            logger.exception("A body could not be read; Flask serves the request")
            return None

    def _compute(self, key: GroupKey, group: list[DirectRequest], end: float) -> None:
        """Compute a group in batches; what the time does not suffice for stays for the next iteration."""
        batcher, method = key
        if len(group) == 1:
            self._compute_batch(key, group)
            return
        start = 0
        for length in batcher.batch_lengths(method, [direct.row_count for direct in group]):
            if start and time.perf_counter() >= end:
                self._groups[key] = group[start:]
                return
            self._compute_batch(key, group[start : start + length])
            start += length

    def _compute_batch(self, key: GroupKey, batch: list[DirectRequest]) -> None:
        if is_long(key, batch):
            self._long_calls.add(key, batch)
            return
        try:
            bodies = self._handler.answer([direct.prediction for direct in batch if direct.prediction])
            answered = list(zip(batch, bodies, strict=True))
        except BaseException:  # Nothing that an estimator raises may end the event loop, such as a panic of Rust.
            for direct in batch:  # A bad row fails only its own request.
                self._long_calls.add_alone(direct)
            return
        for direct, body in answered:
            self._finish(direct, body)


def is_long(key: GroupKey, batch: Sequence[DirectRequest]) -> bool:
    """Return whether a call would hold up the event loop, or may wait for a lock.

    A size without a measurement counts as long if it has many rows.
    """
    batcher, method = key
    if not batcher.is_thread_safe:
        return True
    rows = sum(direct.row_count for direct in batch)
    seconds = batcher.costs[method].estimate(rows)
    return rows > MAX_BATCH_ROWS if seconds is None else seconds > MAX_ITERATION_SECONDS
