"""A supervisor of small apps, as a process: its workers answer with their process id and the word of a file."""

import os
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection

from tests.support.checkout import CHECKOUT
from tests.support.server_processes import children

APP = """
import ctypes, os, re, signal, subprocess, sys, time
from pathlib import Path
from flask import Flask, request
from flaskml.server.setup import build_server
from flaskml.server.addresses import open_tcp_sockets
from flaskml.server.supervisor import Supervisor
from flaskml.server.worker import HEARTBEAT, READY, RETIRE_SIGNAL

word_file = Path(sys.argv[1])

class Program:
    drain_seconds = 10
    timeout_seconds = 4
    def __init__(self, worker_main):
        self.run_worker = worker_main
    def reload_if_changed(self):
        if word_file.read_text() == "fails later":
            raise OSError("the store is damaged")
        return False

def load(former):
    word = word_file.read_text()
    if word == "broken":
        raise ValueError(word)
    if word == "loads slowly":
        time.sleep(60)
    app = Flask(__name__)

    @app.get("/")
    def pid_and_word():
        return f"{os.getpid()} {word}"

    @app.get("/slow")
    def slow():
        time.sleep(float(request.args.get("seconds", 0.2)))
        return f"{os.getpid()} {word}"

    @app.get("/block")
    def block():
        return str(re.match("(a+)+$", "a" * 40 + "b"))  # It takes hours, with the GIL.

    @app.get("/orphan")
    def orphan():
        command = ["sh", "-c", "sleep 0.2 > /dev/null & echo $!"]
        return f"{subprocess.run(command, capture_output=True, text=True).stdout.strip()} orphan"

    def work(sock, pipe):
        if word == "fails":
            raise SystemExit(3)
        server = build_server(app, listening_socket=sock)
        server.on_maintenance = lambda: pipe.report(HEARTBEAT)
        for number in (signal.SIGTERM, RETIRE_SIGNAL):
            signal.signal(number, lambda *_: server.is_stopping or server.stop())
        pipe.report(READY)
        server.run()

    return Program(work)

if sys.argv[3] == "True":  # As process 1 of a container does, it becomes the parent of orphans.
    ctypes.CDLL(None).prctl(36, 1)
sockets = open_tcp_sockets(int(sys.argv[2]), "127.0.0.1", 0)
print(sockets[0].getsockname()[1], flush=True)
Supervisor(load, sockets).run()
"""
"""A supervisor whose workers answer with their process id and the word of a file, which SIGHUP reads again."""


class Service:
    """A supervisor process with its workers, and requests to them."""

    def __init__(self, folder, *, workers=2, word="first", is_subreaper=False, terminal=None):
        self.word_file = folder / "word"
        self.set_word(word)
        script = folder / "served.py"
        script.write_text(APP)
        environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, str(script), str(self.word_file), str(workers), str(is_subreaper)]
        if terminal is not None:
            command = ["setsid", "--ctty", *command]
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            command, stdin=terminal, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environ
        )
        self.port = int(self.process.stdout.readline())

    def set_word(self, word):
        """Replace the word file atomically; workers of the next rolling restart answer with the new word."""
        new_file = self.word_file.with_suffix(".new")
        new_file.write_text(word)
        new_file.replace(self.word_file)

    def get(self, path="/", timeout=10):
        """Return the process id of a worker and its word."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request("GET", path)
            pid, word = connection.getresponse().read().decode().split()
            return int(pid), word

    def workers(self):
        """Return the process ids of the workers."""
        return sorted(children(self.process.pid))

    def log_text(self):
        self.log.seek(0)
        return self.log.read()

    def wait_for_workers(self):
        """Wait until every worker accepts, and return their process ids."""
        count = 0
        while count < len(self.workers()) or not count:
            count = len({self.get()[0] for _ in range(20)})
        return self.workers()

    def close(self):
        """Kill the supervisor, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()
