"""Floods and broken-off uploads take neither the memory of a server nor the latency of other clients."""

import re
import socket
import statistics
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from flaskml.server.connection import RESET_ON_CLOSE
from tests.support.floods import FLOODS, flooding_process, request
from tests.support.server_processes import children, server_of_a_copy, wait_until

MIB = 2**20
BODY_BYTES = 50_000_000
MEMORY_BYTES = 3 * BODY_BYTES
MEMORY_SETTINGS = {"FLASKML_MAX_BODY": str(BODY_BYTES), "FLASKML_BODY_MEMORY": str(MEMORY_BYTES)}
"""Settings with which predictions are as large as uploads; all bodies stay in memory, three at most."""

HEAD = f"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode()
PREDICT = request("/predict", "Content-Type: application/json", method="POST", body=b'{"feature": 0.5}')


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    with server_of_a_copy(trained, tmp_path_factory.mktemp("floods"), "flask serve", **MEMORY_SETTINGS) as server:
        yield server


class ResidentMemory:
    """The resident memory of a process, watched by a thread."""

    def __init__(self, pid):
        self._status = Path(f"/proc/{pid}/status")
        self.peak_bytes = self.read_bytes()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def read_bytes(self):
        return int(re.search(r"VmRSS:\s+(\d+) kB", self._status.read_text())[1]) * 1024

    def _watch(self):
        while not self._stopped.wait(0.01):
            self.peak_bytes = max(self.peak_bytes, self.read_bytes())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()


def connect(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def break_off(port, count):
    """Send uploads without their last bytes, one after the other."""
    piece = bytes(MIB)
    for _ in range(count):
        with closing(connect(port)) as client, suppress(ConnectionError):
            client.sendall(HEAD)
            for _ in range(BODY_BYTES // MIB):
                client.sendall(piece)


class SlowUploads:
    """Uploads that are begun at once, and send as much as the server takes, but never their last bytes."""

    def __init__(self, port, count):
        self._clients = [connect(port) for _ in range(count)]
        self._left = dict.fromkeys(self._clients, BODY_BYTES - 10)
        for client in self._clients:
            client.setblocking(False)
            client.send(HEAD)

    def send(self, seconds):
        piece, end = bytes(2**16), time.monotonic() + seconds
        while time.monotonic() < end:
            for client in list(self._left):
                try:
                    self._left[client] -= client.send(piece[: self._left[client]])
                except BlockingIOError:
                    continue
                except ConnectionError:
                    del self._left[client]
            time.sleep(0.005)

    def close(self, *, is_reset):
        """Close all connections, with a TCP reset or, behind the bytes that are on the way, regularly."""
        for client in self._clients:
            if is_reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()


@pytest.mark.parametrize(
    ("broken_off", "seconds"), [(15, 1), pytest.param(300, 60, marks=pytest.mark.gauntlet)], ids=["ci", "gauntlet"]
)
def test_broken_off_and_slow_uploads_take_no_more_memory_than_is_set(server, broken_off, seconds):
    (worker,) = children(server.process.pid)
    assert server.json("POST", "/predict", {"feature": 0.5})[0] == 200
    with ResidentMemory(worker) as memory:
        before = memory.read_bytes()
        break_off(server.port, broken_off)
        wait_until(lambda: memory.read_bytes() < before + 50 * MIB)
        uploads = SlowUploads(server.port, 200)
        uploads.send(seconds)
        assert memory.read_bytes() > before + MEMORY_BYTES / 2
        assert server.request("GET", "/livez")[0] == 200
        uploads.close(is_reset=seconds < 10)
        wait_until(lambda: memory.read_bytes() < before + 50 * MIB, 30)
    assert memory.peak_bytes < before + MEMORY_BYTES * 9 / 8 + 50 * MIB


def latency_percentile(client, seconds):
    """Return the 99th percentile of the latency of predictions that a client sends one after the other."""
    latencies, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        client.sendall(PREDICT)
        assert client.recv(2**16).startswith(b"HTTP/1.1 200 ")
        latencies.append(time.perf_counter() - begun)
        time.sleep(0.0005)
    return sorted(latencies)[len(latencies) * 99 // 100]


@pytest.mark.parametrize(
    ("rounds", "seconds", "max_ratio"),
    [(5, 0.08, 10), pytest.param(100, 0.3, 3, marks=pytest.mark.gauntlet)],
    ids=["ci", "gauntlet"],
)
def test_floods_hardly_delay_other_clients(server, rounds, seconds, max_ratio):
    """The aim is 3 times the latency. A few short rounds beside other tests differ by more."""
    ratios = {}
    with flooding_process(server.port) as flood, closing(connect(server.port)) as client:
        latency_percentile(client, 0.5)
        for name in FLOODS:
            quiet, flooded = [], []
            for number in range(rounds):
                quiet.append(latency_percentile(client, seconds))
                flood(f"{name} {1 + 3 * (number % 2)}")
                time.sleep(0.03)
                flooded.append(latency_percentile(client, seconds))
                flood("stop")
            ratios[name] = statistics.median(flooded) / statistics.median(quiet)
    assert max(ratios.values()) < max_ratio
