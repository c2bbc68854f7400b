"""The settings of a process: their types, defaults and meanings, and how they are loaded.

A setting is a field of `Settings`. `instance/config.py` writes its name in capitals (`MODEL_NAME = "iris"`). An
environment variable adds the prefix `FLASKML_` (`FLASKML_MODEL_NAME=iris`) and separates the items of a list by commas.
Precedence: the argument of `create_app`, then the environment, then the file.
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

MODEL_NAME_PATTERN = r"[a-z0-9][a-z0-9._\-]{0,62}"
"""The name of a model: safe as a folder, a URL segment and a metric label on every system. It has one spelling."""

VERSION_PATTERN = r"[1-9][0-9]{0,9}"
"""The number of a version. It has one spelling."""


def _split(value: object) -> object:
    """Split a text from the environment at its commas; return any other value unchanged."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


class Settings(BaseModel):
    """Every value that an operator may choose, validated and immutable. Sizes are in bytes, times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    instance_path: Path
    """Folder of the models, the jobs and config.py. It cannot be set in config.py, which is inside it."""

    model_name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")] = "default"
    """Default model: it answers the requests that name no model."""

    max_body: Annotated[int, Field(ge=1)] = 8 * 1024 * 1024
    """Largest body of a prediction request, in bytes; a larger one gets 413. 10,000 rows of 20 numbers fit."""

    max_rows: Annotated[int, Field(ge=1)] = 10_000
    """Largest number of rows in a prediction request; more rows get 413."""

    max_upload: Annotated[int, Field(ge=1)] = 50_000_000
    """Largest body of a training request with its file, in bytes; a larger one gets 413."""

    train_queue: Annotated[int, Field(ge=1)] = 8
    """Largest number of training jobs that wait while another job runs; a further job gets 429."""

    train_timeout: Annotated[int, Field(ge=1)] = 3600
    """Longest run of a training job, in seconds; a longer one is killed and marked as failed."""

    admin_token_sha256: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], BeforeValidator(_split)
    ] = ()
    """SHA-256, in hex, of each token that allows state changes; if unset, only this machine may change state."""

    keep_versions: Annotated[int, Field(ge=1)] = 10
    """Newest versions kept of a model; versions that are active, aliased or needed for a rollback are always kept."""

    signing_key_file: Path | None = None
    """File of the key that signs manifests; if unset, signing.key in the instance folder, created on first use."""

    store_checks: Literal["strict", "warn"] = "strict"
    """`strict` refuses models that other users could have changed (owner, permissions, links); `warn` only logs it."""

    trial_timeout: Annotated[int, Field(ge=1)] = 60
    """Longest time for a new version to load and replay its golden rows, in seconds."""

    trial_memory: Annotated[int, Field(ge=2**26)] = 2 * 1024**3
    """Memory of a trial, in bytes, beyond four times the size of the model file and the memory of the libraries."""

    threads: Annotated[int, Field(ge=1, le=1024)] = 32
    """Threads of a `flask serve` worker that serve views; as many again serve predictions that go through Flask."""

    direct: Literal["auto", "always", "never"] = "auto"
    """`auto`: predictions in JSON are answered without Flask if no code of the app would notice; `always`: even if
    hooks of the app would; `never`: they go through Flask."""

    max_queue: Annotated[int, Field(ge=1)] = 1024
    """Largest number of unanswered requests per `flask serve` worker. Further ones get 503 at once (load shedding),
    because all requests would wait long."""

    body_memory: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024
    """Memory of a `flask serve` worker for bodies above 16 KiB, from their arrival to their answer, in bytes, at least
    twice MAX_BODY; as much again is for answers that clients have not read. Beyond it, bodies wait up to 5 s, and then
    get 503."""

    drain_timeout: Annotated[int, Field(ge=1)] = 30
    """Longest graceful shutdown of `flask serve`, in seconds. Orchestrators kill a process after 30 s by default."""

    worker_timeout: Annotated[int, Field(ge=1)] = 30
    """Longest time that the event loop of a `flask serve` worker may be blocked, in seconds, before the worker is
    replaced. The load of a version does not count."""

    error_detail: Literal["full", "terse"] = "full"
    """`full`: errors and warnings name features, categories and values; `terse`, for public use: only rows."""

    api_title: str = "flaskml"
    """Title of the API in its OpenAPI document."""

    api_version: str = "1"
    """Version of the API in its OpenAPI document. You choose it; it does not change with the models."""

    trusted_hosts: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Host names that requests may use (`.example.org` includes its subdomains); if unset, every host is accepted."""


def find_instance_path(environ: Mapping[str, str]) -> Path:
    """Return the instance folder.

    It is `FLASKML_INSTANCE_PATH` if set, else `instance` in the checkout of this package, else `instance` in the
    current folder.
    """
    if path := environ.get(f"{ENVIRONMENT_PREFIX}INSTANCE_PATH"):
        return Path(path).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout / "instance" if (checkout / "setup.cfg").is_file() else Path.cwd() / "instance"


def load_settings(
    config: Mapping[str, Any], *, ignored_names: Collection[str] | None = None
) -> tuple[Settings, dict[str, Any]]:
    """Return the settings, and every value of all sources under its capital name.

    The sources are `config.py`, the environment and `config`; a later one overrides an earlier one. Unknown names in
    `ignored_names` (those of Flask) are not settings and raise no error; None ignores every unknown name.
    Raises `InvalidSetting`.
    """
    instance_path = Path(config.get("INSTANCE_PATH") or find_instance_path(os.environ)).resolve()
    file = _from_file(instance_path / "config.py")
    if "INSTANCE_PATH" in file:
        raise InvalidSetting(
            "INSTANCE_PATH", "config.py is inside that folder and cannot set it; set FLASKML_INSTANCE_PATH instead."
        )
    values = {**file, **from_environment(os.environ), **config, "INSTANCE_PATH": instance_path}
    ignored = ignored_names if ignored_names is not None else values.keys() - set(setting_names())
    return read_settings(values, ignored_names=ignored), values


def _from_file(path: Path) -> dict[str, Any]:
    """Return the capital names that the Python file at `path` defines; none if there is no file."""
    defined = runpy.run_path(str(path)) if path.is_file() else {}
    return {name: value for name, value in defined.items() if name.isupper()}


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the `FLASKML_*` variables under the names that `config.py` uses."""
    return {
        key.removeprefix(ENVIRONMENT_PREFIX): value
        for key, value in environ.items()
        if key.startswith(ENVIRONMENT_PREFIX)
    }


def read_settings(values: Mapping[str, Any], *, ignored_names: Collection[str] = ()) -> Settings:
    """Return the validated settings from values under capital names.

    Unknown names in `ignored_names` are left out. Raises `InvalidSetting` with the name of the first setting that is
    unknown or has an invalid value.
    """
    given = {key: value for key, value in values.items() if key in setting_names() or key not in ignored_names}
    for key in given:
        if key not in setting_names():
            raise InvalidSetting(key, f"there is no such setting{did_you_mean(key, setting_names()) or '.'}")
    try:
        return Settings(**{key.lower(): value for key, value in given.items()})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InvalidSetting(str(problem["loc"][0]).upper(), f"{problem['msg']}.") from None


def setting_names() -> list[str]:
    """Return the names of all settings, in capitals."""
    return [name.upper() for name in Settings.model_fields]
