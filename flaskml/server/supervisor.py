"""Supervisor of several workers on one address: it forks them, restarts those that die, and stops them together.

Each worker has its own listening socket on the shared address (SO_REUSEPORT), and the kernel spreads connections evenly
over these sockets, in bursts too. The supervisor keeps all sockets open: if a worker dies, the connections in its
backlog are not reset, and the worker that replaces it serves them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

logger = logging.getLogger("waitress")

WorkerMain: TypeAlias = Callable[[socket.socket, Callable[[], None]], None]
"""The main function of a worker: serve on the socket until SIGTERM, and call the second argument once it accepts."""

SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The process signals that the supervisor waits for."""

MAX_RESTART_DELAY_SECONDS = 10.0
"""Upper limit of the back-off between two attempts to start a worker that fails at its start, in seconds."""

READY_TIMEOUT_SECONDS = 120.0
"""Seconds within which a new worker must accept connections; loading a large model takes some of them."""

KILL_GRACE_SECONDS = 2.0
"""Seconds beyond the drain time after which a worker that does not exit is killed."""

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class WorkerEntry:
    """A listening socket, and the worker that serves it now."""

    number: int
    socket: socket.socket
    pid: int = 0
    """Process id of the worker; 0 if none runs."""

    ready_fd: int = -1
    """Descriptor of a pipe that becomes readable once the worker accepts, or has died."""

    failed_starts: int = 0
    """Number of successive workers that died before they accepted."""

    restart_at: float = 0.0
    """Time of the next start if no worker runs, on the monotonic clock."""


