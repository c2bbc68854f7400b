"""Several workers: spread, replaced, and stopped without a loss."""

import collections
import os
import random
import re
import signal
import socket
import subprocess
import sys
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
from tests.support.checkout import CHECKOUT
from tests.support.server_processes import children, wait_until

pytest.importorskip("greenlet")


APP = """
import os, signal, sys, time
from pathlib import Path
from flask import Flask
from flaskml.server.engine import build_server
from flaskml.server.supervisor import Supervisor, open_listening_sockets
from flaskml.web.lean import may_block

word = Path(sys.argv[1])

def load():
    said = word.read_text()
    if said == "broken":
        raise ValueError(said)
    app = Flask(__name__)

    @app.get("/")
    def who():
        return f"{os.getpid()} {said}"

    @app.get("/slow")
    @may_block
    def slow():
        time.sleep(0.2)
        return f"{os.getpid()} {said}"

    def work(sock, ready):
        if said == "fails":
            raise SystemExit(3)
        engine = build_server(app, listening=sock)
        signal.signal(signal.SIGTERM, lambda *_: engine.stop())
        signal.signal(signal.SIGINT, lambda *_: engine.stop())
        ready()
        engine.run()

    return work

sockets = open_listening_sockets(int(sys.argv[2]), "127.0.0.1", 0, 1024)
print(sockets[0].getsockname()[1], flush=True)
Supervisor(load, sockets, patience=10).run()
"""


class Service:
    """A supervisor with its workers."""

    def __init__(self, folder, workers=2, word="first"):
        self.word = folder / "word"
        self.say(word)
        script = folder / "served.py"
        script.write_text(APP)
        environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, str(script), str(self.word), str(workers)]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environ)
        self.port = int(self.process.stdout.readline())

    def say(self, word):
        """Has the next app that is loaded answer with the word."""
        new = self.word.with_suffix(".new")
        new.write_text(word)
        new.replace(self.word)

    def ask(self, path="/", timeout=10):
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("GET", path)
            pid, word = connection.getresponse().read().decode().split()
            return int(pid), word

    def workers(self):
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]

    def said(self):
        self.log.seek(0)
        return self.log.read()


@pytest.fixture
def service(tmp_path):
    made = []

    def start(**given):
        made.append(Service(tmp_path, **given))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        one.process.stdout.close()
        one.log.close()


class Load:
    """Clients that ask again and again, each on a connection of its own until it is told that it was the last."""

    def __init__(self, service, clients=8, path="/slow"):
        self.service, self.path = service, path
        self.answers, self.refused = collections.Counter(), 0
        self.lost = []
        """For each request that got no answer, the worker that had answered on its connection before, if any had."""

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
                        answer = connection.getresponse()
                        pid, word = answer.read().decode().split()
                        self.answers[pid, word] += 1
                    except (OSError, HTTPException):
                        self.lost.append(pid)
                        break
                    if answer.headers.get("Connection") == "close":
                        break

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def test_a_burst_is_spread_over_the_workers(service):
    running = service()
    wait_until(lambda: len({running.ask()[0] for _ in range(20)}) == 2)
    for _ in range(3):
        sockets = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(32)]
        pids = collections.Counter()
        for sock in sockets:
            with closing(sock):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                with sock.makefile("rb") as file:
                    pids[file.read().rpartition(b"\r\n\r\n")[2].split()[0]] += 1
        assert len(pids) == 2 and min(pids.values()) >= 4


def test_a_worker_that_is_killed_takes_nothing_with_it_but_its_own(service):
    running = service()
    load = Load(running)
    wait_until(lambda: sum(load.answers.values()) > 20)
    killed = random.choice(running.workers())
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(running.workers()) == 2 and killed not in running.workers(), 2)
    seen = sum(load.answers.values())
    wait_until(lambda: sum(load.answers.values()) > seen + 40)
    load.stop()
    assert set(load.lost) <= {str(killed), None} and not load.refused
    assert re.search(r"ended with signal 9; replaced 1 times so far", running.said())


@pytest.mark.gauntlet
def test_workers_that_are_killed_again_and_again_are_replaced(service, times=200):
    running = service()
    load = Load(running)
    killed = []
    for _ in range(times):
        seen = sum(load.answers.values())
        wait_until(lambda seen=seen: sum(load.answers.values()) > seen + 20)
        killed.append(random.choice(running.workers()))
        os.kill(killed[-1], signal.SIGKILL)
        wait_until(lambda: len(running.workers()) == 2 and killed[-1] not in running.workers(), 2)
    load.stop()
    assert set(load.lost) <= {*map(str, killed), None} and not load.refused
    assert f"replaced {times} times so far" in running.said()


