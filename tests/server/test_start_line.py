"""What waitress says at its start."""

import logging

import pytest

from flaskml.server.start_line import StartupLogFilter, name_model_in_startup_log


@pytest.fixture(autouse=True)
def waitress_logger():
    logger = logging.getLogger("waitress")
    before = list(logger.filters)
    yield logger
    logger.filters[:] = before


def say(message):
    record = logging.LogRecord("waitress", logging.INFO, "", 0, message, None, None)
    assert logging.getLogger("waitress").filter(record)
    return record.getMessage()


def test_the_newest_app_is_announced(waitress_logger):
    name_model_in_startup_log(lambda: "old version 1")
    name_model_in_startup_log(lambda: "new version 2")
    assert say("Serving on http://127.0.0.1:8080") == "Serving new version 2 on http://127.0.0.1:8080"
    assert len([filter_ for filter_ in waitress_logger.filters if isinstance(filter_, StartupLogFilter)]) == 1


def test_other_lines_pass_unchanged():
    name_model_in_startup_log(lambda: "any")
    assert say("Task queue depth is 5") == "Task queue depth is 5"
