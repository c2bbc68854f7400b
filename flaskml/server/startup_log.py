"""The startup log line of waitress, completed with the model that the app serves."""

from __future__ import annotations

import logging
from collections.abc import Callable

_SERVING = "Serving on "
"""Beginning of the line that waitress logs once it listens."""


class StartupLogFilter(logging.Filter):
    """A filter that adds the served model to waitress's startup line, which names only the address."""

    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self.describe = describe

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the startup line, and pass every record."""
        if isinstance(record.msg, str) and record.msg.startswith(_SERVING):
            record.msg = f"Serving {self.describe()} on {record.msg.removeprefix(_SERVING)}"
        return True


def name_model_in_startup_log(describe: Callable[[], str]) -> None:
    """Add the result of `describe()` to waitress's startup line.

    The function is called when the line is logged. The newest app of a process replaces the filter of earlier ones.
    """
    logger = logging.getLogger("waitress")
    for existing in [filter_ for filter_ in logger.filters if isinstance(filter_, StartupLogFilter)]:
        logger.removeFilter(existing)
    logger.addFilter(StartupLogFilter(describe))
