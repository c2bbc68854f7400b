"""The workers of a supervisor: starts with back-off, rolling restarts, a watchdog, and ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from flaskml.server.worker import RETIRE_SIGNAL, StatusPipe, WorkerProcess, fork_worker

logger = logging.getLogger("waitress")

MAX_RESTART_DELAY_SECONDS = 10.0
"""Upper limit of the back-off between two attempts to start a worker that fails at its start, in seconds."""

READY_TIMEOUT_SECONDS = 120.0
"""Seconds within which a new worker must accept connections; warming up large models takes some of them."""

KILL_GRACE_SECONDS = 2.0
"""Seconds beyond the drain time after which a worker that does not exit is killed."""

ABORT_GRACE_SECONDS = 1.0
"""Seconds in which a worker that hangs may print its stack before it is killed."""


class ServedProgram(Protocol):
    """The program of the workers: the result of one load of configuration and models, which starts no thread."""

    @property
    def drain_seconds(self) -> float:
        """Seconds that a worker may take to answer its requests when it ends."""

    @property
    def timeout_seconds(self) -> float:
        """Seconds without a heartbeat after which a worker is replaced."""

    def run_worker(self, sock: socket.socket, pipe: StatusPipe) -> None:
        """Serve on the socket until a signal ends the worker, and report the status of the worker."""

    def reload_if_changed(self) -> bool:
        """Load what has changed and workers do not load by themselves; return whether to replace the workers."""


@dataclass(slots=True)
class WorkerEntry:
    """A listening socket, the worker that serves it, and during a rolling restart the successor of that worker."""

    number: int
    socket: socket.socket
    worker: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    successor_deadline: float = 0.0
    failed_starts: int = 0
    """Number of successive workers that died before they accepted."""

    restart_at: float = 0.0
    """Time of the next start if no worker runs, on the monotonic clock."""


class WorkerPool:
    """One worker per entry. A supervisor calls the methods in turn; several entries may hold the same socket."""

    def __init__(self, sockets: Sequence[socket.socket], program: ServedProgram) -> None:
        self._entries = [WorkerEntry(number, sock) for number, sock in enumerate(sockets, start=1)]
        self.program = program
        self._former_program: ServedProgram | None = None
        """The program before a rolling restart that has replaced no worker yet."""

        self._ending: list[WorkerProcess] = []
        """Workers that are to exit."""

        self._to_replace: deque[WorkerEntry] = deque()
        """The entries whose workers a rolling restart has not replaced yet."""

        self.replaced = 0
        """Number of workers that died and were replaced."""

    @property
    def is_changing(self) -> bool:
        """True while workers start or end."""
        return bool(self._ending or self._to_replace) or not self.is_complete

    @property
    def is_complete(self) -> bool:
        """True if every entry has a worker that accepts connections."""
        return all(entry.worker is not None and entry.worker.is_ready for entry in self._entries)

    @property
    def has_ended(self) -> bool:
        """True if no worker runs."""
        return not any(True for _ in self._workers())

    def _workers(self) -> Iterator[WorkerProcess]:
        for entry in self._entries:
            yield from (worker for worker in (entry.worker, entry.successor) if worker is not None)
        yield from self._ending

    def start_due(self) -> None:
        """Start a worker for each entry without one, if its back-off is over. Raises OSError."""
        for entry in self._entries:
            if entry.worker is None and entry.successor is None and time.monotonic() >= entry.restart_at:
                try:
                    entry.worker = self._fork(entry)
                except OSError:
                    self._delay_start(entry)
                    raise

    def _fork(self, entry: WorkerEntry) -> WorkerProcess:
        others = [other.socket for other in self._entries if other.socket is not entry.socket]
        return fork_worker(entry.number, entry.socket, others, self.program.run_worker)

    def _delay_start(self, entry: WorkerEntry) -> None:
        """Set the time of the next start after a failed one, with exponential back-off."""
        entry.failed_starts += 1
        delay = min(0.1 * 2**entry.failed_starts, MAX_RESTART_DELAY_SECONDS)
        entry.restart_at = time.monotonic() + delay

    def read_reports(self) -> None:
        """Note what the workers have reported."""
        for worker in self._workers():
            worker.read_reports()

    def reap(self) -> None:
        """Collect the exit statuses of workers, and as process 1 of a container those of orphans."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._record_end(*ended)

    def _record_end(self, pid: int, status: int) -> None:
        """Forget a worker that has ended."""
        worker = next((worker for worker in self._workers() if worker.pid == pid), None)
        if worker is None:
            return
        worker.read_reports()
        worker.close()
        entry = self._entries[worker.number - 1]
        if worker in self._ending:
            self._ending.remove(worker)
        elif worker is entry.successor:
            entry.successor = None
            self._cancel_restart(entry)
        else:
            self._record_death(entry, worker, status)

    def _record_death(self, entry: WorkerEntry, worker: WorkerProcess, status: int) -> None:
        """Log the death of a worker that was to go on, and set when its entry starts the next one."""
        entry.worker, entry.restart_at = None, 0.0
        if worker.is_ready:
            entry.failed_starts = 0
        else:
            self._delay_start(entry)
        self.replaced += 1
        cause = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
        logger.error("Worker %s ended with %s; workers replaced so far: %s", entry.number, cause, self.replaced)

    def end_hanging(self, elapsed: float) -> None:
        """Kill each worker without a heartbeat (watchdog). SIGABRT makes it print its stack.

        `elapsed` is the number of seconds since the last call in which the supervisor ran.
        """
        for worker in self._workers():
            if worker.kill_at is None and worker.count_silence(elapsed) > self.program.timeout_seconds:
                message = "Worker %s has not responded for %s seconds (setting WORKER_TIMEOUT) and is replaced"
                logger.error(message, worker.number, self.program.timeout_seconds)
                worker.kill_at = time.monotonic() + ABORT_GRACE_SECONDS
                worker.send(signal.SIGABRT)

    def kill_overdue(self) -> None:
        """Kill each worker that has exceeded its time to end."""
        for worker in self._workers():
            if worker.kill_at is not None and time.monotonic() > worker.kill_at:
                worker.send(signal.SIGKILL)

    def _end(self, worker: WorkerProcess, number: signal.Signals) -> None:
        """Send a signal to a worker that is to exit, and set when it is killed."""
        worker.kill_at = time.monotonic() + self.program.drain_seconds + KILL_GRACE_SECONDS
        worker.send(number)
        if worker not in self._ending:
            self._ending.append(worker)

    def begin_restart(self, program: ServedProgram) -> None:
        """Begin a rolling restart with a program, which may be the present one."""
        for entry in self._entries:
            if entry.successor is not None:  # Of a rolling restart that is not complete.
                self._end(entry.successor, RETIRE_SIGNAL)
                entry.successor = None
        if program is not self.program:
            self._former_program = self._former_program or self.program
        self.program = program
        self._to_replace = deque(self._entries)

    def continue_restart(self) -> None:
        """Replace the next worker: it ends once its successor accepts on the same socket. Raises OSError."""
        if not self._to_replace:
            return
        entry = self._to_replace[0]
        if entry.successor is None:
            try:
                entry.successor = self._fork(entry)
            except OSError:
                self._cancel_restart(entry)
                raise
            entry.successor_deadline = time.monotonic() + READY_TIMEOUT_SECONDS
        elif entry.successor.is_ready:
            if entry.worker is not None:
                self._end(entry.worker, RETIRE_SIGNAL)
            entry.worker, entry.successor, entry.failed_starts = entry.successor, None, 0
            self._former_program = None
            self._to_replace.popleft()
        elif time.monotonic() > entry.successor_deadline:
            self._cancel_restart(entry)

    def _cancel_restart(self, entry: WorkerEntry) -> None:
        """Cancel a rolling restart, because a new worker does not start."""
        if entry.successor is not None:
            self._end(entry.successor, signal.SIGKILL)
            entry.successor = None
        self._to_replace.clear()
        if self._former_program is not None:
            self.program, self._former_program = self._former_program, None
        logger.error("Rolling restart cancelled: the new worker %s does not start; the others stay", entry.number)

    def stop(self) -> None:
        """Begin the graceful shutdown of all workers.

        The supervisor closes its copies of the listening sockets first. New connections are then refused as soon as a
        worker closes its own copy; on a Unix socket, once its file is removed.
        """
        for sock in {id(entry.socket): entry.socket for entry in self._entries}.values():
            if sock.family == socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    os.unlink(sock.getsockname())
            sock.close()
        for worker in list(self._workers()):
            self._end(worker, signal.SIGTERM)
        for entry in self._entries:
            entry.worker = entry.successor = None

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers():
            worker.send(signal.SIGKILL)
