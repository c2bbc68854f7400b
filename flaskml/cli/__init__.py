"""The commands of `flask`: each parses its options, calls one function and prints the result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaskml.runtimes import RUNTIME_CLASSES

if TYPE_CHECKING:
    from flaskml.settings import Settings
    from flaskml.store.model_store import ModelStore


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Convert a `FlaskmlError` in the block to an error message and exit code 1."""
    from flaskml.errors import FlaskmlError

    try:
        yield
    except FlaskmlError as error:
        raise click.ClickException(error.detail) from error


def load_cli_settings() -> Settings:
    """Return the settings for the current folder. Flask's own settings are ignored. Raises `InvalidSetting`."""
    from flask import Flask

    from flaskml.settings import load_settings

    settings, _ = load_settings({}, ignored_names=Flask.default_config)
    return settings


@contextmanager
def open_cli_store() -> Iterator[tuple[ModelStore, Settings]]:
    """Yield the store for the current folder and the settings; a `FlaskmlError` in the block is printed."""
    from flaskml.publishing.publish import open_store

    sys.path.append(str(Path.cwd()))  # As in waitress-serve: modules of a model may be in the current folder.
    with errors_as_messages():
        settings = load_cli_settings()
        yield open_store(settings), settings


def _read_schema(_: click.Context, __: click.Parameter, file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{file} cannot be read as JSON ({error}).") from None
    if not isinstance(document, dict):
        raise click.BadParameter(f"{file} must contain a JSON object.")
    return document


schema_option = click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_schema,
    help="A JSON file that corrects the learnt schema: any part of the output of `flask models show --schema`.",
)


runtime_option = click.option(
    "--runtime",
    type=click.Choice(list(RUNTIME_CLASSES)),
    help="Runtime that computes predictions; by default the fastest that gives the estimator's answers.",
)


def shortest_path(path: Path) -> str:
    """Return the path relative to the current folder if it is in it, else the path itself."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def serve_command_for(name: str, default_name: str) -> str:
    """Return the shell command that serves the model as the default one from the current folder.

    `default_name` is the setting MODEL_NAME; for another model the command sets it.
    """
    target = "wsgi:app" if Path("wsgi.py").is_file() else "--call flaskml:create_app"
    if name == default_name:
        return f"waitress-serve {target}"
    setting = f"set FLASKML_MODEL_NAME={name}&&" if os.name == "nt" else f"FLASKML_MODEL_NAME={name}"
    return f"{setting} waitress-serve {target}"
