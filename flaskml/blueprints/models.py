"""The models of the store over HTTP: list, show, activate, roll back and delete versions."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Flask, Response, url_for

from flaskml.errors import FlaskmlError
from flaskml.hot_reload.registry import lagging_processes
from flaskml.publishing import trial
from flaskml.schema.features import Feature
from flaskml.store.manifest import environment_key
from flaskml.store.model_store import ModelStore
from flaskml.store.state import ModelState
from flaskml.web.bodies import (
    ActivationRequest,
    keep_files_in_memory,
    limit_body,
    parse_body,
    refuse_encoded_body,
    translate_validation_errors,
)
from flaskml.web.current import registry_of, settings_of, store_of, this_app, this_request, trial_limits_of, watcher_of
from flaskml.web.negotiation import prefers_page
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply, page_or_json, see_other

bp = Blueprint("models", __name__)


@bp.get("/models")
@documented("models", {200: "Models"})
def list_models() -> Response:
    """List every model with its versions and its active version."""
    app = this_app()
    summaries = [{**row, "serving": _serving_version(app, row["name"])} for row in store_of(app).summaries()]
    return page_or_json("models.html", {"models": summaries})


@bp.get("/models/<model_name:name>")
@documented("models", {200: "Model"}, errors=(404, 503))
def show_model(name: str) -> Response:
    """Show one model: its versions, features, aliases, trial verdicts and activation history."""
    app = this_app()
    store = store_of(app)
    state = store.state(name)
    details = {
        "generation": state.generation,
        "history": [entry.model_dump() for entry in state.history],
        "verdicts": {version: _public_verdicts(state, version) for version in store.versions(name)},
        "features": _public_features(store, name, state),
    }
    return page_or_json("model.html", {**_summary(app, name), **details}, environment=environment_key())


@bp.get("/models/<model_name:name>/versions/<version:version>")
@documented("models", {200: "Manifest"}, errors=(404, 503))
def show_version(name: str, version: str) -> Response:
    """Show the manifest of a version."""
    store = store_of(this_app())
    manifest = store.manifest(name, version)
    document = json.loads(manifest.to_json())
    document["schema"]["features"] = [_public_feature(feature) for feature in manifest.schema_.features]
    active = _active_version(store, name) if prefers_page(this_request()) else None
    return page_or_json("version.html", document, manifest=manifest, active=active)


@bp.put("/models/<model_name:name>/active")
@documented(
    "models",
    {200: "Activated", 202: "Activated"},
    errors=(400, 404, 409, 413, 415, 422, 503, 507),
    request_schema="ActivationRequest",
)
def activate(name: str) -> Response:
    """Activate a version, and answer when every process serves it."""
    return _activate(this_app(), name, parse_body(ActivationRequest))


@bp.post("/models/<model_name:name>/active")
def activate_from_page(name: str) -> Response:
    """Activate a version from the form of the model's page."""
    app, request = this_app(), this_request()
    refuse_encoded_body(request)
    limit_body(request, settings_of(app).max_body, "MAX_BODY")
    keep_files_in_memory(request)
    fields = {"version": request.form.get("version", "")}
    activation = translate_validation_errors(lambda: ActivationRequest.model_validate(fields))
    return _activate(app, name, activation)


@bp.post("/models/<model_name:name>/rollback")
@documented("models", {200: "Activated", 202: "Activated"}, errors=(404, 409, 413, 503, 507))
def roll_back(name: str) -> Response:
    """Activate the version that was active before the current one."""
    app = this_app()
    limit_body(this_request(), settings_of(app).max_body, "MAX_BODY")
    with registry_of(app).exclusive_change():
        return _activation_reply(app, name, trial.roll_back_version(store_of(app), name, trial_limits_of(app)))


@bp.delete("/models/<model_name:name>/versions/<version:version>")
@documented("models", {204: None}, errors=(404, 409, 413, 503, 507))
def delete(name: str, version: str) -> Response:
    """Delete a version that is neither active nor aliased."""
    app = this_app()
    limit_body(this_request(), settings_of(app).max_body, "MAX_BODY")
    store_of(app).versions(name)
    with registry_of(app).exclusive_change():
        store_of(app).delete(name, version)
    return Response(status=204)


def _activate(app: Flask, name: str, activation: ActivationRequest) -> Response:
    with registry_of(app).exclusive_change():
        limits = trial_limits_of(app)
        state = trial.activate_version(store_of(app), name, activation.version, activation.reason, limits)
        return _activation_reply(app, name, state)


def _activation_reply(app: Flask, name: str, state: ModelState) -> Response:
    """Return 200 once every process of the roster serves the new state; after a timeout, 202 with those that lag."""
    watcher = watcher_of(app)
    watcher.wake()  # Load the new state now, instead of at the watcher's next interval.
    lagging = lagging_processes(store_of(app), watcher.roster, name, state)
    location = url_for("models.show_model", name=name)
    if prefers_page(this_request()):
        return see_other(location)
    processes = [{"id": member.id, "pid": member.pid} for member in lagging]
    body = {**_summary(app, name), "generation": state.generation, "lagging": processes}
    return json_reply(body, 202 if lagging else 200, {"Location": location} if lagging else None)


def _active_version(store: ModelStore, name: str) -> str | None:
    """Return the active version, or None if the state cannot be read."""
    try:
        return store.state(name).active
    except FlaskmlError:  # The page still shows the manifest.
        return None


def _summary(app: Flask, name: str) -> dict[str, Any]:
    return {**store_of(app).summary(name), "serving": _serving_version(app, name)}


def _serving_version(app: Flask, name: str) -> str | None:
    """Return the version that this process serves, or None if it does not serve the model."""
    slot = registry_of(app).slots.get(name)
    return slot.current_manifest.version if slot and slot.current_manifest else None


def _public_verdicts(state: ModelState, version: str) -> dict[str, Any]:
    """Return the verdicts of a version's trials by environment, without the answers, which come from training rows."""
    public_fields = {"accepted", "reason", "at", "row"}
    verdicts = state.verdicts.get(version, {})
    return {environment: verdict.model_dump(include=public_fields) for environment, verdict in verdicts.items()}


def _public_features(store: ModelStore, name: str, state: ModelState) -> list[dict[str, Any]] | None:
    """Return the features of the active version, or None if no version is active or its manifest is damaged."""
    if state.active is None:
        return None
    try:
        schema = store.manifest(name, state.active).schema_
    except FlaskmlError:  # The page still shows the history, which helps to repair the model.
        return None
    return [_public_feature(feature) for feature in schema.features]


def _public_feature(feature: Feature) -> dict[str, Any]:
    """Return the facts of a feature that every client may read.

    Counts and quantiles stay private: with few rows, they would reveal single values.
    """
    return {**feature.model_dump(exclude_none=True, exclude={"counts", "quantiles"}), "example": feature.example}
