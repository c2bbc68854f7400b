"""Several workers on one address: a supervisor forks them, replaces those that die, and stops them together.

Each worker has a listening socket of its own on the shared address (SO_REUSEPORT), among which the kernel spreads
connections evenly, bursts too. The supervisor holds every socket open as long as it lives: what waits on the socket of
a worker that died is not reset, but served by the one that takes its place.
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
"""What a worker does: serves on a socket until SIGTERM; it calls the function once it accepts."""

SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What the supervisor waits for."""

MAX_RESTART_DELAY_SECONDS = 10.0
"""Seconds at most between two tries to start a worker that cannot."""

READY_TIMEOUT_SECONDS = 120.0
"""Seconds in which a worker has to accept; loading a large model takes some."""

KILL_GRACE_SECONDS = 2.0
"""Seconds beyond its patience after which a worker that does not end is killed."""

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class WorkerSlot:
    """The place of one worker: its socket, and who is there now."""

    number: int
    socket: socket.socket
    pid: int = 0
    told: int = -1
    """What becomes readable once the worker accepts, or has died."""

    deaths: int = 0
    """How many have died here one after the other before they accepted."""

    again: float = 0.0
    """When the next is started, if nobody is here; on the monotonic clock."""


class Supervisor:
    """Keeps one worker in each slot. `load` returns what workers do; SIGHUP has it called anew.

    What `load` leaves in memory is shared by all workers, for it is loaded before they are forked; so it may start no
    thread. Workers are replaced as after SIGHUP whenever `changed` says that there is something new for all to share.
    """

    def __init__(
        self,
        load: Callable[[], WorkerMain],
        sockets: Sequence[socket.socket],
        patience: float,
        changed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._load = load
        self._changed = changed
        self._slots = [WorkerSlot(number, sock) for number, sock in enumerate(sockets, start=1)]
        self._patience = patience
        self._leaving: dict[int, float] = {}
        """Workers that were told to end, and when they are killed."""

        self.replaced = 0
        """How many workers have died and were replaced."""

    def run(self) -> None:
        """Supervises until SIGTERM or SIGINT, then ends all workers and returns."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._take(self._load())
        for slot in self._slots:
            self._start(slot)
        while True:
            told = signal.sigtimedwait(SIGNALS, 0.1 if self._is_waiting else 1.0)
            if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            if (told is not None and told.si_signo == signal.SIGHUP) or self._changed():
                self._replace_all()
            self._reap()
            self._start_due()
            self._kill_late()
        self._stop()

    def _take(self, work: WorkerMain) -> None:
        """What workers do from now on. What was before is given back, and no collection writes to what is shared."""
        self._work = work
        gc.collect()
        with contextlib.suppress(AttributeError):  # The C library of Linux keeps what is freed, unless it is told.
            ctypes.CDLL(None).malloc_trim(0)
        gc.freeze()

    @property
    def _is_waiting(self) -> bool:
        return bool(self._leaving) or any(not slot.pid for slot in self._slots)

    def _start(self, slot: WorkerSlot) -> None:
        slot.pid, slot.told = self._fork(slot)

    def _fork(self, slot: WorkerSlot) -> tuple[int, int]:
        """A new worker for the slot: its process, and what becomes readable once it accepts or has died."""
        told, tell = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(tell)
            return pid, told
        os.close(told)
        code = 1
        try:
            _end_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for other in self._slots:
                if other is not slot:
                    other.socket.close()
            self._work(slot.socket, lambda: _say_ready(tell))
            code = 0
        except BaseException:  # The end of a worker; the supervisor starts another one.
            logger.exception("Worker %s failed", slot.number)
        finally:
            logging.shutdown()
            os._exit(code)

    def _reap(self) -> None:
        """Takes note of workers that have ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if self._leaving.pop(pid, None) is None:
                    self._note_death(pid, status)

    def _note_death(self, pid: int, status: int) -> None:
        for slot in self._slots:
            if slot.pid == pid:
                slot.deaths = 0 if os.read(slot.told, 1) else slot.deaths + 1
                os.close(slot.told)
                pause = min(0.1 * 2**slot.deaths, MAX_RESTART_DELAY_SECONDS) if slot.deaths else 0.0
                slot.pid, slot.again = 0, time.monotonic() + pause
                self.replaced += 1
                how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
                logger.error("Worker %s ended with %s; replaced %s times so far", slot.number, how, self.replaced)

    def _start_due(self) -> None:
        for slot in self._slots:
            if not slot.pid and time.monotonic() >= slot.again:
                self._start(slot)

    def _replace_all(self) -> None:
        """Loads anew and replaces one worker after the other; each goes once the next accepts on the same socket."""
        gc.unfreeze()
        try:
            self._take(self._load())
        except Exception:  # Whatever is wrong with the new configuration, the old one goes on.
            logger.exception("Nothing was replaced: what should be served now does not load")
            return
        for slot in self._slots:
            pid, told = self._fork(slot)
            if not _becomes_ready(told):
                os.close(told)
                logger.error("Worker %s does not start with what should be served now; the others stay", slot.number)
                self._end(pid, signal.SIGKILL)
                return
            if slot.pid:
                self._end(slot.pid, signal.SIGTERM)
                os.close(slot.told)
            slot.pid, slot.told, slot.deaths = pid, told, 0

    def _end(self, pid: int, number: signal.Signals) -> None:
        self._leaving[pid] = time.monotonic() + self._patience + KILL_GRACE_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _kill_late(self) -> None:
        for pid, until in self._leaving.items():
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _stop(self) -> None:
        """Ends all workers. Its own hold of the sockets goes first, so that a worker's last look closes the door."""
        for slot in self._slots:
            slot.socket.close()
            if slot.pid:
                self._end(slot.pid, signal.SIGTERM)
        while self._leaving:
            told = signal.sigtimedwait(SIGNALS, 0.1)
            if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
                for pid in list(self._leaving):
                    self._end(pid, signal.SIGTERM)
            self._reap()
            self._kill_late()


def open_listening_sockets(count: int, host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets on one address, as many as there are workers. Raises OSError."""
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


def _becomes_ready(told: int) -> bool:
    """Whether a worker accepts in time, and before the supervisor is told to stop."""
    until = time.monotonic() + READY_TIMEOUT_SECONDS
    while time.monotonic() < until and not signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
        if select.select([told], [], [], 0.1)[0]:
            return os.read(told, 1) == b"1"
    return False


def _say_ready(tell: int) -> None:
    with contextlib.suppress(OSError):
        os.write(tell, b"11")  # One for whoever waits for it, one for whoever wonders why it died.
        os.close(tell)


def _end_with(parent: int) -> None:
    """Has the kernel send this process SIGTERM when its parent dies, whatever it dies of."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
