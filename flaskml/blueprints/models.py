"""The registry: what the store holds, and which version answers."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request, url_for

from flaskml.errors import FlaskmlError
from flaskml.hot_reload.registry import lagging_processes
from flaskml.publishing import trial
from flaskml.schema.features import Feature
from flaskml.store.manifest import environment_key
from flaskml.store.state import ActivationRequest, ModelState
from flaskml.web.bodies import checked, limit_body, validated
from flaskml.web.current import current_registry, current_roster, current_settings, current_store, current_trial_limits
from flaskml.web.lean import may_block
from flaskml.web.negotiation import prefers_page
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply, page_or_json, see_other

bp = Blueprint("models", __name__)


@bp.get("/models")
@documented("models", {200: "Models"})
@may_block
def list_models() -> Response:
    """Every model with its versions and the active one."""
    rows = [{**row, "serving": _serving(row["name"])} for row in current_store().summaries()]
    return page_or_json("models.html", {"models": rows})


@bp.get("/models/<model_name:name>")
@documented("models", {200: "Model"}, errors=(404, 503))
@may_block
def show_model(name: str) -> Response:
    """One model: its versions, its features, its aliases, and every activation."""
    state = current_store().state(name)
    history = [entry.model_dump() for entry in state.history]
    verdicts = {version: _verdict(state, version) for version in current_store().versions(name)}
    shown = {
        "generation": state.generation,
        "history": history,
        "verdicts": verdicts,
        "features": _features(name, state),
    }
    return page_or_json("model.html", {**_summary(name), **shown}, environment=environment_key())


@bp.get("/models/<model_name:name>/versions/<version:version>")
@documented("models", {200: "Manifest"}, errors=(404, 503))
@may_block
def show_version(name: str, version: str) -> Response:
    """The manifest of a version."""
    manifest = current_store().manifest(name, version)
    shown = json.loads(manifest.to_json())
    shown["schema"]["features"] = [_public(feature) for feature in manifest.schema_.features]
    return page_or_json("version.html", shown, manifest=manifest, active=_active(name) if prefers_page() else None)


@bp.put("/models/<model_name:name>/active")
@documented("models", {200: "Activated", 202: "Activated"}, errors=(400, 404, 409, 413, 422, 503, 507), takes="Choice")
@may_block
def activate(name: str) -> Response:
    """Makes a version the active one; answers when every process serves it."""
    choice = validated(ActivationRequest)
    with current_registry().changing():
        return _after(
            name, trial.activate_version(current_store(), name, choice.version, choice.reason, current_trial_limits())
        )


@bp.post("/models/<model_name:name>/active")
@may_block
def activate_from_page(name: str) -> Response:
    """The same from the form of a page."""
    limit_body(current_settings().max_body, "MAX_BODY")
    choice = checked(lambda: ActivationRequest.model_validate({"version": request.form.get("version", "")}))
    with current_registry().changing():
        return _after(
            name, trial.activate_version(current_store(), name, choice.version, choice.reason, current_trial_limits())
        )


@bp.post("/models/<model_name:name>/rollback")
@documented("models", {200: "Activated", 202: "Activated"}, errors=(404, 409, 413, 503, 507))
@may_block
def roll_back(name: str) -> Response:
    """Makes the version active again that was so before the last activation."""
    limit_body(current_settings().max_body, "MAX_BODY")
    with current_registry().changing():
        return _after(name, trial.roll_back_version(current_store(), name, current_trial_limits()))


@bp.delete("/models/<model_name:name>/versions/<version:version>")
@documented("models", {204: None}, errors=(404, 409, 413, 503, 507))
@may_block
def delete(name: str, version: str) -> Response:
    """Removes a version that answers no request."""
    limit_body(current_settings().max_body, "MAX_BODY")
    current_store().versions(name)
    with current_registry().changing():
        current_store().delete(name, version)
    return Response(status=204)


def _after(name: str, state: ModelState) -> Response:
    """200 once the whole roster serves the new state, else 202 naming who does not yet; a browser is sent on."""
    late = lagging_processes(current_store(), current_roster(), name, state)
    body = {**_summary(name), "generation": state.generation, "lagging": [{"id": m.id, "pid": m.pid} for m in late]}
    if prefers_page():
        return see_other(url_for("models.show_model", name=name))
    place = {"Location": url_for("models.show_model", name=name)} if late else None
    return json_reply(body, 202 if late else 200, place)


def _active(name: str) -> str | None:
    """The active version; none where that cannot be told."""
    try:
        return current_store().state(name).active
    except FlaskmlError:  # A manifest is shown all the same.
        return None


def _summary(name: str) -> dict[str, Any]:
    return {**current_store().summary(name), "serving": _serving(name)}


def _serving(name: str) -> str | None:
    """The version that this process answers with, if it serves the model."""
    slot = current_registry().slots.get(name)
    return slot.serving.version if slot and slot.serving else None


def _verdict(state: ModelState, version: str) -> dict[str, Any]:
    """What trials said, without the answers: these are made of training rows."""
    shown = {"accepted", "reason", "at", "row"}
    judged = state.verdicts.get(version, {})
    return {environment: verdict.model_dump(include=shown) for environment, verdict in judged.items()}


def _features(name: str, state: ModelState) -> list[dict[str, Any]] | None:
    if state.active is None:
        return None
    try:
        schema = current_store().manifest(name, state.active).schema_
    except FlaskmlError:  # The history is told all the same: now it is needed.
        return None
    return [_public(feature) for feature in schema.features]


def _public(feature: Feature) -> dict[str, Any]:
    """What of a feature may be told to anybody: no counts and no quantiles, which few rows may stand behind."""
    return {**feature.model_dump(exclude_none=True, exclude={"counts", "quantiles"}), "example": feature.example}
