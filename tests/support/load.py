"""Clients that ask servers without a pause while a test does something to them, and what to make of the answers."""

import json
import random
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

PATIENCE = 60
"""Seconds after which a server that does not answer counts as one that never will."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got. Times are on the monotonic clock; `status` is 0 if there was no answer at all."""

    port: int
    sent: float
    received: float
    value: float
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
    """From when on a version could answer, and from when on no version before it may."""

    version: str
    asked: float
    acknowledged: float


class Load:
    """Clients with a connection to each server that is kept alive, each asking the servers in turn."""

    def __init__(self, ports, *, feature="x0", clients=4, pause=0.0):
        self.ports = tuple(ports)
        self.feature = feature
        self.pause = pause
        self.answers = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask_in_turn, args=(seed,)) for seed in range(clients)]

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
        """Returns when there are `count` answers."""
        deadline = time.monotonic() + PATIENCE
        while len(self.answers) < count:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {count} answers"
            time.sleep(0.005)

    def _ask_in_turn(self, seed):
        values = random.Random(seed)
        connections = {port: HTTPConnection("127.0.0.1", port, timeout=PATIENCE) for port in self.ports}
        while not self._stopped.wait(self.pause) if self.pause else not self._stopped.is_set():
            for port, connection in connections.items():
                self.answers.append(self._ask(port, connection, values.random()))
        for connection in connections.values():
            connection.close()

    def _ask(self, port, connection, value):
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
def activating(version, activations):
    """Records the activation that the block does, from when it is asked for to when the block ends."""
    asked = time.monotonic()
    yield
    activations.append(Activation(version, asked, time.monotonic()))


def failed(answers: Iterable[Answer]):
    """The requests that were not answered with 200."""
    return [answer for answer in answers if answer.status != 200]


def mixed(answers: Iterable[Answer], offsets: Mapping[str, float]):
    """The answers whose prediction is not the one of the version that they name."""
    return [answer for answer in answers if abs(answer.prediction - answer.value - offsets[answer.version]) > 1e-6]


def stale(answers: Iterable[Answer], activations: Iterable[Activation]):
    """The answers by a version whose successor had been acknowledged when the request was sent.

    `activations` are one after another. Right is the last one acknowledged before the request was sent, and each that
    was asked for before the answer came.
    """
    activations = list(activations)
    wrong = []
    for answer in answers:
        before = [one.version for one in activations if one.acknowledged < answer.sent]
        during = [one.version for one in activations if one.asked < answer.received and one.acknowledged >= answer.sent]
        if before and answer.version not in (before[-1], *during):
            wrong.append(answer)
    return wrong
