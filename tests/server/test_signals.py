"""Signals of `flask serve`: Ctrl-C, a second signal, SIGHUP of a terminal, and signals to the whole group."""

import os
import pty
import signal
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPException

import pytest

from tests.support.server_processes import start_server, wait_until
from tests.support.supervised_service import Service

CTRL_C = b"\x03"


@contextmanager
def terminal():
    """Yield both ends of a pseudo-terminal: the descriptor that types, and the one of the program."""
    typing, program = pty.openpty()
    try:
        yield typing, program
    finally:
        os.close(program)
        with suppress(OSError):  # The test may have closed the terminal.
            os.close(typing)


@pytest.fixture
def service(tmp_path):
    """Yield a function that starts a supervisor in a folder of its own."""
    services = []

    def start(**options):
        folder = tmp_path / str(len(services))
        folder.mkdir()
        services.append(Service(folder, **options))
        services[-1].wait_for_workers()
        return services[-1]

    yield start
    for running in services:
        running.close()


class Requests:
    """Requests of some seconds, sent at once; `answers` has one entry for each that got its response."""

    def __init__(self, service, count, seconds):
        self.answers = []
        self.service, self.path = service, f"/slow?seconds={seconds}"
        self.threads = [threading.Thread(target=self.send) for _ in range(count)]
        for thread in self.threads:
            thread.start()
        time.sleep(0.5)

    def send(self):
        try:
            self.answers.append(self.service.get(self.path, timeout=30))
        except (OSError, HTTPException):
            return

    def wait(self):
        for thread in self.threads:
            thread.join()


def interrupted(service, stop, clients=6):
    """Return the number of requests of 2 seconds that were answered although the server was stopped meanwhile."""
    requests = Requests(service, clients, 2)
    stop()
    requests.wait()
    assert service.process.wait(10) == 0
    return len(requests.answers)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.gauntlet)])
def test_ctrl_c_in_a_terminal_loses_no_request(service, times):
    for _ in range(times):
        with terminal() as (typing, program):
            running = service(terminal=program)
            assert interrupted(running, lambda typing=typing: os.write(typing, CTRL_C)) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_one_stop(service, number):
    with terminal() as (_, program):
        running = service(terminal=program)  # It leads a process group of its own.
        assert interrupted(running, lambda: os.killpg(running.process.pid, number)) == 6


def test_a_second_signal_ends_the_server_at_once(service):
    running = service(workers=1)
    requests = Requests(running, 2, 9)
    start = time.monotonic()
    for _ in range(2):
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
    assert running.process.wait(10) == 0 and time.monotonic() - start < 6
    requests.wait()
    assert not requests.answers


def test_sighup_reloads_while_the_terminal_is_open_and_stops_once_it_has_closed(service):
    with terminal() as (typing, program):
        running = service(terminal=program)
        former = set(running.workers())
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(running.workers()) == 2 and not former & set(running.workers()))
        os.close(typing)
        assert running.process.wait(15) == 0


def test_a_worker_passes_sighup_on_to_the_supervisor(service):
    running = service()
    former = set(running.workers())
    running.set_word("second")
    for worker in former:
        os.kill(worker, signal.SIGHUP)
    wait_until(lambda: len(running.workers()) == 2 and not former & set(running.workers()))
    assert running.get()[1] == "second"
    now = set(running.workers())
    time.sleep(1)
    assert set(running.workers()) == now  # Both signals were one request.


def test_a_stop_during_a_load_is_immediate(tmp_path):
    service = Service(tmp_path, word="loads slowly")
    try:
        time.sleep(0.3)
        service.process.terminate()
        assert service.process.wait(5) == 0
    finally:
        service.close()


SLOW_APP = """
import time
from flaskml import create_app

app = create_app({"DRAIN_TIMEOUT": 1})

@app.get("/slow")
def slow():
    time.sleep(20)
    return "late"
"""


def test_the_drain_timeout_of_the_app_is_obeyed_while_a_view_waits(instance, tmp_path):
    (tmp_path / "wsgi.py").write_text(SLOW_APP)
    server = start_server(instance, "flask serve", cwd=tmp_path)
    lost = []
    client = threading.Thread(target=lambda: lost.append(is_lost(server)))
    client.start()
    time.sleep(0.5)
    start = time.monotonic()
    server.process.terminate()
    assert server.process.wait(15) == 0 and time.monotonic() - start < 8
    client.join()
    server.stop()
    assert lost == [True]


def is_lost(server):
    """Return whether a request to the slow view gets no response."""
    try:
        server.request("GET", "/slow")
    except (OSError, HTTPException):
        return True
    return False
