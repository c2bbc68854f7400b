"""The error classes and their messages."""

import inspect

import pytest

from flaskml import errors


@pytest.mark.parametrize("error", [kind for _, kind in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_has_the_base_class_a_status_and_a_title(error):
    if issubclass(error, Exception):
        assert issubclass(error, errors.FlaskmlError)
        assert 400 <= error.status < 600 and error.title and error.__doc__


def test_messages_say_what_to_do():
    assert "flask train --name iris" in errors.NoActiveVersion("iris", []).detail
    assert 'did you mean "iris"' in errors.ModelNotFound("irs", ["iris", "wine"]).detail
    assert "MAX_ROWS" in errors.TooManyRows(5).detail
    assert "flaskml[fast]" in errors.MissingExtra("fast", "The event loop").detail


def test_a_suggestion_for_a_very_long_name_is_bounded():
    assert errors.did_you_mean("x" * 10**6, ["y"]) == ""


def test_no_name_is_suggested_from_more_than_500():
    names = [f"category {number}" for number in range(50_000)]
    assert errors.did_you_mean("category 7x", names) == ""
    assert "category 7" in errors.did_you_mean("category 7x", names[:500])
