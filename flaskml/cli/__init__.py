"""The commands: each parses, calls one function, and tells what it did."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def errors_told() -> Iterator[None]:
    """An error of flaskml's becomes a sentence and exit code 1."""
    from flaskml.errors import FlaskmlError

    try:
        yield
    except FlaskmlError as error:
        raise click.ClickException(error.detail) from error


def shortest(path: Path) -> str:
    """The path from the current folder, if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def next_command(name: str, served: str) -> str:
    """What to type to serve the model, from this folder."""
    target = "wsgi:app" if Path("wsgi.py").is_file() else "--call flaskml:create_app"
    if name == served:
        return f"waitress-serve {target}"
    setting = f"set FLASKML_MODEL_NAME={name}&&" if os.name == "nt" else f"FLASKML_MODEL_NAME={name}"
    return f"{setting} waitress-serve {target}"
