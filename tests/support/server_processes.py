"""Server processes, started from the checkout, and requests to them."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection

from tests.support.checkout import CHECKOUT
from tests.support.in_process_servers import COMMANDS


class Server:
    """A server process on a free loopback port, with methods that send requests to it."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
        self._lines = []
        self.port = self._wait_for_port()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _wait_for_port(self):
        for line in self.process.stderr:
            self._lines.append(line)
            if match := re.search(r"on http://127\.0\.0\.1:(\d+)", line):
                return int(match[1])
        raise AssertionError(f"the server did not start:\n{self.log}")

    def _read_log(self):
        for line in self.process.stderr:
            self._lines.append(line)

    @property
    def serving_pid(self):
        """The process that answers requests: the worker of `flask serve`, or else the server itself."""
        return next(iter(children(self.process.pid)), self.process.pid)

    @property
    def log(self):
        """The standard error output of the server so far."""
        return "".join(self._lines)

    def request(self, method, path, body=None, headers=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, value=None, **headers):
        body = None if value is None else json.dumps(value)
        status, _, content = self.request(method, path, body, {"Content-Type": "application/json", **headers})
        return status, json.loads(content)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        self.process.stderr.close()


def start_server(instance, name, *options, cwd=CHECKOUT, **environment):
    """Start a server from the checkout on an instance folder; keyword arguments are environment variables."""
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance), **environment}
    return Server((*COMMANDS[name], *options), cwd=cwd, env=variables)


@contextmanager
def server_of_a_copy(instance, folder, name="waitress-serve", **environment):
    """Run a server on a copy of an instance folder; tests that change no state share it."""
    server = start_server(shutil.copytree(instance, folder / "instance"), name, **environment)
    try:
        yield server
    finally:
        server.stop()


def wait_until(condition, seconds=10):
    """Poll until `condition()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(pid):
    """Return the process ids of the child processes."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return {int(child) for child in file.read().split()}