def test_connections_that_wait_for_a_dead_worker_are_served_by_the_next(service):
    running = service(workers=1)
    running.ask()
    (worker,) = running.workers()
    os.kill(worker, signal.SIGSTOP)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(running.ask(timeout=20))) for _ in range(10)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    os.kill(worker, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(answers) == 10 and worker not in {pid for pid, _ in answers}


def test_all_are_replaced_one_by_one_without_a_loss(service):
    running = service()
    load = Load(running)
    wait_until(lambda: sum(load.answers.values()) > 20)
    before = set(running.workers())
    running.say("second")
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not before & set(running.workers()), 20)
    assert {running.ask()[1] for _ in range(10)} == {"second"}
    load.stop()
    assert not load.lost and not load.refused


@pytest.mark.gauntlet
def test_all_are_replaced_again_and_again_without_a_loss(service, times=50):
    running = service()
    wait_until(lambda: len(running.workers()) == 2)
    load = Load(running, clients=16)
    for number in range(times):
        before = set(running.workers())
        running.say(f"word{number}")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda before=before: len(running.workers()) == 2 and not before & set(running.workers()), 30)
    load.stop()
    assert not load.lost and not load.refused
    assert len({word for _, word in load.answers}) >= 4


def test_what_does_not_load_or_start_replaces_nothing(service):
    running = service()
    wait_until(lambda: len({running.ask()[0] for _ in range(20)}) == 2)
    before = set(running.workers())
    for word, told in (("broken", "does not load"), ("fails", "does not start")):
        running.say(word)
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda told=told: told in running.said())
        wait_until(lambda: set(running.workers()) == before)
        assert running.ask()[1] == "first"


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, marks=pytest.mark.brief),
        pytest.param(8, marks=pytest.mark.thorough),
        pytest.param(200, marks=pytest.mark.gauntlet),
    ],
)
def test_it_stops_with_its_workers_and_loses_nothing(service, times):
    for number in range(times):
        running = service()
        load = Load(running)
        wait_until(lambda load=load: sum(load.answers.values()) > 10)
        time.sleep(0.026 * (number % 8))
        running.process.terminate()
        assert running.process.wait(20) == 0
        load.stop()
        assert not load.lost
        with pytest.raises(ConnectionRefusedError):
            running.ask()


def test_workers_do_not_outlive_a_supervisor_that_is_killed(service):
    running = service()
    wait_until(lambda: len({running.ask()[0] for _ in range(20)}) == 2)
    workers = running.workers()
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    with pytest.raises(ConnectionRefusedError):
        running.ask()


def test_a_worker_that_cannot_start_is_tried_less_and_less_often(service):
    running = service(workers=1, word="fails")
    time.sleep(2.5)
    assert 3 <= running.said().count("ended with code 1") <= 6
    running.process.terminate()
    assert running.process.wait(10) == 0


def test_the_command_serves_with_workers_that_share_the_model(serve):
    server = serve("flask serve", "--workers", "2")
    assert server.json("POST", "/predict", {"feature": 0.5})[0] == 200
    status, answer = server.json("PUT", "/models/default/active", {"version": "1"})
    assert status == 200, answer
    server.process.terminate()
    assert server.process.wait(20) == 0


def test_the_supervisor_has_no_thread_that_its_workers_would_miss(serve, store):
    """What is loaded before workers are forked starts none, graphs included."""
    ramp = np.linspace(0, 1, 40)[:, None]
    publish(LinearRegression().fit(ramp, ramp[:, 0]), ramp, name="line", instance_path=store.instance_path)
    server = serve("flask serve", "--workers", "2")
    assert server.json("POST", "/models/line/predict", {"x0": 0.5})[0] == 200
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) == 1
    assert len(children(server.process.pid)) == 2


def large(rng, offset):
    table = rng.normal(size=(260_000, 8))
    return KNeighborsRegressor(1, algorithm="brute").fit(table, table[:, 0] + offset), table[:40]


@pytest.mark.thorough
def test_a_large_version_comes_with_new_workers_that_share_it(serve, store):
    rng = np.random.default_rng(0)
    estimator, sample = large(rng, 0)
    publish(estimator, sample, name="large", instance_path=store.instance_path, runtime="sklearn")
    assert store.size("large", "1") >= LARGE_VERSION_BYTES
    server = serve("flask serve", "--workers", "2")
    before = children(server.process.pid)
    row = {f"x{index}": float(value) for index, value in enumerate(sample[0])}
    assert server.json("POST", "/models/large/predict", row)[1]["version"] == "1"
    estimator, _ = large(rng, 100)
    publish(estimator, sample, name="large", instance_path=store.instance_path, runtime="sklearn")
    answers = []

    def all_new():
        status, answer = server.json("POST", "/models/large/predict", row)
        answers.append((status, answer.get("version")))
        return not before & children(server.process.pid) and answer["version"] == "2"

    wait_until(all_new, 60)
    assert set(answers) == {(200, "1"), (200, "2")}
    # Small ones are still swapped within the workers.
    now = children(server.process.pid)
    assert server.json("PUT", "/models/default/active", {"version": "1"})[0] == 200
    assert children(server.process.pid) == now
