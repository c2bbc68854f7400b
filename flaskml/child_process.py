"""Child processes that run what we do not trust to end: each leads a group, and the whole group ends with it."""

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
    """A child with pipes for its input and output; at the end it is killed, with all that it has started.

    Its compiled parts compute on that many `threads`, unless the environment says otherwise: OpenMP's threads wait for
    each other by keeping a processor busy, and take as long again for each processor that somebody else wants too.
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
    """Kills a child that leads a group, and all that it has started, which may outlive it."""
    if sys.platform == "win32":
        child.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
