"""Workers that are killed and replaced while clients predict and the version changes every second."""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flaskml import publish
from flaskml.store import Store
from tests.load import Load, failed, mixed

pytest.importorskip("greenlet")

OFFSETS = {"1": 0, "2": 1000}
"""What each version adds to its row."""

CLIENTS = 8


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory):
    path = tmp_path_factory.mktemp("chaos") / "instance"
    rows = np.geomspace(0.1, 900, 32)[:, None]
    for version, offset in OFFSETS.items():
        line = LinearRegression().fit(rows, rows[:, 0] + offset)
        assert publish(line, rows, instance_path=path, runtime="sklearn") == version
    return path


@pytest.fixture
def instance(two_versions, tmp_path):
    return Path(shutil.copytree(two_versions, tmp_path / "instance"))


class Swaps(threading.Thread):
    """Activates one version after the other, one a second."""

    def __init__(self, instance):
        super().__init__()
        self._store, self._over = Store(instance), threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def run(self):
        for version in cycle(OFFSETS):
            self._store.activate("default", version, "test")
            if self._over.wait(1):
                return


def workers(server):
    pid = server.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def times(few, *more):
    """Counts of what is done: a few always, then those that take long, then ten times as many."""
    marks = (pytest.mark.thorough, pytest.mark.gauntlet)
    return [few, *(pytest.param(count, marks=mark) for count, mark in zip(more, marks, strict=True))]


@pytest.mark.parametrize("kills", times(2, 20, 200))
def test_a_killed_worker_takes_its_own_requests_with_it_and_no_others(serve, instance, kills):
    server = serve("flask serve", "--workers", "2")
    wait_until(lambda: len(workers(server)) == 2, 10)
    with Swaps(instance), Load([server.port], feature="x0", clients=CLIENTS) as load:
        for _ in range(kills):
            load.wait_for(len(load.answers) + 200)
            victim = random.choice(sorted(workers(server)))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: len(workers(server)) == 2 and victim not in workers(server), 2)
        load.wait_for(len(load.answers) + 200)
    lost = failed(load.answers)
    assert {answer.status for answer in lost} <= {0} and len(lost) <= kills * CLIENTS
    assert not [answer for answer in lost if "Refused" in answer.body]
    good = [answer for answer in load.answers if answer.status == 200]
    assert not mixed(good, OFFSETS)
    assert set(Counter(answer.version for answer in good)) == set(OFFSETS)


@pytest.mark.parametrize("hangups", times(1, 5, 50))
def test_workers_are_replaced_without_a_failed_request(serve, instance, hangups):
    server = serve("flask serve", "--workers", "2")
    wait_until(lambda: len(workers(server)) == 2, 10)
    with Swaps(instance), Load([server.port], feature="x0", clients=CLIENTS) as load:
        for _ in range(hangups):
            load.wait_for(len(load.answers) + 200)
            before = workers(server)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda before=before: len(workers(server)) == 2 and not before & workers(server), 40)
        load.wait_for(len(load.answers) + 200)
    assert not failed(load.answers) and not mixed(load.answers, OFFSETS)
