"""The table of settings, and the frozen object that a process reads them from.

A setting is a field of `Settings`. In `instance/config.py` it is written in capitals (`MODEL_NAME = "iris"`), in the
environment with the prefix `FLASKML_` (`FLASKML_MODEL_NAME=iris`; a list by commas). The argument of `create_app` wins
over the environment, the environment over the file.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from flaskml.errors import InvalidSetting, did_you_mean

ENVIRONMENT_PREFIX = "FLASKML_"

MODEL_NAME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"
"""A model's name: safe as a folder, a URL segment and a metric label on every system, with one spelling."""

VERSION_PATTERN = r"[1-9][0-9]{0,9}"
"""A version's number, with one spelling."""


def _split(value: object) -> object:
    """A text from the environment becomes the items between its commas; anything else passes."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


class Settings(BaseModel):
    """What an operator may choose. Sizes are bytes, times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    instance_path: Path
    """Folder of models, jobs and config.py; not settable in config.py, which lies in it."""

    model_name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")] = "default"
    """The model that answers when a request names none."""

    max_body: Annotated[int, Field(ge=1)] = 2 * 1024 * 1024
    """Largest body of a prediction: 10,000 rows of 20 numbers fit; above it, 413."""

    max_rows: Annotated[int, Field(ge=1)] = 10_000
    """Most rows in one prediction request; above it, 413."""

    max_upload: Annotated[int, Field(ge=1)] = 50_000_000
    """Largest body of a training request with its file; above it, 413."""

    train_queue: Annotated[int, Field(ge=1)] = 8
    """Training jobs that may wait behind the running one; above it, 429."""

    train_timeout: Annotated[int, Field(ge=1)] = 3600
    """Longest a training job may run before it is ended as failed."""

    admin_token_sha256: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], BeforeValidator(_split)
    ] = ()
    """SHA-256, in hex, of each token that may change state; with none, only this machine may."""

    keep_versions: Annotated[int, Field(ge=1)] = 10
    """Newest versions of a model that are kept; those active, aliased or needed for a rollback are kept besides."""

    signing_key_file: Path | None = None
    """File of the key that signs manifests; unset, signing.key in the instance folder, made on first use."""

    store_checks: Literal["strict", "warn"] = "strict"
    """Whether models that others could have changed (owner, permissions, links) are refused or only logged."""

    trial_timeout: Annotated[int, Field(ge=1)] = 60
    """Longest that a new version may take to load and to replay its golden rows."""

    trial_memory: Annotated[int, Field(ge=2**26)] = 2 * 1024**3
    """Memory that a trial may take beside four times the size of the model file and what the libraries hold."""

    max_queue: Annotated[int, Field(ge=1)] = 1024
    """Requests that a worker of `flask serve` may have unanswered; above it, 503 at once, as all would wait long."""

    drain_timeout: Annotated[int, Field(ge=1)] = 30
    """Longest that `flask serve` finishes what it has accepted, once told to stop; orchestrators kill after 30 s."""

    error_detail: Literal["full", "terse"] = "full"
    """Whether errors and warnings name features, categories and values, or, for the public, only rows."""

    api_title: str = "flaskml"
    """What the API is called in its OpenAPI document."""

    api_version: str = "1"
    """The version of the API there; it is yours, and does not change with the models."""

    trusted_hosts: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Host names that requests may be addressed to (`.example.org` takes its subdomains too); with none, any."""


def find_instance_path(environ: Mapping[str, str]) -> Path:
    """`FLASKML_INSTANCE_PATH`, else `instance` in the checkout of this package, else in the current folder."""
    if named := environ.get(f"{ENVIRONMENT_PREFIX}INSTANCE_PATH"):
        return Path(named).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout / "instance" if (checkout / "setup.cfg").is_file() else Path.cwd() / "instance"


def load_settings(
    config: Mapping[str, Any], *, passing: Collection[str] | None = None
) -> tuple[Settings, dict[str, Any]]:
    """The settings, and every value found under its capital name: `config.py`, then the environment, then `config`.

    Names in `passing` belong to somebody else; None lets every unknown name pass. Raises `InvalidSetting`.
    """
    instance_path = Path(config.get("INSTANCE_PATH") or find_instance_path(os.environ)).resolve()
    file = _from_file(instance_path / "config.py")
    if "INSTANCE_PATH" in file:
        raise InvalidSetting("INSTANCE_PATH", "it says where config.py lies; set FLASKML_INSTANCE_PATH instead.")
    values = {**file, **from_environment(os.environ), **config, "INSTANCE_PATH": instance_path}
    others = passing if passing is not None else values.keys() - set(setting_names())
    return read_settings(values, passing=others), values


def _from_file(path: Path) -> dict[str, Any]:
    """The capital names that the Python file at `path` defines; none if there is no file."""
    defined = runpy.run_path(str(path)) if path.is_file() else {}
    return {name: value for name, value in defined.items() if name.isupper()}


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The `FLASKML_*` variables under the names that `config.py` uses."""
    return {
        key.removeprefix(ENVIRONMENT_PREFIX): value
        for key, value in environ.items()
        if key.startswith(ENVIRONMENT_PREFIX)
    }


def read_settings(values: Mapping[str, Any], *, passing: Collection[str] = ()) -> Settings:
    """Validates the values given under capital names.

    Names in `passing` belong to somebody else (Flask) and are left out. Raises `InvalidSetting` with the name of the
    first unknown or ill-typed one.
    """
    own = {key: value for key, value in values.items() if key in setting_names() or key not in passing}
    for key in own:
        if key not in setting_names():
            raise InvalidSetting(key, f"there is no such setting{did_you_mean(key, setting_names()) or '.'}")
    try:
        return Settings(**{key.lower(): value for key, value in own.items()})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidSetting(str(problem["loc"][0]).upper(), f"{problem['msg']}.") from None


def setting_names() -> list[str]:
    """The names of all settings, as `config.py` writes them."""
    return [name.upper() for name in Settings.model_fields]
