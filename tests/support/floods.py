"""Floods of pipelined requests from a process of their own, so that they take nothing from the clients of a test.

`python -m tests.support.floods PORT` reads commands: the name of a flood, a space and a number of connections, or
`stop`. It answers each with a line once the flood has begun or ended.
"""

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

from tests.support.checkout import CHECKOUT


def request(path, *lines, method="GET", body=b""):
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *lines, *length, "", "")).encode() + body


EXPIRED = "X-Envoy-Expected-Rq-Timeout-Ms: 0"
FLOODS = {
    "health checks": request("/livez"),
    "files": request("/static/style.css"),
    "refusals": request("/predict", "Content-Type: application/json", EXPIRED, method="POST", body=b"{}"),
}
"""The request that each flood repeats."""


def send_again_and_again(port, content, stopped):
    """Send a packet of pipelined requests again and again on one connection, and read all answers."""
    packet = content * (2**16 // len(content))
    with socket.create_connection(("127.0.0.1", port)) as client:
        reader = threading.Thread(target=read_all, args=(client,))
        reader.start()
        client.settimeout(0.02)
        left = memoryview(packet)
        while not stopped.is_set():
            with suppress(TimeoutError):
                left = left[client.send(left) :] or memoryview(packet)
        client.shutdown(socket.SHUT_RDWR)
        reader.join()


def read_all(client):
    with suppress(OSError):
        while client.recv(2**18):
            pass


def main(port):
    threads, stopped = [], threading.Event()
    print("ready", flush=True)
    for line in sys.stdin:
        name, _, count = line.strip().rpartition(" ")
        if name:
            stopped.clear()
            arguments = (port, FLOODS[name], stopped)
            threads = [threading.Thread(target=send_again_and_again, args=arguments) for _ in range(int(count))]
            for thread in threads:
                thread.start()
        else:
            stopped.set()
            for thread in threads:
                thread.join()
        print("done", flush=True)


@contextmanager
def flooding_process(port):
    """Run the process; yield a function that sends it a command and waits until it is done."""
    command = (sys.executable, "-m", "tests.support.floods", str(port))
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()

        def tell(text):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert process.stdout.readline()

        yield tell
        process.stdin.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
