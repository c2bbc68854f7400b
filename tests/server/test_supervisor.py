"""Supervisor and workers: load balancing, restarts of dead workers, rolling restarts and graceful shutdown."""

import collections
import os
import random
import re
import resource
import signal
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from flaskml import publish
from flaskml.hot_reload.registry import LARGE_VERSION_BYTES
from tests.support.server_processes import children, wait_until
from tests.support.supervised_service import Service


@pytest.fixture
def service(tmp_path):
    """Yield a function that starts a supervisor."""
    services = []

    def start(**options):
        services.append(Service(tmp_path, **options))
        return services[-1]

    yield start
    for running in services:
        running.close()


class Load:
    """Client threads that send requests without a pause, each on a keep-alive connection until the server closes it."""

    def __init__(self, service, clients=8, path="/slow"):
        self.service, self.path = service, path
        self.answered, self.refused = collections.Counter(), 0
        self.lost = []
        """The worker of each request without a response, known by earlier responses on the connection, else None."""

        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopped.is_set():
            pid = None
            with closing(HTTPConnection("127.0.0.1", self.service.port, timeout=20)) as connection:
                try:
                    connection.connect()
                except OSError:
                    self.refused += 1
                    return
                while not self.stopped.is_set():
                    try:
                        connection.request("GET", self.path)
                        response = connection.getresponse()
                        pid, word = response.read().decode().split()
                        self.answered[pid, word] += 1
                    except (OSError, HTTPException):
                        self.lost.append(pid)
                        break
                    if response.headers.get("Connection") == "close":
                        break

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def test_a_burst_is_spread_over_the_workers(service):
    running = service()
    wait_until(lambda: len({running.get()[0] for _ in range(20)}) == 2)
    for _ in range(3):
        sockets = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(32)]
        pids = collections.Counter()
        for sock in sockets:
            with closing(sock):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                with sock.makefile("rb") as file:
                    pids[file.read().rpartition(b"\r\n\r\n")[2].split()[0]] += 1
        assert len(pids) == 2 and min(pids.values()) >= 4


def test_a_killed_worker_loses_only_its_own_requests(service):
    running = service()
    load = Load(running)
    wait_until(lambda: sum(load.answered.values()) > 20)
    killed = random.choice(running.workers())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(running.workers()) == 2 and killed not in running.workers(), 2)
    seen = sum(load.answered.values())
    wait_until(lambda: sum(load.answered.values()) > seen + 40)
    load.stop()
    assert set(load.lost) <= {str(killed), None} and not load.refused
    assert re.search(r"ended with signal 9; workers replaced so far: 1", running.log_text())


@pytest.mark.gauntlet
def test_repeatedly_killed_workers_are_replaced(service, times=200):
    running = service()
    load = Load(running)
    killed = []
    for _ in range(times):
        seen = sum(load.answered.values())
        wait_until(lambda seen=seen: sum(load.answered.values()) > seen + 20)
        killed.append(random.choice(running.workers()))
        os.kill(killed[-1], signal.SIGKILL)
        wait_until(lambda: len(running.workers()) == 2 and killed[-1] not in running.workers(), 2)
    load.stop()
    assert set(load.lost) <= {*map(str, killed), None} and not load.refused
    assert f"workers replaced so far: {times}" in running.log_text()


def test_connections_in_the_backlog_of_a_dead_worker_are_served_by_its_successor(service):
    running = service(workers=1)
    running.get()
    (worker,) = running.workers()
    os.kill(worker, signal.SIGSTOP)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(running.get(timeout=20))) for _ in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(answers) == 10 and worker not in {pid for pid, _ in answers}


def test_a_rolling_restart_loses_no_request(service):
    running = service()
    load = Load(running)
    wait_until(lambda: sum(load.answered.values()) > 20)
    before = set(running.workers())
    running.set_word("second")
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not before & set(running.workers()), 20)
    assert {running.get()[1] for _ in range(10)} == {"second"}
    load.stop()
    assert not load.lost and not load.refused


@pytest.mark.gauntlet
def test_repeated_rolling_restarts_lose_no_request(service, times=50):
    running = service()
    wait_until(lambda: len(running.workers()) == 2)
    load = Load(running, clients=16)
    for number in range(times):
        before = set(running.workers())
        running.set_word(f"word{number}")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda before=before: len(running.workers()) == 2 and not before & set(running.workers()), 30)
    load.stop()
    assert not load.lost and not load.refused
    assert len({word for _, word in load.answered}) >= 4


def test_a_failed_rolling_restart_keeps_the_workers(service):
    running = service()
    wait_until(lambda: len({running.get()[0] for _ in range(20)}) == 2)
    before = set(running.workers())
    for word, message in (("broken", "do not load"), ("fails", "does not start")):
        running.set_word(word)
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda message=message: message in running.log_text())
        wait_until(lambda: set(running.workers()) == before)
        assert running.get()[1] == "first"


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, marks=pytest.mark.brief),
        pytest.param(8, marks=pytest.mark.thorough),
        pytest.param(200, marks=pytest.mark.gauntlet),
    ],
)
def test_a_graceful_shutdown_loses_no_request(service, times):
    for number in range(times):
        running = service()
        load = Load(running)
        wait_until(lambda load=load: sum(load.answered.values()) > 10)
        time.sleep(0.026 * (number % 8))
        running.process.terminate()
        assert running.process.wait(20) == 0
        load.stop()
        assert not load.lost
        with pytest.raises(ConnectionRefusedError):
            running.get()


