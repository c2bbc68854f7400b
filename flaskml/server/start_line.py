"""What plain `waitress-serve` needs to be told."""

from __future__ import annotations

import logging
from collections.abc import Callable

_SERVING = "Serving on "
"""How waitress begins the line that it logs once it listens."""


class StartupLogFilter(logging.Filter):
    """Completes the line that waitress logs once it listens: the address is known to waitress, the model to the app."""

    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self.describe = describe

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        if isinstance(record.msg, str) and record.msg.startswith(_SERVING):
            record.msg = f"Serving {self.describe()} on {record.msg.removeprefix(_SERVING)}"
        return True


def name_model_in_startup_log(describe: Callable[[], str]) -> None:
    """Has waitress say at its start what `describe` says then. The newest app of a process is the one it speaks of."""
    logger = logging.getLogger("waitress")
    for former in [filter_ for filter_ in logger.filters if isinstance(filter_, StartupLogFilter)]:
        logger.removeFilter(former)
    logger.addFilter(StartupLogFilter(describe))
