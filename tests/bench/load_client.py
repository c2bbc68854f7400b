"""Send keep-alive requests from a few threads: reads a job as JSON on stdin, writes its outcome as JSON on stdout."""

import http.client
import itertools
import json
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial

from harness import HOST, REQUEST_SECONDS, UNIQUE_HEADER, Load, Outcome, percentile

RETRY_SECONDS = 0.01


@dataclass(frozen=True)
class Tally:
    """The seconds each good answer took and the count of failures, shared by the threads."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Turns(Iterator[int]):
    """Numbers handed out to all threads until the time or the count of the load is used up."""

    def __init__(self, load: Load) -> None:
        self._end = time.perf_counter() + load.seconds
        self._most = load.most_requests
        self._numbers = itertools.count()

    def __next__(self) -> int:
        number = next(self._numbers)
        if time.perf_counter() >= self._end or 0 < self._most <= number:
            raise StopIteration
        return number


class Line:
    """One connection that sends the same request again and again but for a header, opened anew after it was closed."""

    def __init__(self, port: int, load: Load) -> None:
        self._address = (HOST, port)
        self._method = load.method
        self._message = _message(port, load)
        self._unique = f"{UNIQUE_HEADER}: {uuid.uuid4().hex}" if load.unique_header else ""
        self._socket: socket.socket | None = None

    def exchange(self, number: int) -> None:
        """Send the request with that number and read its answer; raise HTTPException unless the status is 2xx."""
        self._socket = self._socket or socket.create_connection(self._address, timeout=REQUEST_SECONDS)
        # HTTPConnection.request would send head and body apart, and a server would wake twice for each request.
        self._socket.sendall(self._numbered(number))
        response = http.client.HTTPResponse(self._socket, method=self._method)
        response.begin()
        response.read()
        if response.will_close:
            self.close()
        if not 200 <= response.status < 300:
            raise http.client.HTTPException(response.status)

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._socket:
            self._socket.close()
        self._socket = None

    def _numbered(self, number: int) -> bytes:
        if not self._unique:
            return self._message
        first, _, rest = self._message.partition(b"\r\n")
        return b"%b\r\n%b-%d\r\n%b" % (first, self._unique.encode(), number, rest)


def main() -> None:
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    outcome = run(job["port"], Load(**job["load"]))
    json.dump(asdict(outcome), sys.stdout)


def run(port: int, load: Load) -> Outcome:
    """Send the load with one thread for each connection and return what was measured."""
    tally = Tally()
    turns = Turns(load)
    start = time.perf_counter()
    work = partial(_work, turns=turns, tally=tally, interval=load.interval_seconds)
    threads = [threading.Thread(target=work, args=(Line(port, load),)) for _ in range(load.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _outcome(tally, time.perf_counter() - start)


def _work(line: Line, turns: Turns, tally: Tally, interval: float) -> None:
    for number in turns:
        begin = time.perf_counter()
        try:
            line.exchange(number)
            tally.latencies.extend(_latencies(time.perf_counter() - begin, interval))
        except (OSError, http.client.HTTPException) as error:
            tally.failures.append(repr(error))
            line.close()
            time.sleep(RETRY_SECONDS)
        if interval:
            time.sleep(max(0.0, begin + interval - time.perf_counter()))
    line.close()


def _latencies(taken: float, interval: float) -> list[float]:
    """Return the time an answer took and, at intervals, that of the requests which were due before it came."""
    missed = int(taken / interval) if interval else 0
    return [taken - number * interval for number in range(missed + 1)]


def _message(port: int, load: Load) -> bytes:
    body = load.body.encode()
    head = f"{load.method} {load.path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def _outcome(tally: Tally, elapsed: float) -> Outcome:
    median, tail = (percentile(tally.latencies, percent) * 1e3 for percent in (50, 99))
    failed = len(tally.failures)
    return Outcome(len(tally.latencies) + failed, failed, elapsed, median, tail)


if __name__ == "__main__":
    main()
