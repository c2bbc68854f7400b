"""Start one server on a loopback port, load it with requests, and read what it cost from /proc."""

import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from process_tree import process_tree

HOST = "127.0.0.1"
CLIENT = Path(__file__).with_name("load_client.py")
POLL_SECONDS = 0.005
REQUEST_SECONDS = 60.0
UNIQUE_HEADER = "X-Request-Id"
WRK_UNIQUE = """
local before, after
local counter = 0
init = function()
  wrk.headers["%(name)s"] = "@"
  local whole = wrk.format()
  local _, last = whole:find("%(name)s: @", 1, true)
  before, after = whole:sub(1, last - 1) .. "%(prefix)s-", whole:sub(last + 1)
end
request = function()
  counter = counter + 1
  return before .. counter .. after
end
"""
WRK_REPORT = """
done = function(summary, latency, requests)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, errors.status + lost,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
"""


class ServerError(RuntimeError):
    """A server that did not start or did not answer 200; the message ends with what it wrote to stderr."""


@dataclass(frozen=True)
class Launch:
    """The start of a server process: a command, a folder, extra variables, in which `{port}` stands for the port."""

    command: Sequence[str]
    folder: Path | None = None
    variables: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Server:
    """A running server: its process leads a session of its own, so its workers can be found and ended with it."""

    process: subprocess.Popen[bytes]
    port: int
    errors: IO[bytes]
    born: float


@dataclass(frozen=True)
class Load:
    """The requests to send: POST with a JSON body, GET without one, for some seconds or up to a count if not 0.

    A unique header tells each request from every other, as the ids of a proxy do. An interval, which only the Python
    client knows, is the time from one request of a connection to its next; what would have been due while an answer was
    late counts as late too, as it would be if others had asked.
    """

    path: str
    body: str
    connections: int
    seconds: float
    most_requests: int = 0
    unique_header: bool = False
    interval_seconds: float = 0.0

    @property
    def method(self) -> str:
        """The HTTP method of each request."""
        return "POST" if self.body else "GET"


@dataclass(frozen=True)
class Outcome:
    """Measurements of a load; errors are lost connections and answers other than 2xx, both counted as requests."""

    requests: int
    errors: int
    elapsed_seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def throughput(self) -> float:
        """Good answers per second."""
        return max(0, self.requests - self.errors) / self.elapsed_seconds


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of the values, not a number when there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def short_number(value: float) -> str:
    """Return the value with three digits, or all its whole ones when they are more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def exit_on_terminate() -> None:
    """Turn SIGTERM into SystemExit, so that servers are ended when the benchmark is."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextmanager
def serve(launch: Launch) -> Iterator[Server]:
    """Run a server that accepts connections for the length of the block, then end its process group."""
    with tempfile.TemporaryFile() as errors:
        server = _start(launch, errors)
        try:
            _wait_till_accepting(server)
            yield server
        finally:
            _stop(server.process)


def ask(server: Server, path: str, body: str = "") -> bytes:
    """Return the body of one answer on a fresh connection; raise ServerError unless its status is 200."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=REQUEST_SECONDS)
    try:
        connection.request("POST" if body else "GET", path, body or None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"no answer to {path}: {error!r}\n{stderr_of(server)}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ServerError(f"{path} answered {response.status}: {answer[:500]!r}\n{stderr_of(server)}")
    return answer


def stderr_of(server: Server) -> str:
    """Return everything the server wrote to its standard error so far."""
    server.errors.seek(0)
    return server.errors.read().decode(errors="replace")


def load_with_python(server: Server, load: Load) -> Outcome:
    """Load the server from a Python process of keep-alive threads; requests in flight at the end are finished."""
    job = json.dumps({"port": server.port, "load": asdict(load)})
    finished = subprocess.run([sys.executable, str(CLIENT)], input=job, capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"the load client failed:\n{finished.stderr}")
    return Outcome(**json.loads(finished.stdout))


def load_with_wrk(server: Server, load: Load) -> Outcome:
    """Load the server from one wrk thread for the seconds rounded up to whole ones, the least wrk knows."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_lua_script(load))
        script.flush()
        command = ["wrk", "--latency", "-t1", f"-c{load.connections}", f"-d{math.ceil(load.seconds)}s"]
        command += [f"--timeout={REQUEST_SECONDS:.0f}s", f"-s{script.name}", f"http://{HOST}:{server.port}{load.path}"]
        finished = subprocess.run(command, capture_output=True, text=True)
    return _read_wrk(finished.stdout + finished.stderr)


def choose_client(name: str) -> str:
    """Return the load client that the name stands for, where `auto` is wrk if it is installed."""
    if name != "auto":
        return name
    return "wrk" if shutil.which("wrk") else "python"


CLIENTS = {"python": load_with_python, "wrk": load_with_wrk}


def cpu_seconds(server: Server) -> float:
    """Return the user and system time of the server's processes, with that of children already ended."""
    return sum(process.cpu_seconds for process in process_tree(server.process.pid))


def memory_mb(server: Server, measure: str) -> float:
    """Return the `Rss` or `Pss` of the server's processes in megabytes of 1,000,000 bytes."""
    return sum(process.memory_bytes(measure) for process in process_tree(server.process.pid)) / 1e6


def _start(launch: Launch, errors: IO[bytes]) -> Server:
    port = _free_port()
    variables = launch.variables or {}
    command = [part.replace("{port}", str(port)) for part in launch.command]
    born = time.perf_counter()
    try:
        process = subprocess.Popen(
            command,
            cwd=launch.folder,
            env=_environment({name: text.replace("{port}", str(port)) for name, text in variables.items()}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
    except OSError as error:
        raise ServerError(f"cannot run {command}: {error}") from error
    return Server(process, port, errors, born)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # A command such as waitress-serve is the one installed beside this Python, even if its folder is not on PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, **variables}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_till_accepting(server: Server, seconds: float = 60.0) -> None:
    while time.perf_counter() < server.born + seconds:
        if server.process.poll() is not None:
            raise ServerError(f"the server ended with {server.process.returncode}:\n{stderr_of(server)}")
        with suppress(OSError), socket.create_connection((HOST, server.port), timeout=1):
            return
        time.sleep(POLL_SECONDS)
    raise ServerError(f"the server accepted no connection in {seconds:.0f} s:\n{stderr_of(server)}")


def _stop(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    family = process_tree(process.pid)
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    # Workers may outlive their leader, so the group is ended even when the leader went quietly.
    _signal_group(process, signal.SIGKILL)
    process.wait()
    for member in family:
        member.kill()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _lua_script(load: Load) -> str:
    # Every byte is a decimal escape, as Lua's string syntax is not JSON's.
    body = "".join(f"\\{byte:03d}" for byte in load.body.encode())
    head = f'wrk.method = "{load.method}"\n'
    if load.body:
        head += f'wrk.body = "{body}"\nwrk.headers["Content-Type"] = "application/json"\n'
    if load.unique_header:
        head += WRK_UNIQUE % {"name": UNIQUE_HEADER, "prefix": uuid.uuid4().hex}
    return head + WRK_REPORT


def _read_wrk(output: str) -> Outcome:
    found = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+)", output)
    if found is None:
        raise RuntimeError(f"wrk gave no result:\n{output}")
    requests, errors, *microseconds = map(int, found.groups())
    elapsed, median, tail = microseconds
    return Outcome(requests, errors, elapsed / 1e6, median / 1e3, tail / 1e3)
