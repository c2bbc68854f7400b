"""Supervisor: a process that loads the app, forks the workers, replaces those that die or hang, and stops them.

On a TCP port, each worker has its own listening socket (SO_REUSEPORT), and the kernel spreads connections evenly over
these sockets, in bursts too; on a Unix socket, all workers accept on the same one. The supervisor keeps all sockets
open: if a worker dies, the connections in its backlog are not reset, and the worker that replaces it serves them.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from flaskml.server.worker import SUPERVISOR_SIGNALS
from flaskml.server.worker_pool import ServedProgram, WorkerPool

logger = logging.getLogger("waitress")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SECOND_SIGNAL_SECONDS = 0.5
"""Seconds after a signal to stop from which a further one is a second request. Until then it is the same one: a
terminal, a shell and a process manager may each send their own."""

SIGHUP_SETTLE_SECONDS = 0.1
"""Seconds in which further SIGHUPs are the same request: one to the process group reaches every worker, and each
passes it on."""

POLL_SECONDS = 1.0
"""Seconds between two looks at the workers."""

FAST_POLL_SECONDS = 0.1
"""Seconds between two looks while workers start or end."""


class LoadStopped(BaseException):
    """A signal to stop that arrives during a load."""


class Supervisor:
    """A parent process that keeps one worker running per socket; several entries of `sockets` may be the same one.

    `load` loads configuration and models, and returns what the workers run; its argument is the program before, or
    None. Workers are forked afterwards and share the loaded memory (copy-on-write). SIGHUP, or a change that the
    program has loaded, starts a rolling restart: the workers are replaced one by one. `on_ready` is called once, when
    all workers accept connections.
    """

    def __init__(
        self,
        load: Callable[[ServedProgram | None], ServedProgram],
        sockets: Sequence[socket.socket],
        on_ready: Callable[[ServedProgram], None] = lambda program: None,
    ) -> None:
        self._load = load
        self._sockets = sockets
        self._on_ready = on_ready
        self._has_been_ready = False
        self._last_errors: dict[str, str] = {}
        """The text of the last error of each step that fails."""

        self._looked_at = time.monotonic()
        self._terminals = [fd for fd in (0, 1, 2) if os.isatty(fd)]

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT; then stop all workers and return. Raises what the first load raises."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISOR_SIGNALS)
        try:
            pool = WorkerPool(self._sockets, self._load_program(None))
        except LoadStopped:
            return
        with contextlib.suppress(LoadStopped):
            self._supervise(pool)
            while not self._is_stop(self._wait(pool), pool):
                self._supervise(pool)
        self._stop(pool)

    def _supervise(self, pool: WorkerPool) -> None:
        """Take each step once. Whatever a store, a model or a full process table raises, the supervisor goes on."""
        elapsed, self._looked_at = time.monotonic() - self._looked_at, time.monotonic()
        steps: dict[str, Callable[[], None]] = {
            "reading the workers' reports": pool.read_reports,
            "reaping": pool.reap,
            "starting workers": pool.start_due,
            "loading changed models": lambda: self._reload_if_changed(pool),
            "the rolling restart": pool.continue_restart,
            "the watchdog": lambda: pool.end_hanging(min(elapsed, 2 * POLL_SECONDS)),
            "ending workers": pool.kill_overdue,
            "the startup log": lambda: self._announce(pool),
        }
        for name, step in steps.items():
            self._guard(name, step)

    def _guard(self, name: str, step: Callable[[], None]) -> None:
        """Take a step, and log its error, unless it is the same as the last time."""
        try:
            step()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if self._last_errors.get(name) != text:
                logger.exception("The supervisor goes on after an error in %s", name)
            self._last_errors[name] = text
        else:
            self._last_errors.pop(name, None)

    def _wait(self, pool: WorkerPool) -> int | None:
        """Wait for a signal until the next look at the workers; return its number, or None."""
        seconds = FAST_POLL_SECONDS if pool.is_changing else POLL_SECONDS
        received = signal.sigtimedwait(SUPERVISOR_SIGNALS, seconds)
        return None if received is None else received.si_signo

    def _is_stop(self, number: int | None, pool: WorkerPool) -> bool:
        """Act on a received signal; return whether it stops the server."""
        if number == signal.SIGHUP:
            if self._terminals and not any(map(os.isatty, self._terminals)):
                return True  # The terminal that the server was started on has closed.
            while signal.sigtimedwait([signal.SIGHUP], SIGHUP_SETTLE_SECONDS) is not None:
                pass
            self._guard("the reload", lambda: self._reload(pool))
        return number in STOP_SIGNALS

    def _announce(self, pool: WorkerPool) -> None:
        """Call `on_ready` once."""
        if pool.is_complete and not self._has_been_ready:
            self._has_been_ready = True
            self._on_ready(pool.program)

    def _load_program(self, former: ServedProgram | None) -> ServedProgram:
        with _stoppable():
            program = self._load(former)
        _share_memory()
        return program

    def _reload(self, pool: WorkerPool) -> None:
        """Load again, and begin a rolling restart; the present workers go on if that fails."""
        gc.unfreeze()
        try:
            program = self._load_program(pool.program)
        except Exception:
            logger.exception("Rolling restart cancelled: the new configuration or models do not load")
            return
        pool.begin_restart(program)

    def _reload_if_changed(self, pool: WorkerPool) -> None:
        """Begin a rolling restart if the program has loaded something that the workers lack."""
        with _stoppable():
            has_changed = pool.program.reload_if_changed()
        if has_changed:
            gc.unfreeze()
            _share_memory()
            pool.begin_restart(pool.program)

    def _stop(self, pool: WorkerPool) -> None:
        """Shut down all workers gracefully; a second SIGTERM or SIGINT ends them at once."""
        stopped_at = time.monotonic()
        pool.stop()
        while not pool.has_ended:
            received = signal.sigtimedwait(SUPERVISOR_SIGNALS, FAST_POLL_SECONDS)
            is_stop = received is not None and received.si_signo in STOP_SIGNALS
            if is_stop and time.monotonic() > stopped_at + SECOND_SIGNAL_SECONDS:
                pool.kill()
            self._guard("reaping", pool.reap)
            pool.kill_overdue()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a signal to stop end the block with `LoadStopped`; a load may take minutes."""

    def stop(_: int, __: FrameType | None) -> None:
        raise LoadStopped

    former = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        for number, handler in former.items():
            signal.signal(number, handler)


def _share_memory() -> None:
    """Free unused memory, and keep the garbage collector from writing to loaded objects.

    Their pages then stay shared with the workers (copy-on-write).
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # Only the C library of Linux has it; it returns freed memory.
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
