"""Child processes for code that may hang or crash, such as a trial or a training job.

Each child leads a process group, and the whole group is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def start_child(
    command: Sequence[str], *, threads: int, stderr: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child with pipes for its input and output, and kill its process group when the block ends.

    Native code in the child computes on `threads` threads (`OMP_NUM_THREADS`), unless the environment sets another
    number. More threads than free processors are slow: OpenMP threads busy-wait for each other, and each processor
    that another process uses too adds the time of the computation once more.
    """
    pipe = subprocess.PIPE
    variables = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=stderr, env=variables, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            kill_group(child)


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and the processes that it started, which may outlive it. On Windows, kill the child alone."""
    if sys.platform == "win32":
        child.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
