"""The commands: each parses, calls one function, and tells what it did."""

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
    """An error of flaskml's becomes a sentence and exit code 1."""
    from flaskml.errors import FlaskmlError

    try:
        yield
    except FlaskmlError as error:
        raise click.ClickException(error.detail) from error


def settings_here() -> Settings:
    """Return the settings of this folder. Raises `InvalidSetting`; Flask's own settings pass."""
    from flask import Flask

    from flaskml.settings import load_settings

    settings, _ = load_settings({}, passing=Flask.default_config)
    return settings


@contextmanager
def open_store_here() -> Iterator[tuple[ModelStore, Settings]]:
    """The store of this folder and its settings; errors in the block are told."""
    from flaskml.publishing.publish import open_store

    sys.path.append(str(Path.cwd()))  # As waitress-serve does: a model's own modules may lie here.
    with errors_as_messages():
        settings = settings_here()
        yield open_store(settings), settings


def _read_schema(_: click.Context, __: click.Parameter, file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        document = json.loads(file.read_bytes())
    except (ValueError, OSError) as error:
        raise click.BadParameter(f"{file} is no JSON file ({error}).") from None
    if not isinstance(document, dict):
        raise click.BadParameter(f"{file} holds no JSON object.")
    return document


schema_option = click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_schema,
    help="A JSON file that corrects the learnt schema: any part of what `flask models show --schema` prints.",
)


runtime_option = click.option(
    "--runtime",
    type=click.Choice(list(RUNTIME_CLASSES)),
    help="What computes; by default the fastest that answers as the estimator does.",
)


def shortest_path(path: Path) -> str:
    """The path from the current folder, if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def next_command(name: str, served: str) -> str:
    """What to type to serve the model, from this folder."""
    target = "wsgi:app" if Path("wsgi.py").is_file() else "--call flaskml:create_app"
    if name == served:
        return f"waitress-serve {target}"
    setting = f"set FLASKML_MODEL_NAME={name}&&" if os.name == "nt" else f"FLASKML_MODEL_NAME={name}"
    return f"{setting} waitress-serve {target}"
