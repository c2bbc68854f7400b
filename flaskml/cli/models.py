"""`flask models`: list, show, add, activate, roll back, alias, delete and verify the models of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaskml.cli import open_cli_store, runtime_option, schema_option, serve_command_for

if TYPE_CHECKING:
    from flaskml.settings import Settings
    from flaskml.store.manifest import RuntimeName
    from flaskml.store.model_store import ModelStore
    from flaskml.store.state import ModelState

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def models() -> None:
    """List, add, activate and delete models."""


def _echo(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else text())


@models.command("list")
@as_json
def list_command(as_json: bool) -> None:
    """List every model with its active version and aliases."""
    with open_cli_store() as (store, _):
        rows = store.summaries()
    _echo(rows, as_json, lambda: "\n".join(_text_line(row) for row in rows) or "No model yet. Train one: flask train")


def _text_line(row: dict[str, Any]) -> str:
    if "fault" in row:
        return f"{row['name']:<20} {row['fault']}"
    text = f"{row['name']:<20} active: {row['active'] or 'none'}, versions: {len(row['versions'])}"
    return f"{text}, aliases: {_alias_list(row['aliases'])}" if row["aliases"] else text


def _alias_list(aliases: Mapping[str, str]) -> str:
    return " ".join(f"{alias}={version}" for alias, version in aliases.items())


@models.command("show")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--schema", is_flag=True, help="Print the schema, by default of the active version.")
@as_json
def show(name: str, version: str | None, schema: bool, as_json: bool) -> None:
    """Show a model with its activations, or a VERSION with its manifest and verdicts."""
    with open_cli_store() as (store, _):
        state = store.state(name)
        if schema:
            chosen = version or state.active or store.versions(name)[-1]
            shown = store.manifest(name, chosen).schema_.model_dump()
        elif version is None:
            history = [entry.model_dump() for entry in state.history]
            shown = {**store.summary(name), "history": history}
        else:
            verdicts = {key: verdict.model_dump() for key, verdict in state.verdicts.get(version, {}).items()}
            shown = {**json.loads(store.manifest(name, version).to_json()), "verdicts": verdicts}
    _echo(shown, as_json, lambda: json.dumps(shown, indent=2, ensure_ascii=False))


@models.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(exists=True, dir_okay=False), help="A CSV file with sample rows."
)
@click.option("--target", help="The target column of the sample, which is not a feature.")
@click.option("--name", required=True, help="The model that the new version belongs to.")
@click.option("--no-activate", is_flag=True, help="Store the version and run its trial, but do not activate it.")
@schema_option
@runtime_option
@click.option("--trust", is_flag=True, help="Do not ask before loading a joblib file. Loading runs the code in it.")
@as_json
def add(
    file: Path,
    data: str,
    target: str | None,
    name: str,
    no_activate: bool,
    schema: Mapping[str, Any] | None,
    runtime: RuntimeName | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Publish the estimator in FILE (.joblib, .skops or .onnx) as the next version of a model."""
    from flaskml.publishing.importers import SAFE_SUFFIXES, load_estimator, load_sample
    from flaskml.publishing.publish import publish_sample

    if file.suffix not in SAFE_SUFFIXES and not trust:
        click.confirm(
            f"Loading {file.name} runs any code that its author put into it. Do you trust its source?",
            abort=True,
            err=True,
        )
    with open_cli_store() as (store, settings):
        estimator = load_estimator(file)
        rows, targets = load_sample(Path(data), target, estimator)
        manifest = publish_sample(
            store,
            settings,
            name,
            estimator,
            rows,
            targets,
            data=Path(data).name,
            activate=not no_activate,
            corrections=schema,
            runtime=runtime,
        )
        is_active = store.state(name).active == manifest.version
    result = {"model": name, "version": manifest.version, "active": is_active}
    standing = "active" if is_active else "stored"
    activation = f"flask models activate {name} {manifest.version}"
    next_command = serve_command_for(name, settings.model_name) if is_active else activation
    _echo(result, as_json, lambda: f"{name} version {manifest.version}, {standing}\nnext: {next_command}")


