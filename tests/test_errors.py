"""The tree of errors."""

import inspect

import pytest

from flaskml import errors


@pytest.mark.parametrize("error", [kind for _, kind in inspect.getmembers(errors, inspect.isclass)])
def test_one_root_with_a_status_and_a_title(error):
    if issubclass(error, Exception):
        assert issubclass(error, errors.FlaskmlError)
        assert 400 <= error.status < 600 and error.title and error.__doc__


def test_sentences_say_what_to_do():
    assert "flask train --name iris" in errors.NoActiveVersion("iris", []).detail
    assert 'did you mean "iris"' in errors.ModelNotFound("irs", ["iris", "wine"]).detail
    assert "MAX_ROWS" in errors.TooManyRows(5).detail
    assert "flaskml[fast]" in errors.MissingExtra("fast", "The engine").detail


def test_nearest_is_bounded():
    assert errors.did_you_mean("x" * 10**6, ["y"]) == ""


def test_of_very_many_names_none_is_offered():
    names = [f"category {number}" for number in range(50_000)]
    assert errors.did_you_mean("category 7x", names) == "" and "category 7" in errors.did_you_mean(
        "category 7x", names[:500]
    )
