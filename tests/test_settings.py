"""The settings: defaults, sources, types and validation."""

from pathlib import Path

import pytest

from flaskml.errors import InvalidSetting
from flaskml.settings import Settings, find_instance_path, from_environment, read_settings
from tests.support.checkout import CHECKOUT


def test_defaults_are_as_documented():
    settings = read_settings({"INSTANCE_PATH": "/x"})
    assert (settings.model_name, settings.max_rows, settings.max_body) == ("default", 10_000, 8 * 1024 * 1024)
    assert settings.max_upload == 50_000_000 and settings.admin_token_sha256 == ()


def test_text_is_parsed_by_the_type_of_the_setting():
    values = from_environment({"FLASKML_MAX_ROWS": "5", "FLASKML_TRUSTED_HOSTS": "a.org, b.org", "OTHER": "x"})
    settings = read_settings({"INSTANCE_PATH": "/x", **values})
    assert (settings.max_rows, settings.trusted_hosts) == (5, ("a.org", "b.org"))


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        read_settings({"INSTANCE_PATH": "/x"}).max_rows = 5


def test_unknown_names_are_rejected_unless_ignored():
    assert read_settings({"INSTANCE_PATH": "/x", "SECRET_KEY": "s"}, ignored_names={"SECRET_KEY"})
    with pytest.raises(InvalidSetting, match="SECRET_KEY"):
        read_settings({"INSTANCE_PATH": "/x", "SECRET_KEY": "s"})


def test_a_token_is_not_accepted_in_place_of_its_digest():
    with pytest.raises(InvalidSetting, match="ADMIN_TOKEN_SHA256"):
        read_settings({"INSTANCE_PATH": "/x", "ADMIN_TOKEN_SHA256": "hunter2"})


def test_every_setting_has_a_description():
    assert all(field.description for field in Settings.model_fields.values())


def test_instance_path_comes_from_environment_checkout_or_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_instance_path({}) == CHECKOUT / "instance"
    assert find_instance_path({"FLASKML_INSTANCE_PATH": "here"}) == tmp_path / "here"
    monkeypatch.setattr("flaskml.settings.__file__", str(tmp_path / "site-packages/flaskml/settings.py"))
    assert find_instance_path({}) == Path.cwd() / "instance"
