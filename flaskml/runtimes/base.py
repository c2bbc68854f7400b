"""The contract of a runtime."""

from __future__ import annotations

from typing import Any, Protocol

from flaskml.codecs.answers import Answer
from flaskml.codecs.parser import TableBuilder
from flaskml.store.manifest import LoadedVersion


class Runtime(Protocol):
    """Computes answers for tables, and knows no wire type.

    An implementation

    - is opened by its class method `from_version`, which does everything that can be done before the first call:
      after it returns, no call opens a file, imports a module or starts a process;
    - starts no thread and runs no prediction while it is opened, so that it survives a fork;
    - is called by several threads at once, and is not changed by a call;
    - gives the same answer to the same row whatever the other rows of the table are.
    """

    @classmethod
    def from_version(cls, loaded: LoadedVersion) -> Runtime:
        """Return the runtime of a version in memory."""
        ...

    @property
    def table_builder(self) -> TableBuilder:
        """What makes its tables."""
        ...

    def compute(self, table: Any, method: str) -> Answer:
        """The answer of a method that the manifest names to at least one row, one item a row."""
        ...
