"""The watcher: one thread that polls the store and triggers the hot reload of changed models."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial

from flaskml.hot_reload.roster import Roster

logger = logging.getLogger(__name__)

WATCH_INTERVAL_SECONDS = 0.1
"""Seconds between two polls of the store. A poll costs microseconds; an activation is noticed after one interval."""


class Watcher:
    """Hot reload of one process, from its first request on.

    `fingerprint` returns a value that changes with the store. After a change, the watcher calls `refresh`, which
    returns the revision of each model's state that the process serves, and announces the revisions in the roster.
    """

    def __init__(
        self, roster: Roster, fingerprint: Callable[[], object], refresh: Callable[[], Mapping[str, str]]
    ) -> None:
        self.roster = roster
        self.fingerprint = fingerprint
        self.refresh = refresh
        self._last_fingerprint = fingerprint()
        self._unannounced: Mapping[str, str] | None = None
        self._is_started = False
        self._start_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._is_stopped = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):  # Cheaper than comparing the process id at each request.
            os.register_at_fork(after_in_child=partial(_reset_after_fork, weakref.ref(self)))

    def ensure_started(self) -> None:
        """Enter the roster, load the current state of the store and start the thread: once per process.

        A process calls this before its first answer. An activation waits for every process in the roster. A process
        therefore enters the roster before it reads the store. So a request that you send after an activation was
        acknowledged is never answered by the previous version.
        """
        if self._is_started:
            return
        with self._start_lock:
            if not self._is_started:
                with contextlib.suppress(OSError):  # A read-only folder is served without the roster.
                    self.roster.enter()
                self.sync(force=True)
                self._thread = threading.Thread(target=self._watch, name="flaskml-watcher", daemon=True)
                self._thread.start()
                self._is_started = True

    def sync(self, *, force: bool = False) -> None:
        """Refresh if the store has changed since the last call, or if `force` is set, and announce the revisions."""
        with self._sync_lock:
            if (now := self.fingerprint()) != self._last_fingerprint or force:
                self._unannounced = self.refresh()
                self._last_fingerprint = now
            if self._unannounced is not None:
                with contextlib.suppress(OSError):  # The disk is full: keep serving, and announce at the next poll.
                    self.roster.announce(self._unannounced)
                    self._unannounced = None

    def wake(self) -> None:
        """Make the thread sync now instead of at its next poll; return at once."""
        self._wake.set()

    def _watch(self) -> None:
        while not self._is_stopped:
            self._wake.wait(WATCH_INTERVAL_SECONDS)
            self._wake.clear()
            try:
                self.sync()
            except Exception:  # One failed poll must end neither the thread nor the serving of loaded versions.
                logger.exception("Hot reload failed and will be retried; the loaded versions keep serving")

    def stop(self) -> None:
        """Stop the thread, and remove this process from the roster."""
        self._is_stopped = True
        self.wake()
        if self._thread is not None:
            self._thread.join()
        self.roster.leave()


def _reset_after_fork(reference: weakref.ref[Watcher]) -> None:
    """Make the watcher of a child process start again: the child has neither the thread nor a roster entry."""
    watcher = reference()
    if watcher is not None:
        watcher._is_started = False
