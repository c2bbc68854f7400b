"""The registry: what the store holds, and which version answers."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict, Field

from flaskml.errors import FlaskmlError
from flaskml.processes import PATIENCE
from flaskml.state import State
from flaskml.trial import ensure_accepted
from flaskml.web import limits, registry, reply, roster, store, validated

bp = Blueprint("models", __name__)


class Choice(BaseModel):
    """The body of an activation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: str = Field(max_length=20)
    reason: str = Field(default="activated over HTTP", max_length=500)


@bp.get("/models")
def list_models() -> Response:
    """Every model with its versions and the active one."""
    return reply({"models": [_summary_or_fault(name) for name in store().names()]})


@bp.get("/models/<model_name:name>")
def show_model(name: str) -> Response:
    """One model: its versions, its features, its aliases, and every activation."""
    state = store().state(name)
    history = [entry.model_dump() for entry in state.history]
    verdicts = {version: _verdict(state, version) for version in store().versions(name)}
    shown = {
        "generation": state.generation,
        "history": history,
        "verdicts": verdicts,
        "features": _features(name, state),
    }
    return reply({**_summary(name), **shown})


@bp.get("/models/<model_name:name>/versions/<version:version>")
def show_version(name: str, version: str) -> Response:
    """The manifest of a version."""
    return reply(store().manifest(name, version).to_json())


@bp.put("/models/<model_name:name>/active")
def activate(name: str) -> Response:
    """Makes a version the active one; answers when every process serves it."""
    choice = validated(Choice)
    ensure_accepted(store(), name, choice.version, limits())
    return _after(name, store().activate(name, choice.version, choice.reason))


@bp.post("/models/<model_name:name>/rollback")
def roll_back(name: str) -> Response:
    """Makes the version active again that was so before the last activation."""
    version = store().state(name).previous(name)
    ensure_accepted(store(), name, version, limits())
    return _after(name, store().activate(name, version, "rolled back"))


@bp.delete("/models/<model_name:name>/versions/<version:version>")
def delete(name: str, version: str) -> Response:
    """Removes a version that answers no request."""
    store().versions(name)
    store().delete(name, version)
    return Response(status=204)


def _after(name: str, state: State) -> Response:
    """200 once the whole roster serves the new state, else 202 naming who does not yet."""
    late = roster().lagging(name, state.generation, PATIENCE)
    body = {**_summary(name), "generation": state.generation, "lagging": [{"id": m.id, "pid": m.pid} for m in late]}
    return reply(body, 202 if late else 200, {"Location": f"/models/{name}"} if late else None)


def _summary_or_fault(name: str) -> dict[str, Any]:
    """One model that is damaged does not hide the others."""
    try:
        return _summary(name)
    except FlaskmlError as error:
        return {"name": name, "fault": error.detail}


def _summary(name: str) -> dict[str, Any]:
    versions, state = store().versions(name), store().state(name)
    return {
        "name": name,
        "active": state.active,
        "versions": versions,
        "aliases": dict(state.aliases),
        "serving": _serving(name),
    }


def _serving(name: str) -> str | None:
    """The version that this process answers with, if it serves the model."""
    slot = registry().slots.get(name)
    return slot.serving.version if slot and slot.serving else None


def _verdict(state: State, version: str) -> dict[str, Any]:
    """What trials said, without the answers: these are made of training rows."""
    shown = {"accepted", "reason", "at", "row"}
    judged = state.verdicts.get(version, {})
    return {environment: verdict.model_dump(include=shown) for environment, verdict in judged.items()}


def _features(name: str, state: State) -> list[dict[str, Any]] | None:
    if state.active is None:
        return None
    schema = store().manifest(name, state.active).schema_
    return [feature.model_dump(exclude_none=True) for feature in schema.features]
