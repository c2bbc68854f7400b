"""The processes of a server, as /proc tells of them."""

import os
import re
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
BORN = 19
EXIT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Process:
    """A process as it was when read; the fields of its `stat` are counted from the state, the third in proc(5)."""

    folder: Path
    stat: Sequence[str]

    @classmethod
    def read(cls, folder: Path) -> "Process":
        """Read the process from its folder in /proc; raise OSError when it has ended."""
        return cls(folder, (folder / "stat").read_text().rpartition(")")[2].split())

    @property
    def pid(self) -> int:
        """The number of the process."""
        return int(self.folder.name)

    @property
    def parent(self) -> int:
        """The number of the process that started it."""
        return int(self.stat[1])

    @property
    def session(self) -> int:
        """The number of the process that leads its session."""
        return int(self.stat[3])

    @property
    def cpu_seconds(self) -> float:
        """Its user and system time, with that of children already ended."""
        return sum(map(int, self.stat[11:15])) / TICKS_PER_SECOND

    def memory_bytes(self, measure: str) -> int:
        """Return its `Rss` or `Pss` by now, 0 when it has ended."""
        with suppress(OSError):
            found = re.search(rf"^{measure}:\s+(\d+)", (self.folder / "smaps_rollup").read_text(), re.MULTILINE)
            return int(found[1]) * 1024 if found else 0
        return 0

    def kill(self) -> None:
        """Kill the process and wait for its end, unless it has ended and another one has its number."""
        with suppress(OSError), os.fdopen(os.pidfd_open(self.pid)) as handle:
            if self.read(self.folder).stat[BORN] == self.stat[BORN]:
                signal.pidfd_send_signal(handle.fileno(), signal.SIGKILL)
                select.select([handle], [], [], EXIT_TIMEOUT_SECONDS)


def process_tree(leader: int) -> list[Process]:
    """Return the processes of the leader's session and all that descend from them, whatever sessions those lead."""
    everyone = list(_everyone())
    found = {process.pid for process in everyone if process.session == leader}
    while more := {process.pid for process in everyone if process.parent in found} - found:
        found |= more
    return [process for process in everyone if process.pid in found]


def _everyone() -> Iterator[Process]:
    for folder in Path("/proc").glob("[0-9]*"):
        # A process may end between the listing and the reading.
        with suppress(OSError):
            yield Process.read(folder)