class Supervisor:
    """A parent process that keeps one worker running per socket.

    `load` loads configuration and models, and returns the main function of the workers. Workers are forked afterwards
    and share the loaded memory (copy-on-write), so `load` must not start a thread. SIGHUP, or a true result of
    `has_changed`, starts a rolling restart: `load` is called again, and the workers are replaced one by one.
    """

    def __init__(
        self,
        load: Callable[[], WorkerMain],
        sockets: Sequence[socket.socket],
        drain_seconds: float,
        has_changed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._load = load
        self._has_changed = has_changed
        self._entries = [WorkerEntry(number, sock) for number, sock in enumerate(sockets, start=1)]
        self._drain_seconds = drain_seconds
        self._kill_times: dict[int, float] = {}
        """Time at which each stopping worker is killed, by process id, on the monotonic clock."""

        self.replaced = 0
        """Number of workers that died and were replaced."""

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT; then stop all workers and return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._use(self._load())
        for entry in self._entries:
            self._start(entry)
        while True:
            received = signal.sigtimedwait(SIGNALS, 0.1 if self._is_changing else 1.0)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            if (received is not None and received.si_signo == signal.SIGHUP) or self._has_changed():
                self._rolling_restart()
            self._reap()
            self._restart_due()
            self._kill_overdue()
        self._stop()

    def _use(self, worker_main: WorkerMain) -> None:
        """Start further workers with `worker_main`, free the memory of the previous one, and freeze what is loaded.

        The garbage collector writes to no frozen object, so the pages stay shared (copy-on-write).
        """
        self._worker_main = worker_main
        gc.collect()
        with contextlib.suppress(AttributeError):  # Only the C library of Linux has it; it returns freed memory.
            ctypes.CDLL(None).malloc_trim(0)
        gc.freeze()

    @property
    def _is_changing(self) -> bool:
        return bool(self._kill_times) or any(not entry.pid for entry in self._entries)

    def _start(self, entry: WorkerEntry) -> None:
        entry.pid, entry.ready_fd = self._fork(entry)

    def _fork(self, entry: WorkerEntry) -> tuple[int, int]:
        """Fork a worker for the entry; return its process id and its `ready_fd`."""
        ready_fd, signal_fd = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(signal_fd)
            return pid, ready_fd
        os.close(ready_fd)
        code = 1
        try:
            _terminate_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for other in self._entries:
                if other is not entry:
                    other.socket.close()
            self._worker_main(entry.socket, lambda: _signal_ready(signal_fd))
            code = 0
        except BaseException:  # The worker exits, and the supervisor starts another one.
            logger.exception("Worker %s failed", entry.number)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        """Collect the exit statuses of workers."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if self._kill_times.pop(pid, None) is None:
                    self._record_death(pid, status)

    def _record_death(self, pid: int, status: int) -> None:
        """Log the death of a worker, and set when its entry starts the next one, with back-off."""
        for entry in self._entries:
            if entry.pid == pid:
                entry.failed_starts = 0 if os.read(entry.ready_fd, 1) else entry.failed_starts + 1
                os.close(entry.ready_fd)
                delay = min(0.1 * 2**entry.failed_starts, MAX_RESTART_DELAY_SECONDS) if entry.failed_starts else 0.0
                entry.pid, entry.restart_at = 0, time.monotonic() + delay
                self.replaced += 1
                cause = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
                logger.error("Worker %s ended with %s; workers replaced so far: %s", entry.number, cause, self.replaced)

    def _restart_due(self) -> None:
        for entry in self._entries:
            if not entry.pid and time.monotonic() >= entry.restart_at:
                self._start(entry)

    def _rolling_restart(self) -> None:
        """Load again and replace the workers one by one; each stops once its successor accepts on the same socket."""
        gc.unfreeze()
        try:
            self._use(self._load())
        except Exception:  # Whatever fails in the new configuration, the present workers go on.
            logger.exception("Rolling restart cancelled: the new configuration or models do not load")
            return
        for entry in self._entries:
            pid, ready_fd = self._fork(entry)
            if not _wait_until_ready(ready_fd):
                os.close(ready_fd)
                logger.error(
                    "Rolling restart cancelled: the new worker %s does not start; the others stay", entry.number
                )
                self._end(pid, signal.SIGKILL)
                return
            if entry.pid:
                self._end(entry.pid, signal.SIGTERM)
                os.close(entry.ready_fd)
            entry.pid, entry.ready_fd, entry.failed_starts = pid, ready_fd, 0

    def _end(self, pid: int, signal_number: signal.Signals) -> None:
        """Send a signal to a worker that is to exit, and set when it is killed."""
        self._kill_times[pid] = time.monotonic() + self._drain_seconds + KILL_GRACE_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)

    def _kill_overdue(self) -> None:
        for pid, kill_time in self._kill_times.items():
            if time.monotonic() > kill_time:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        """Shut down all workers gracefully; a second SIGTERM or SIGINT ends them at once.

        The supervisor closes its copies of the listening sockets first. New connections are then refused as soon as a
        worker closes its own copy.
        """
        for entry in self._entries:
            entry.socket.close()
            if entry.pid:
                self._end(entry.pid, signal.SIGTERM)
        while self._kill_times:
            received = signal.sigtimedwait(SIGNALS, 0.1)
            if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                for pid in list(self._kill_times):
                    self._end(pid, signal.SIGTERM)
            self._reap()
            self._kill_overdue()


def open_listening_sockets(count: int, host: str, port: int, backlog: int) -> list[socket.socket]:
    """Return `count` listening sockets on one address (SO_REUSEPORT), one per worker. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sockets: list[socket.socket] = []
    for _ in range(count):
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(sockets[0].getsockname() if sockets else address)
        sock.setblocking(False)
        sockets.append(sock)
    for sock in sockets:
        sock.listen(backlog)
    return sockets


def _wait_until_ready(ready_fd: int) -> bool:
    """Return whether a worker accepts within its time, and before the supervisor receives SIGTERM or SIGINT."""
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < deadline and not signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
        if select.select([ready_fd], [], [], 0.1)[0]:
            return os.read(ready_fd, 1) == b"1"
    return False


def _signal_ready(signal_fd: int) -> None:
    """Report to the supervisor that this worker accepts connections."""
    with contextlib.suppress(OSError):
        os.write(signal_fd, b"11")  # One byte for `_wait_until_ready`, one for `_record_death`.
        os.close(signal_fd)


def _terminate_with(parent: int) -> None:
    """Make the kernel send this process SIGTERM when its parent dies for any reason."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
