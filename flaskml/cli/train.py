"""`flask train`: train a model on a CSV file or a built-in data set."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaskml.cli import (
    errors_as_messages,
    load_cli_settings,
    runtime_option,
    schema_option,
    serve_command_for,
    shortest_path,
)

if TYPE_CHECKING:
    from flaskml.store.manifest import Manifest
    from flaskml.training.trainer import Stage, Training, TrainingSpec

MAX_LISTED_FEATURES = 6
"""Features that the summary lists by name."""


@click.command("train")
@click.option("--data", default="regression", show_default=True, help="A CSV file, or a built-in data set's name.")
@click.option("--target", help="The column of the CSV file to predict.")
@click.option("--name", default="default", show_default=True, help="The model that the new version belongs to.")
@click.option(
    "--task", type=click.Choice(["classification", "regression"]), help="The task; by default inferred from the target."
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**32 - 1),
    help="Random seed of the train/test split and of the fit.",
)
@schema_option
@runtime_option
def train_command(data: str, schema: Mapping[str, Any] | None, **options: Any) -> None:
    """Train a model, store it as a new version and make it the active one.

    The built-in data sets are regression (generated: 100 rows of one feature), iris, wine, diabetes and breast_cancer.
    """
    from flaskml.training import trainer

    with errors_as_messages():
        settings = load_cli_settings()
        file = _csv_file(data)
        spec = _spec(data=None if file else data, schema=schema, **options)
        source = trainer.TrainingSource(file, file.name) if file else trainer.BUILT_IN_SOURCE
        try:
            training = trainer.run_training(spec, settings, partial(_show_stage, time.monotonic()), source)
        finally:
            _clear_stage()
    _print_summary(training, settings.instance_path, settings.model_name)


def _csv_file(data: str) -> Path | None:
    from flaskml.training.datasets import BUILT_IN

    if data in BUILT_IN:
        return None
    path = Path(data)
    if not path.is_file():
        names = ", ".join(BUILT_IN)
        raise click.BadParameter(f"{data} is neither a file nor one of {names}.", param_hint="--data")
    return path


def _spec(**values: Any) -> TrainingSpec:
    from pydantic import ValidationError

    from flaskml.training.trainer import TrainingSpec

    try:
        return TrainingSpec(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise click.BadParameter(f"{problem['msg']}.", param_hint=f"--{problem['loc'][0]}") from None


def _print_summary(training: Training, instance_path: Path, default_name: str) -> None:
    manifest = training.manifest
    folder = instance_path / "models" / manifest.model / manifest.version
    lines = {
        "data": f"{manifest.data}: {_rows(training)}",
        "features": _features(manifest),
        "task": f"{manifest.task} of {manifest.target} ({training.fitted.task_rule})",
        "estimator": manifest.estimator,
        "runtime": _runtime(manifest),
        "score": f"{manifest.score} on {manifest.score.rows} held-out rows" if manifest.score else "not measured",
        "model": f"{manifest.model} version {manifest.version}, {_standing(training)}",
        "stored": shortest_path(folder),
        "next": _next_command(training, default_name),
    }
    for label, text in lines.items():
        click.echo(f"{label:<10} {text}")


def _standing(training: Training) -> str:
    return "active" if training.active == training.manifest.version else f"stored; version {training.active} is active"


def _next_command(training: Training, default_name: str) -> str:
    manifest = training.manifest
    if training.active == manifest.version:
        return serve_command_for(manifest.model, default_name)
    return f"flask models activate {manifest.model} {manifest.version}"


def _runtime(manifest: Manifest) -> str:
    """Return the chosen runtime and the measured time per row of each runtime."""
    times = {one.runtime: one.one_row_microseconds for one in manifest.measurements if one.one_row_microseconds}
    others = [f"{name}: {time:.0f} µs" for name, time in times.items() if name != manifest.runtime]
    compared = f" ({', '.join(others)})" if others else ""
    return f"{manifest.runtime}: {times[manifest.runtime]:.0f} µs per row{compared}"


def _rows(training: Training) -> str:
    dropped = []
    if training.fitted.dropped_rows:
        dropped.append(f"{training.fitted.dropped_rows:,} rows without a target")
    if training.fitted.dropped_columns:
        dropped.append(f"empty columns: {', '.join(training.fitted.dropped_columns)}")
    text = f"{training.manifest.rows:,} rows"
    return f"{text} (dropped: {'; '.join(dropped)})" if dropped else text


def _features(manifest: Manifest) -> str:
    names = manifest.schema_.names
    more = f" and {len(names) - MAX_LISTED_FEATURES} more" if len(names) > MAX_LISTED_FEATURES else ""
    return f"{len(names)}: {', '.join(names[:MAX_LISTED_FEATURES])}{more}"


def _show_stage(started_at: float, stage: Stage) -> None:
    """Print the stage and the elapsed time over the previous one, if standard error is a terminal."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        elapsed = time.monotonic() - started_at
        text = f"{stage.name} ({stage.fraction:.0%} of the steps done, {elapsed:.0f} s)"[:width]
        click.echo(f"\r{text:<{width}}", nl=False, err=True)


def _clear_stage() -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r", nl=False, err=True)
