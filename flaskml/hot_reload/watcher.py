"""The watcher: one thread that keeps a process in step with the store."""

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
"""Seconds between two looks at the store. An activation takes as long to be seen, and a look costs microseconds."""


class Watcher:
    """Keeps a process in step with the store, from its first request on.

    `look` returns a fingerprint of the store. When it changes, `follow` is called; it returns the revisions of the
    states that the process serves from then on, which are announced in the roster.
    """

    def __init__(self, roster: Roster, look: Callable[[], object], follow: Callable[[], Mapping[str, str]]) -> None:
        self.roster = roster
        self.look = look
        self.follow = follow
        self._seen = look()
        self._untold: Mapping[str, str] | None = None
        self._has_joined = False
        self._mutex = threading.Lock()
        self._step = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if hasattr(os, "register_at_fork"):  # Asking for the number of the process at each request costs more.
            os.register_at_fork(after_in_child=partial(_forked, weakref.ref(self)))

    def join(self) -> None:
        """Enters the roster, catches up with the store, and starts to watch: once in a process, before it answers.

        Who activates a version waits for the roster. So a process is in it before it compares, and no request that is
        sent after an activation was acknowledged is answered by the version before.
        """
        if self._has_joined:
            return
        with self._mutex:
            if not self._has_joined:
                with contextlib.suppress(OSError):  # A folder that is read-only is served all the same.
                    self.roster.enter()
                self.compare(always=True)
                self._thread = threading.Thread(target=self._watch, name="flaskml-watcher", daemon=True)
                self._thread.start()
                self._has_joined = True

    def compare(self, *, always: bool = False) -> None:
        """Catches up if the store has changed since the last look, or `always`, and tells the roster."""
        with self._step:
            if (now := self.look()) != self._seen or always:
                self._untold = self.follow()
                self._seen = now
            if self._untold is not None:
                with contextlib.suppress(OSError):  # On a full disk; the next look tells. Serving comes first.
                    self.roster.tell(self._untold)
                    self._untold = None

    def _watch(self) -> None:
        while not self._stopped.wait(WATCH_INTERVAL_SECONDS):
            try:
                self.compare()
            except Exception:  # Whatever befalls one look, what is in memory goes on serving, and so does the watch.
                logger.exception("The store cannot be followed")

    def stop(self) -> None:
        """Ends the watching, and the membership of this process."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self.roster.leave()


def _forked(reference: weakref.ref[Watcher]) -> None:
    """Has the watcher of a child join anew: it has no thread, and is nobody in the roster."""
    watcher = reference()
    if watcher is not None:
        watcher._has_joined = False
