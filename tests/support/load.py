"""Clients that send predictions without a pause while a test changes the servers, and checks of their answers."""

import json
import random
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

CLIENT_TIMEOUT_SECONDS = 60
"""Seconds after which a request without an answer counts as failed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one request. Times are on the monotonic clock; `status` is 0 if no response arrived."""

    port: int
    sent: float
    received: float
    value: float
    """The value of the row that was sent."""

    status: int
    body: str

    @property
    def version(self):
        return json.loads(self.body)["version"]

    @property
    def prediction(self):
        return json.loads(self.body)["prediction"]


@dataclass(frozen=True, slots=True)
class Activation:
    """The activation of a version: requested and acknowledged, in seconds on the monotonic clock.

    From `requested` on, this version may answer; to a request sent after `acknowledged`, no earlier version may.
    """

    version: str
    requested: float
    acknowledged: float


class Load:
    """Client threads, each with a keep-alive connection to every server, that send requests to the servers in turn."""

    def __init__(self, ports, *, feature="x0", clients=4, pause=0.0):
        self.ports = tuple(ports)
        self.feature = feature
        self.pause = pause
        self.answers = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send_in_turn, args=(seed,)) for seed in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.wait_for(len(self.ports) * len(self._threads))
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count):
        """Wait until there are at least `count` answers."""
        deadline = time.monotonic() + CLIENT_TIMEOUT_SECONDS
        while len(self.answers) < count:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {count} answers"
            time.sleep(0.005)

    def _send_in_turn(self, seed):
        values = random.Random(seed)
        connections = {port: HTTPConnection("127.0.0.1", port, timeout=CLIENT_TIMEOUT_SECONDS) for port in self.ports}
        while not self._stopped.wait(self.pause) if self.pause else not self._stopped.is_set():
            for port, connection in connections.items():
                self.answers.append(self._send(port, connection, values.random()))
        for connection in connections.values():
            connection.close()

    def _send(self, port, connection, value):
        body = json.dumps({self.feature: value})
        sent = time.monotonic()
        try:
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read().decode()
        except (OSError, HTTPException) as error:
            connection.close()  # The next request opens it again.
            status, text = 0, repr(error)
        return Answer(port, sent, time.monotonic(), value, status, text)


@contextmanager
def record_activation(version, activations):
    """Append the activation that the block performs. The end of the block counts as its acknowledgement."""
    requested = time.monotonic()
    yield
    activations.append(Activation(version, requested, time.monotonic()))


def failed(answers: Iterable[Answer]):
    """Return the answers with another status than 200."""
    return [answer for answer in answers if answer.status != 200]


def mixed(answers: Iterable[Answer], offsets: Mapping[str, float]):
    """Return the answers whose prediction is not that of the version that they name."""
    return [answer for answer in answers if abs(answer.prediction - answer.value - offsets[answer.version]) > 1e-6]


def stale(answers: Iterable[Answer], activations: Iterable[Activation]):
    """Return the answers by a version that had been replaced before the request was sent.

    `activations` are in order and do not overlap. Two kinds of versions may answer: the last one acknowledged before
    the request was sent, and every one whose activation overlaps the request.
    """
    activations = list(activations)
    stale_answers = []
    for answer in answers:
        acknowledged = [one.version for one in activations if one.acknowledged < answer.sent]
        overlapping = [
            one.version for one in activations if one.requested < answer.received and one.acknowledged >= answer.sent
        ]
        if acknowledged and answer.version not in (acknowledged[-1], *overlapping):
            stale_answers.append(answer)
    return stale_answers