def test_workers_stop_when_the_supervisor_is_killed(service):
    running = service()
    wait_until(lambda: len({running.get()[0] for _ in range(20)}) == 2)
    workers = running.workers()
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    with pytest.raises(ConnectionRefusedError):
        running.get()


def test_a_worker_that_fails_at_its_start_is_restarted_with_back_off(service):
    running = service(workers=1, word="fails")
    time.sleep(2.5)
    assert 3 <= running.log_text().count("ended with code 1") <= 6
    running.process.terminate()
    assert running.process.wait(10) == 0


def test_an_activation_reaches_both_workers(serve):
    server = serve("flask serve", "--workers", "2")
    assert server.json("POST", "/predict", {"feature": 0.5})[0] == 200
    status, answer = server.json("PUT", "/models/default/active", {"version": "1"})
    assert status == 200, answer
    server.process.terminate()
    assert server.process.wait(20) == 0


def test_loading_before_the_fork_starts_no_thread(serve, store):
    """Threads do not survive a fork, so loading a model starts none in the supervisor, ONNX graphs included."""
    ramp = np.linspace(0, 1, 40)[:, None]
    publish(LinearRegression().fit(ramp, ramp[:, 0]), ramp, name="line", instance_path=store.instance_path)
    server = serve("flask serve", "--workers", "2")
    assert server.json("POST", "/models/line/predict", {"x0": 0.5})[0] == 200
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    assert len(children(server.process.pid)) == 2


def large_model(rng, offset):
    """Return an estimator above `LARGE_VERSION_BYTES`, and a sample of its rows."""
    table = rng.normal(size=(260_000, 8))
    return KNeighborsRegressor(1, algorithm="brute").fit(table, table[:, 0] + offset), table[:40]


@pytest.mark.thorough
def test_a_new_large_version_starts_a_rolling_restart(serve, store):
    rng = np.random.default_rng(0)
    estimator, sample = large_model(rng, 0)
    publish(estimator, sample, name="large", instance_path=store.instance_path, runtime="sklearn")
    assert store.size("large", "1") >= LARGE_VERSION_BYTES
    server = serve("flask serve", "--workers", "2")
    before = children(server.process.pid)
    row = {f"x{index}": float(value) for index, value in enumerate(sample[0])}
    assert server.json("POST", "/models/large/predict", row)[1]["version"] == "1"
    estimator, _ = large_model(rng, 100)
    publish(estimator, sample, name="large", instance_path=store.instance_path, runtime="sklearn")
    answers = []

    def all_replaced():
        status, answer = server.json("POST", "/models/large/predict", row)
        answers.append((status, answer.get("version")))
        return not before & children(server.process.pid) and answer["version"] == "2"

    wait_until(all_replaced, 60)
    assert set(answers) == {(200, "1"), (200, "2")}
    # Small versions are swapped within the workers.
    now = children(server.process.pid)
    assert server.json("PUT", "/models/default/active", {"version": "1"})[0] == 200
    assert children(server.process.pid) == now


def test_an_error_of_the_store_does_not_end_the_supervisor(service):
    running = service()
    running.wait_for_workers()
    running.set_word("fails later")
    wait_until(lambda: "the store is damaged" in running.log_text())
    killed = running.workers()[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in running.workers() and len(running.workers()) == 2)
    time.sleep(1.5)
    assert running.log_text().count("OSError: the store is damaged") == 1  # Not once a second.


def test_a_worker_that_cannot_be_started_is_started_later(service):
    running = service()
    killed, _ = running.wait_for_workers()
    usual = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (5, usual[1]))
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: "Too many open files" in running.log_text())
    assert len(running.workers()) == 1
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, usual)
    wait_until(lambda: len(running.workers()) == 2, 25)


def test_workers_that_hang_are_replaced(service):
    running = service()
    for index in range(2):
        stopped = running.wait_for_workers()[index]
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda stopped=stopped: stopped not in running.workers() and len(running.workers()) == 2, 25)
    assert running.log_text().count("has not responded for 4 seconds") >= 2


def test_a_worker_with_a_blocked_event_loop_prints_its_stack(service):
    running = service()
    running.wait_for_workers()
    with closing(socket.create_connection(("127.0.0.1", running.port))) as client:
        client.sendall(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: "has not responded" in running.log_text(), 25)
        wait_until(lambda: "Fatal Python error: Aborted" in running.log_text() and "in block" in running.log_text())
    wait_until(lambda: len({running.get()[0] for _ in range(20)}) == 2)


def test_orphans_are_reaped(service):
    running = service(workers=1, is_subreaper=True)
    running.wait_for_workers()
    orphan, _ = running.get("/orphan")
    wait_until(lambda: not os.path.exists(f"/proc/{orphan}"))
