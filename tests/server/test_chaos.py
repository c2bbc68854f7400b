"""Workers that are killed and replaced while clients predict and the version changes every second."""

import os
import random
import shutil
import signal
import threading
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from flaskml.store.model_store import ModelStore
from tests.support.load import Load, failed, mixed
from tests.support.server_processes import children, wait_until
from tests.support.two_versions import OFFSETS

pytest.importorskip("greenlet")


@pytest.fixture
def instance(two_versions, tmp_path):
    """A copy of an instance folder with two versions."""
    return Path(shutil.copytree(two_versions, tmp_path / "instance"))


CLIENTS = 8


class Swaps(threading.Thread):
    """Activates one version after the other, one a second."""

    def __init__(self, path):
        super().__init__()
        self._store, self._over = ModelStore(path), threading.Event()

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


@contextmanager
def pressed(serve, path):
    """Two workers under load, whose version changes every second; gives the supervisor's process and the load."""
    server = serve("flask serve", "--workers", "2")
    wait_until(lambda: len(children(server.process.pid)) == 2)
    with Swaps(path), Load([server.port], feature="x0", clients=CLIENTS) as load:
        yield server.process, load
        load.wait_for(len(load.answers) + 200)


def times(few, *more):
    """Counts of what is done: a few where it has to be brief, then those that take long, then many times as many."""
    marks = (pytest.mark.brief, pytest.mark.thorough, pytest.mark.gauntlet)
    return [pytest.param(count, marks=mark) for count, mark in zip((few, *more), marks, strict=False)]


@pytest.mark.parametrize("kills", times(2, 10, 200))
def test_a_killed_worker_takes_its_own_requests_with_it_and_no_others(serve, instance, kills):
    with pressed(serve, instance) as (supervisor, load):
        for _ in range(kills):
            load.wait_for(len(load.answers) + 200)
            victim = random.choice(sorted(children(supervisor.pid)))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda gone={victim}: len(now := children(supervisor.pid)) == 2 and not gone & now, 2)
    lost = failed(load.answers)
    assert {answer.status for answer in lost} <= {0} and len(lost) <= kills * CLIENTS
    assert not [answer for answer in lost if "Refused" in answer.body]
    good = [answer for answer in load.answers if answer.status == 200]
    assert not mixed(good, OFFSETS)
    assert {answer.version for answer in good} == set(OFFSETS)


@pytest.mark.parametrize("hangups", times(1, 3, 50))
def test_workers_are_replaced_without_a_failed_request(serve, instance, hangups):
    with pressed(serve, instance) as (supervisor, load):
        for _ in range(hangups):
            load.wait_for(len(load.answers) + 200)
            before = children(supervisor.pid)
            supervisor.send_signal(signal.SIGHUP)
            wait_until(lambda gone=before: len(now := children(supervisor.pid)) == 2 and not gone & now, 40)
    assert not failed(load.answers) and not mixed(load.answers, OFFSETS)
