"""A worker process: what the supervisor knows of it, and the pipe through which it reports."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

logger = logging.getLogger("waitress")

READY = b"r"
"""The worker accepts connections."""

HEARTBEAT = b"h"
"""The event loop of the worker runs."""

LOAD_BEGIN = b"l"
LOAD_END = b"e"
"""The worker loads a version, which may keep the GIL from its event loop."""

JOBS_ONLY = b"j"
"""The worker has answered its last request, and ends with its training jobs."""

RETIRE_SIGNAL = signal.SIGUSR2
"""The signal for a worker whose successor serves: it ends after its requests and its training jobs."""

SUPERVISOR_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that the supervisor waits for; it blocks them."""

_PR_SET_PDEATHSIG = 1


class StatusPipe:
    """The end of the pipe on which a worker reports. A report that the supervisor does not read is dropped."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def report(self, status: bytes) -> None:
        """Send one of the reports of this module."""
        with contextlib.suppress(OSError):
            os.write(self._fd, status)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Report the beginning and the end of the load of a version."""
        self.report(LOAD_BEGIN)
        try:
            yield
        finally:
            self.report(LOAD_END)


WorkerMain: TypeAlias = Callable[[socket.socket, StatusPipe], None]
"""The main function of a worker: serve on the socket until a signal ends it, and report its status."""


@dataclass(slots=True)
class WorkerProcess:
    """A worker as the supervisor sees it."""

    number: int
    pid: int
    status_fd: int
    """The end of the pipe from which the supervisor reads the reports."""

    is_ready: bool = False
    """True once the worker has accepted connections."""

    has_jobs_only: bool = False
    loads: int = 0
    """Number of versions that it loads at the moment."""

    silent_seconds: float = 0.0
    """Seconds since the last heartbeat, without those in which the supervisor or a load kept it from being seen."""

    kill_at: float | None = None
    """Time at which it is killed, on the monotonic clock; None if it may go on."""

    def read_reports(self) -> None:
        """Update the attributes with all reports that have arrived."""
        with contextlib.suppress(BlockingIOError):
            for status in iter(lambda: os.read(self.status_fd, 1), b""):
                self._note(status)

    def _note(self, status: bytes) -> None:
        self.silent_seconds = 0.0
        self.is_ready |= status == READY
        self.loads += (status == LOAD_BEGIN) - (status == LOAD_END)
        if status == JOBS_ONLY:
            self.has_jobs_only, self.kill_at = True, None

    def count_silence(self, seconds: float) -> float:
        """Add seconds without a report, if the worker should report; return those since the last report."""
        if self.is_ready and not self.loads and not self.has_jobs_only:
            self.silent_seconds += seconds
        return self.silent_seconds

    def send(self, number: signal.Signals) -> None:
        """Send the worker a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        """Close the pipe of a worker that has ended."""
        os.close(self.status_fd)


def fork_worker(
    number: int, sock: socket.socket, others: Sequence[socket.socket], worker_main: WorkerMain
) -> WorkerProcess:
    """Fork a worker that serves on a socket and closes the sockets of the others. Raises OSError."""
    parent = os.getpid()
    status_fd, report_fd = os.pipe()
    try:
        os.set_blocking(status_fd, False)
        pid = os.fork()
    except OSError:
        os.close(status_fd)
        os.close(report_fd)
        raise
    if not pid:
        os.close(status_fd)
        for other in others:
            other.close()
        _run(number, sock, StatusPipe(report_fd), worker_main, parent)
    os.close(report_fd)
    return WorkerProcess(number, pid, status_fd)


def _run(number: int, sock: socket.socket, pipe: StatusPipe, worker_main: WorkerMain, parent: int) -> NoReturn:
    """Run a worker in a process that was just forked, and exit."""
    code = 1
    try:
        _prepare_signals(parent)
        worker_main(sock, pipe)
        code = 0
    except BaseException:  # The worker exits, and the supervisor starts another one.
        logger.exception("Worker %s failed", number)
    finally:
        logging.shutdown()
        os._exit(code)


def _prepare_signals(parent: int) -> None:
    """Ignore Ctrl-C, which the supervisor handles, and pass SIGHUP on to it; print the stack if a signal is fatal.

    SIGTERM ends the process until it serves, also when the kernel sends it because the supervisor has died.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Without a stderr that is a file.
        faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD, RETIRE_SIGNAL):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, lambda *_: _pass_on(signal.SIGHUP, parent))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISOR_SIGNALS)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _pass_on(number: signal.Signals, parent: int) -> None:
    if os.getppid() == parent:
        os.kill(parent, number)
