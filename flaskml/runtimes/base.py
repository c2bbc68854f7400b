"""The contract of a runtime."""

from __future__ import annotations

from typing import Any, Protocol

from flaskml.codecs.answers import Answer
from flaskml.codecs.rows import TableBuilder
from flaskml.store.manifest import LoadedVersion


class Runtime(Protocol):
    """The computation of answers for tables, without any wire type.

    An implementation

    - does all preparation in its class method `from_version`: a later call opens no file, imports no module and starts
      no process;
    - starts no thread and runs no prediction in `from_version`, so that it survives a fork;
    - is called by several threads at once: by the event loop, by its compute threads and by the threads of views. A
      runtime that is not thread-safe takes a lock in `compute`, and its `is_thread_safe` is False;
    - is not changed by a call, unless the estimator contains code that does so;
    - gives a row the same answer whatever the other rows of the table are.
    """

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> Runtime:
        """Return the runtime of a version in memory."""
        ...

    @property
    def table_builder(self) -> TableBuilder:
        """The builder of the tables that `compute` takes."""
        ...

    @property
    def is_thread_safe(self) -> bool:
        """True if several threads may compute at once.

        Otherwise `compute` itself takes a lock, so a call may wait for another one and is never made on the event loop.
        """
        ...

    def compute(self, table: Any, method: str) -> Answer:
        """Return the answer of a method that the manifest names, with one item for each row of the table.

        The table has at least one row.
        """
        ...
