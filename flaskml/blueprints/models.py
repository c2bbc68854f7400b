"""What the store holds."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from flaskml.web import reply, slot, store

bp = Blueprint("models", __name__)


@bp.get("/models")
def list_models() -> Response:
    """Every model with its versions and the active one."""
    return reply({"models": [_summary(name) for name in store().names()]})


@bp.get("/models/<model_name:name>")
def show_model(name: str) -> Response:
    """One model: its versions, its features, and every activation."""
    summary = _summary(name)
    state = store().state(name)
    history = [entry.model_dump() for entry in state.history]
    features = _features(name, state.active) if state.active else None
    return reply({**summary, "generation": state.generation, "history": history, "features": features})


def _summary(name: str) -> dict[str, Any]:
    versions = store().versions(name)
    return {"name": name, "active": store().state(name).active, "versions": versions, "serving": _serving(name)}


def _serving(name: str) -> str | None:
    """The version that this process answers with, if it serves the model."""
    manifest = slot().serving
    return manifest.version if manifest is not None and manifest.model == name else None


def _features(name: str, version: str) -> list[dict[str, Any]]:
    schema = store().manifest(name, version).schema_
    return [feature.model_dump(exclude_none=True) for feature in schema.features]