@models.command("activate")
@click.argument("name")
@click.argument("version")
@as_json
def activate_command(name: str, version: str, as_json: bool) -> None:
    """Make VERSION active and wait until every serving process answers with it."""
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import activate_version

    with open_cli_store() as (store, settings):
        state = activate_version(store, name, version, "flask models activate", trial_limits(settings))
        _wait_and_report(store, settings, name, state, as_json)


@models.command("rollback")
@click.argument("name")
@as_json
def rollback(name: str, as_json: bool) -> None:
    """Activate the version that was active before the last activation."""
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import roll_back_version

    with open_cli_store() as (store, settings):
        state = roll_back_version(store, name, trial_limits(settings))
        _wait_and_report(store, settings, name, state, as_json)


def _wait_and_report(
    store: ModelStore, settings: Settings, name: str, state: ModelState, as_json: bool, changed: str = "version"
) -> None:
    """Wait until every serving process has the new state, for a few seconds at most, and print the result.

    `changed` is the changed part of the state, for the message about processes that still have the old one.
    """
    from flaskml.hot_reload.registry import lagging_processes
    from flaskml.hot_reload.roster import Roster

    lagging = [member.pid for member in lagging_processes(store, Roster(settings.instance_path), name, state)]
    result = {"name": name, "active": state.active, "generation": state.generation, "lagging": lagging}
    aliases = f"; aliases: {_alias_list(state.aliases)}" if state.aliases else ""
    waiting = f"; {_lagging_text(lagging, changed)}" if lagging else ""
    standing = f"version {state.active} is active" if state.active else "has no active version"
    _echo(result, as_json, lambda: f"{name} {standing}{aliases}{waiting}")


def _lagging_text(pids: Sequence[int], changed: str) -> str:
    if len(pids) == 1:
        return f"process {pids[0]} still serves the old {changed}: see its log, or restart it"
    return f"processes {', '.join(map(str, pids))} still serve the old {changed}: see their logs, or restart them"


@models.command("delete")
@click.argument("name")
@click.argument("version")
@as_json
def delete_command(name: str, version: str, as_json: bool) -> None:
    """Delete a VERSION that is not active and has no alias."""
    with open_cli_store() as (store, _):
        store.delete(name, version)
    _echo({"name": name, "deleted": version}, as_json, lambda: f"{name} version {version} is deleted")


@models.command("alias")
@click.argument("name")
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--delete", is_flag=True, help="Remove the alias.")
@as_json
def alias(name: str, alias: str, version: str | None, delete: bool, as_json: bool) -> None:
    """Give VERSION an alias, such as stable.

    An aliased version stays in memory and answers at /models/NAME/versions/VERSION/predict.
    """
    if delete is (version is not None):
        raise click.UsageError("Give either a version or --delete.")
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import ensure_accepted

    with open_cli_store() as (store, settings):
        if version is None:
            state = store.change(name, lambda state: state.without_alias(alias))
        else:
            ensure_accepted(store, name, version, trial_limits(settings))
            state = store.alias(name, alias, version)
        _wait_and_report(store, settings, name, state, as_json, changed="aliases")


@models.command("verify")
@as_json
def verify(as_json: bool) -> None:
    """Check owner, permissions, signature and digest of every version and state."""
    with open_cli_store() as (store, _):
        rows = [row for name in store.folder_names() for row in _verify_model(store, name)]
    lines = [f"{row['name']} {row['version']}: {row['fault'] or 'ok'}" for row in rows]
    _echo(rows, as_json, lambda: "\n".join(lines) or "No model to verify.")
    if any(row["fault"] for row in rows):
        raise SystemExit(1)


def _verify_model(store: ModelStore, name: str) -> Iterator[dict[str, Any]]:
    """Yield a row for the state of the model and one for each version, with its fault or None."""
    from flaskml.errors import FlaskmlError

    checks: dict[str, Callable[[], object]] = {"state": lambda: store.check_state(name)}
    versions = store.versions(name) if name in store.names() else []
    checks |= {version: partial(store.check, name, version) for version in versions}
    for version, check in checks.items():
        try:
            check()
            yield {"name": name, "version": version, "fault": None}
        except FlaskmlError as error:
            yield {"name": name, "version": version, "fault": error.detail}
