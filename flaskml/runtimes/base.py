"""The contract of a runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from flaskml.schema import Table


class Runtime(Protocol):
    """Computes answers for tables, and knows no wire type.

    An implementation

    - is opened by a module function `open_runtime(bundle)`, which does everything that can be done before the first
      call: after it returns, no call opens a file, imports a module or starts a process;
    - starts no thread and runs no prediction while it is opened, so that it survives a fork;
    - is called by several threads at once, and is not changed by a call;
    - gives the same answer to the same row whatever the other rows of the table are.
    """

    def predict(self, table: Table) -> np.ndarray:
        """The predictions for at least one row: shape (rows,), or (rows, outputs)."""
        ...
