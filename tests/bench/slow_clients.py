"""Hold many connections to a server, each with a request that never ends; run as `slow_clients.py PORT COUNT`.

Each sends a byte a second, and opens its connection again when it was closed. A line is printed once all are open.
"""

import resource
import socket
import sys
import time
from contextlib import suppress

START = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
ROUND_SECONDS = 1.0


def main(port: int, count: int) -> None:
    """Hold them until the process is ended."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    clients = [_open(port) for _ in range(count)]
    print("open", flush=True)
    while True:
        for index, client in enumerate(clients):
            try:
                client.send(b"a")
            except BlockingIOError:
                pass
            except OSError:
                client.close()
                clients[index] = _open(port)
            time.sleep(ROUND_SECONDS / count)


def _open(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    with suppress(OSError):
        client.send(START)
    return client


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
