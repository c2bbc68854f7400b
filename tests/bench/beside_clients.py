"""Call a view from some clients back to back until stdin is closed; run as `beside_clients.py PORT PATH COUNT`.

A line is printed once every client had an answer; the last line is the answers and the failures after it, as JSON.
"""

import http.client
import json
import sys
import threading
import time

from harness import Load
from load_client import RETRY_SECONDS, Line, Tally


def main(port: int, path: str, count: int) -> None:
    """Run the clients."""
    load = Load(path, "", count, 0)
    tally, begun, end = Tally(), threading.Barrier(count + 1), threading.Event()
    lines = [Line(port, load) for _ in range(count)]
    threads = [threading.Thread(target=_work, args=(line, tally, begun, end)) for line in lines]
    for thread in threads:
        thread.start()
    begun.wait()
    print("begun", flush=True)
    start = time.perf_counter()
    sys.stdin.read()
    elapsed = time.perf_counter() - start
    # Before the clients end, which may take as long as one more answer.
    answers, failures = len(tally.latencies), len(tally.failures)
    end.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answers": answers, "failures": failures, "elapsed_seconds": elapsed}))


def _work(line: Line, tally: Tally, begun: threading.Barrier, end: threading.Event) -> None:
    _exchange(line, Tally())
    begun.wait()
    while not end.is_set():
        _exchange(line, tally)
    line.close()


def _exchange(line: Line, tally: Tally) -> None:
    begin = time.perf_counter()
    try:
        line.exchange(0)
        tally.latencies.append(time.perf_counter() - begin)
    except (OSError, http.client.HTTPException) as error:
        tally.failures.append(repr(error))
        line.close()
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
