"""Fault injection: workers are killed or restarted under load, while the active version changes every second."""

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


@pytest.fixture
def instance(two_versions, tmp_path):
    """Return a copy of an instance folder with two versions."""
    return Path(shutil.copytree(two_versions, tmp_path / "instance"))


CLIENTS = 8


class VersionSwapper(threading.Thread):
    """A thread that activates the versions in turn, one per second."""

    def __init__(self, path):
        super().__init__()
        self._store, self._stopped = ModelStore(path), threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self._stopped.set()
        self.join()

    def run(self):
        for version in cycle(OFFSETS):
            self._store.activate("default", version, "test")
            if self._stopped.wait(1):
                return


@contextmanager
def server_under_load(serve, path):
    """Serve with two workers under load and version swaps; yield the supervisor's process and the load."""
    server = serve("flask serve", "--workers", "2")
    wait_until(lambda: len(children(server.process.pid)) == 2)
    with VersionSwapper(path), Load([server.port], feature="x0", clients=CLIENTS) as load:
        yield server.process, load
        load.wait_for(len(load.answers) + 200)


def repetitions(*counts):
    """Return the counts as parameters for brief, thorough and gauntlet test runs."""
    marks = (pytest.mark.brief, pytest.mark.thorough, pytest.mark.gauntlet)
    return [pytest.param(count, marks=mark) for count, mark in zip(counts, marks, strict=True) if count]


@pytest.mark.parametrize("kills", repetitions(2, 3, 200))
def test_a_killed_worker_loses_only_its_own_requests(serve, instance, kills):
    with server_under_load(serve, instance) as (supervisor, load):
        for _ in range(kills):
            load.wait_for(len(load.answers) + 200)
            victim = random.choice(sorted(children(supervisor.pid)))
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda former={victim}: len(now := children(supervisor.pid)) == 2 and not former & now, 2)
    lost = failed(load.answers)
    assert {answer.status for answer in lost} <= {0} and len(lost) <= kills * CLIENTS
    assert not [answer for answer in lost if "Refused" in answer.body]
    succeeded = [answer for answer in load.answers if answer.status == 200]
    assert not mixed(succeeded, OFFSETS)
    assert {answer.version for answer in succeeded} == set(OFFSETS)


@pytest.mark.parametrize("restarts", repetitions(1, 0, 50))
def test_rolling_restarts_fail_no_request(serve, instance, restarts):
    with server_under_load(serve, instance) as (supervisor, load):
        for _ in range(restarts):
            load.wait_for(len(load.answers) + 200)
            former = children(supervisor.pid)
            supervisor.send_signal(signal.SIGHUP)
            wait_until(lambda former=former: len(now := children(supervisor.pid)) == 2 and not former & now, 40)
    assert not failed(load.answers) and not mixed(load.answers, OFFSETS)
