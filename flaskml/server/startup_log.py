"""The startup log line of waitress, completed with the model that the app serves."""

from __future__ import annotations

import logging
from collections.abc import Callable

_SERVING = "Serving on "
"""Beginning of the line that waitress logs once it listens."""


class StartupLogFilter(logging.Filter):
    """A filter that adds facts about the app to waitress's startup line, which names only the address."""

    def __init__(self, describe_model: Callable[[], str], describe_path: Callable[[], str]) -> None:
        super().__init__()
        self.describe_model = describe_model
        self.describe_path = describe_path

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the startup line, and pass every record."""
        if isinstance(record.msg, str) and record.msg.startswith(_SERVING):
            address = record.getMessage().removeprefix(_SERVING)
            record.msg, record.args = "Serving %s on %s; %s", (self.describe_model(), address, self.describe_path())
        return True


def name_model_in_startup_log(describe_model: Callable[[], str], describe_path: Callable[[], str]) -> None:
    """Add the served model, and the path of predictions through the server, to waitress's startup line.

    The functions are called when the line is logged. The newest app of a process replaces the filter of earlier ones.
    """
    logger = logging.getLogger("waitress")
    for existing in [filter_ for filter_ in logger.filters if isinstance(filter_, StartupLogFilter)]:
        logger.removeFilter(existing)
    logger.addFilter(StartupLogFilter(describe_model, describe_path))
