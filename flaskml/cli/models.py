"""`flask models`: the registry from a shell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flaskml.cli import next_command, open_store_here, runtime_option, schema_option

if TYPE_CHECKING:
    from flaskml.settings import Settings
    from flaskml.store.manifest import RuntimeName
    from flaskml.store.model_store import ModelStore
    from flaskml.store.state import ModelState

as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@click.group()
def models() -> None:
    """Look at, add, activate and remove models."""


def _tell(shown: Any, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(shown, ensure_ascii=False) if as_json else text())


@models.command("list")
@as_json
def list_command(as_json: bool) -> None:
    """Every model, its active version and its aliases."""
    with open_store_here() as (store, _):
        rows = store.summaries()
    _tell(rows, as_json, lambda: "\n".join(_line(row) for row in rows) or "No model yet. Train one: flask train")


def _line(row: dict[str, Any]) -> str:
    if "fault" in row:
        return f"{row['name']:<20} {row['fault']}"
    aliases = "".join(f", {alias} is {version}" for alias, version in row["aliases"].items())
    return f"{row['name']:<20} active {row['active'] or 'none'} of {len(row['versions'])}{aliases}"


@models.command("show")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--schema", is_flag=True, help="Print the schema, of the active version if none is given.")
@as_json
def show(name: str, version: str | None, schema: bool, as_json: bool) -> None:
    """One model with its history, or the manifest of one VERSION with what its trials said."""
    with open_store_here() as (store, _):
        state = store.state(name)
        if schema:
            shown = store.manifest(name, version or state.active or store.versions(name)[-1]).schema_.model_dump()
        elif version is None:
            history = [entry.model_dump() for entry in state.history]
            shown = {**store.summary(name), "history": history}
        else:
            verdicts = {key: verdict.model_dump() for key, verdict in state.verdicts.get(version, {}).items()}
            shown = {**json.loads(store.manifest(name, version).to_json()), "verdicts": verdicts}
    _tell(shown, as_json, lambda: json.dumps(shown, indent=2, ensure_ascii=False))


@models.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(exists=True, dir_okay=False), help="A CSV file with sample rows."
)
@click.option("--target", help="The column of the sample that is predicted; it is no feature.")
@click.option("--name", required=True, help="The model that the new version belongs to.")
@click.option("--no-activate", is_flag=True, help="Store and try it, and leave the active version as it is.")
@schema_option
@runtime_option
@click.option("--trust", is_flag=True, help="Do not ask before a joblib file is loaded, which runs what is in it.")
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
    from flaskml.publishing import importers as adding
    from flaskml.publishing import publish as publishing

    if file.suffix not in adding.SAFE_SUFFIXES and not trust:
        click.confirm(
            f"Loading {file.name} runs whatever code its author put into it. Do you trust where it comes from?",
            abort=True,
            err=True,
        )
    with open_store_here() as (store, settings):
        estimator = adding.load_estimator(file)
        rows, targets = adding.load_sample(Path(data), target, estimator)
        manifest = publishing.publish_sample(
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
    shown = {"model": name, "version": manifest.version, "active": is_active}
    active = "active" if is_active else "stored"
    next_step = next_command(name, settings.model_name)
    _tell(shown, as_json, lambda: f"{name} version {manifest.version}, {active}\nnext: {next_step}")


@models.command("activate")
@click.argument("name")
@click.argument("version")
@as_json
def activate_command(name: str, version: str, as_json: bool) -> None:
    """Make VERSION the one that answers; returns when every serving process does."""
    from flaskml.publishing import trial
    from flaskml.publishing.publish import trial_limits

    with open_store_here() as (store, settings):
        limits = trial_limits(settings)
        state = trial.activate_version(store, name, version, "flask models activate", limits)
        _after(store, settings, name, state, as_json)


@models.command("rollback")
@click.argument("name")
@as_json
def rollback(name: str, as_json: bool) -> None:
    """Make the version active again that was so before the last activation."""
    from flaskml.publishing import trial
    from flaskml.publishing.publish import trial_limits

    with open_store_here() as (store, settings):
        _after(store, settings, name, trial.roll_back_version(store, name, trial_limits(settings)), as_json)


def _after(store: ModelStore, settings: Settings, name: str, state: ModelState, as_json: bool) -> None:
    from flaskml.hot_reload.registry import lagging_processes
    from flaskml.hot_reload.roster import Roster

    late = [member.pid for member in lagging_processes(store, Roster(settings.instance_path), name, state)]
    shown = {"name": name, "active": state.active, "generation": state.generation, "lagging": late}
    aliases = "".join(f", {alias} is {version}" for alias, version in state.aliases.items())
    waiting = f"; not yet served by process {', '.join(map(str, late))}" if late else ""
    _tell(shown, as_json, lambda: f"{name} version {state.active or 'none'} is active{aliases}{waiting}")


@models.command("delete")
@click.argument("name")
@click.argument("version")
@as_json
def delete_command(name: str, version: str, as_json: bool) -> None:
    """Remove a version that is neither active nor aliased."""
    with open_store_here() as (store, _):
        store.delete(name, version)
    _tell({"name": name, "deleted": version}, as_json, lambda: f"{name} version {version} is gone")


@models.command("alias")
@click.argument("name")
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--delete", is_flag=True, help="Take the alias away.")
@as_json
def alias(name: str, alias: str, version: str | None, delete: bool, as_json: bool) -> None:
    """Let ALIAS, such as stable, mean VERSION; the version then answers under its own number too."""
    if delete is (version is not None):
        raise click.UsageError("Give a version, or --delete.")
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import ensure_accepted

    with open_store_here() as (store, settings):
        if version is None:
            state = store.change(name, lambda state: state.remove_alias(alias))
        else:
            ensure_accepted(store, name, version, trial_limits(settings))
            state = store.alias(name, alias, version)
        _after(store, settings, name, state, as_json)


@models.command("verify")
@as_json
def verify(as_json: bool) -> None:
    """Check owner, permissions, signature and digest of everything that is stored."""
    with open_store_here() as (store, _):
        found = [row for name in store.folders() for row in _checked(store, name)]
    _tell(found, as_json, lambda: "\n".join(f"{row['name']} {row['version']}: {row['fault'] or 'ok'}" for row in found))
    if any(row["fault"] for row in found):
        raise SystemExit(1)


def _checked(store: ModelStore, name: str) -> Iterator[dict[str, Any]]:
    """A row for the state of the model and for each version, with what is wrong with it."""
    from flaskml.errors import FlaskmlError

    checks: dict[str, Callable[[], object]] = {"state": lambda: store.check_state(name)}
    stored = store.versions(name) if name in store.names() else []
    checks |= {version: partial(store.check, name, version) for version in stored}
    for version, check in checks.items():
        try:
            check()
            yield {"name": name, "version": version, "fault": None}
        except FlaskmlError as error:
            yield {"name": name, "version": version, "fault": error.detail}
