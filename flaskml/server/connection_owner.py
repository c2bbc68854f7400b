"""The event loop as its connections see it."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from flaskml.server.body_admission import BodyAdmission
from flaskml.server.pipelining import PipelinedRequests
from flaskml.server.policy import Deadlines
from flaskml.server.unread_answers import UnreadAnswers


class ConnectionOwner(Protocol):
    """The part of the event loop that a connection uses."""

    now: float
    deadlines: Deadlines
    epoll: Any
    is_contended: bool
    """True while other threads may compete for the GIL."""

    body_admission: BodyAdmission
    unread_answers: UnreadAnswers
    pipelined: PipelinedRequests

    @property
    def is_own_thread(self) -> bool:
        """True in the thread of the event loop."""

    def add_task(self, channel: Any) -> None:
        """Queue the connection, which has a request to serve or to refuse."""

    def schedule_update(self, channel: Any) -> None:
        """Schedule an update of the events that the connection waits for. For the thread of the event loop."""

    def request_update(self, channel: Any) -> None:
        """Schedule an update from any thread."""

    def cancel_update(self, channel: Any) -> None:
        """Cancel the scheduled update of a connection that is about to be closed."""


class ServerOfChannel:
    """The server as a channel of waitress sees it: `pull_trigger` tells the event loop which channel has changed.

    The reference to the channel is weak: without reference cycles, a closed channel is freed at once.
    """

    __slots__ = ("_channel", "_loop")

    def __init__(self, loop: Any, channel: Any) -> None:
        self._loop = loop
        self._channel = weakref.ref(channel)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def pull_trigger(self) -> None:
        """Make the event loop send the output of the channel and update its events, if there is anything to do."""
        channel = self._channel()
        if channel is not None and channel.needs_update:
            self._loop.request_update(channel)
