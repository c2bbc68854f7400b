"""Hot swap in one process: versions are activated while threads send predictions, and no answer mixes two versions."""

import json
import random
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flaskml import create_app
from flaskml.hot_reload.registry import Registry
from flaskml.publishing.trial import TrialLimits
from flaskml.store.model_store import ModelStore
from tests.support.load import Activation, Answer, failed, mixed, record_activation, stale
from tests.support.server_processes import wait_until
from tests.support.stores import accept, put, stop

OFFSETS = {"1": 0, "2": 1000}
"""The number that each version adds to its row, so that an answer identifies its version."""

THREADS = 4
ROWS_PER_REQUEST = 3


class RecordingLine(LinearRegression):
    """A line that takes 1 ms per call, long enough for threads to share calls, and records the rows of each call."""

    call_rows = ()

    def predict(self, rows):
        self.call_rows.append(len(rows))
        time.sleep(0.001)
        return super().predict(rows)


@pytest.fixture
def two_lines(tmp_path, monkeypatch, trials):
    """A store with two accepted versions, of which version 1 is active."""
    monkeypatch.setattr(RecordingLine, "call_rows", [])
    store = ModelStore(tmp_path / "instance")
    for version, offset in OFFSETS.items():
        line = RecordingLine().fit([[0.0], [1.0]], [offset, 1.0 + offset])
        accept(store, "default", put(store, line), active=version == "1")
    return store


@contextmanager
def repeating_in_threads(task):
    """Run a task again and again in several threads until the block ends. The task takes a random number generator."""
    stopped = threading.Event()

    def repeat(seed):
        generator = random.Random(seed)
        while not stopped.is_set():
            task(generator)

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def wait_for_more(answers, count):
    enough = len(answers) + count
    wait_until(lambda: len(answers) >= enough)


def test_an_activation_over_http_replaces_the_version_under_load(two_lines):
    app = create_app({"INSTANCE_PATH": two_lines.instance_path})
    answers, activations = [], [Activation("1", 0, 0)]

    def predict(generator):
        value, sent = generator.random(), time.monotonic()
        reply = app.test_client().post("/predict", json={"x": value})
        answers.append(Answer(0, sent, time.monotonic(), value, reply.status_code, reply.text))

    try:
        with repeating_in_threads(predict):
            for version in ("2", "1", "2"):
                wait_for_more(answers, 25)
                with record_activation(version, activations):
                    reply = app.test_client().put("/models/default/active", json={"version": version})
                assert (reply.status_code, reply.json["active"], reply.json["lagging"]) == (200, version, [])
            wait_for_more(answers, 25)
    finally:
        stop(app)
    assert failed(answers) == mixed(answers, OFFSETS) == stale(answers, activations) == []
    assert {answer.version for answer in answers} == set(OFFSETS) and answers[-1].version == "2"


def test_a_refresh_swaps_the_version_between_shared_batches(two_lines):
    registry = Registry(two_lines, TrialLimits(), max_rows=10)
    slot, answers, activations = registry.slot_for("default"), [], [Activation("1", 0, 0)]
    versions = {offset: version for version, offset in OFFSETS.items()}

    def predict(generator):
        values = np.array([[generator.random()] for _ in range(ROWS_PER_REQUEST)])
        sent = time.monotonic()
        predictions = slot.predict(values)
        answered_by = "+".join(sorted({versions[round(offset)] for offset in predictions - values[:, 0]}))
        body = json.dumps({"version": answered_by})
        answers.append(Answer(0, sent, time.monotonic(), values[0, 0], 200, body))

    with repeating_in_threads(predict):
        for version in ("2", "1", "2"):
            wait_for_more(answers, 25)
            with record_activation(version, activations):
                two_lines.activate("default", version, "test")
                registry.refresh()
        wait_for_more(answers, 25)
    shared_rows = {count * ROWS_PER_REQUEST for count in range(2, THREADS + 1)}  # Warm-up calls have powers of two.
    assert shared_rows & set(RecordingLine.call_rows), "no call was shared"
    assert {answer.version for answer in answers} == set(OFFSETS) and answers[-1].version == "2"
    assert stale(answers, activations) == []
