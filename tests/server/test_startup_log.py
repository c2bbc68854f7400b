"""The startup log line of waitress, with the model that the app serves."""

import logging

import pytest

from flaskml.server.startup_log import StartupLogFilter, name_model_in_startup_log


@pytest.fixture(autouse=True)
def waitress_logger():
    logger = logging.getLogger("waitress")
    before = list(logger.filters)
    yield logger
    logger.filters[:] = before


def logged(message):
    """Return the message as waitress's logger writes it."""
    record = logging.LogRecord("waitress", logging.INFO, "", 0, message, None, None)
    assert logging.getLogger("waitress").filter(record)
    return record.getMessage()


def test_the_newest_app_of_a_process_is_named(waitress_logger):
    name_model_in_startup_log(lambda: "old version 1", lambda: "old path")
    name_model_in_startup_log(lambda: "new version 2", lambda: "100 % direct")
    assert logged("Serving on http://127.0.0.1:80") == "Serving new version 2 on http://127.0.0.1:80; 100 % direct"
    assert len([filter_ for filter_ in waitress_logger.filters if isinstance(filter_, StartupLogFilter)]) == 1


def test_other_lines_pass_unchanged():
    name_model_in_startup_log(lambda: "any", lambda: "any")
    assert logged("Task queue depth is 5") == "Task queue depth is 5"
