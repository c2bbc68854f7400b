"""The registry: what the store holds, and which version answers."""

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
from flaskml.web.bodies import ActivationRequest, checked, limit_body, validated
from flaskml.web.current import registry_of, settings_of, store_of, trial_limits_of, watcher_of
from flaskml.web.lean import may_block, this_app, this_request
from flaskml.web.negotiation import prefers_page
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply, page_or_json, see_other

bp = Blueprint("models", __name__)


@bp.get("/models")
@documented("models", {200: "Models"})
@may_block
def list_models() -> Response:
    """List every model with its versions and the active one."""
    app = this_app()
    rows = [{**row, "serving": _serving(app, row["name"])} for row in store_of(app).summaries()]
    return page_or_json("models.html", {"models": rows})


@bp.get("/models/<model_name:name>")
@documented("models", {200: "Model"}, errors=(404, 503))
@may_block
def show_model(name: str) -> Response:
    """Show one model: its versions, features, aliases, and every activation."""
    app = this_app()
    store = store_of(app)
    state = store.state(name)
    shown = {
        "generation": state.generation,
        "history": [entry.model_dump() for entry in state.history],
        "verdicts": {version: _verdict(state, version) for version in store.versions(name)},
        "features": _features(store, name, state),
    }
    return page_or_json("model.html", {**_summary(app, name), **shown}, environment=environment_key())


@bp.get("/models/<model_name:name>/versions/<version:version>")
@documented("models", {200: "Manifest"}, errors=(404, 503))
@may_block
def show_version(name: str, version: str) -> Response:
    """Show the manifest of a version."""
    store = store_of(this_app())
    manifest = store.manifest(name, version)
    shown = json.loads(manifest.to_json())
    shown["schema"]["features"] = [_public(feature) for feature in manifest.schema_.features]
    active = _active(store, name) if prefers_page(this_request()) else None
    return page_or_json("version.html", shown, manifest=manifest, active=active)


@bp.put("/models/<model_name:name>/active")
@documented(
    "models",
    {200: "Activated", 202: "Activated"},
    errors=(400, 404, 409, 413, 422, 503, 507),
    takes="ActivationRequest",
)
@may_block
def activate(name: str) -> Response:
    """Make a version the active one; answer when every process serves it."""
    return _activate(this_app(), name, validated(ActivationRequest))


@bp.post("/models/<model_name:name>/active")
@may_block
def activate_from_page(name: str) -> Response:
    """Make a version the active one, from the form of a page."""
    app, sent = this_app(), this_request()
    limit_body(sent, settings_of(app).max_body, "MAX_BODY")
    return _activate(
        app, name, checked(lambda: ActivationRequest.model_validate({"version": sent.form.get("version", "")}))
    )


@bp.post("/models/<model_name:name>/rollback")
@documented("models", {200: "Activated", 202: "Activated"}, errors=(404, 409, 413, 503, 507))
@may_block
def roll_back(name: str) -> Response:
    """Make the version active again that was active before the last activation."""
    app = this_app()
    limit_body(this_request(), settings_of(app).max_body, "MAX_BODY")
    with registry_of(app).changing():
        return _activated(app, name, trial.roll_back_version(store_of(app), name, trial_limits_of(app)))


@bp.delete("/models/<model_name:name>/versions/<version:version>")
@documented("models", {204: None}, errors=(404, 409, 413, 503, 507))
@may_block
def delete(name: str, version: str) -> Response:
    """Remove a version that answers no request."""
    app = this_app()
    limit_body(this_request(), settings_of(app).max_body, "MAX_BODY")
    store_of(app).versions(name)
    with registry_of(app).changing():
        store_of(app).delete(name, version)
    return Response(status=204)


def _activate(app: Flask, name: str, asked: ActivationRequest) -> Response:
    with registry_of(app).changing():
        state = trial.activate_version(store_of(app), name, asked.version, asked.reason, trial_limits_of(app))
        return _activated(app, name, state)


def _activated(app: Flask, name: str, state: ModelState) -> Response:
    """Return 200 once the whole roster serves the new state, else 202 naming the processes that lag."""
    watcher = watcher_of(app)
    watcher.compare()  # This process need not wait for its own watcher to look at the disk.
    late = lagging_processes(store_of(app), watcher.roster, name, state)
    place = url_for("models.show_model", name=name)
    if prefers_page(this_request()):
        return see_other(place)
    lagging = [{"id": member.id, "pid": member.pid} for member in late]
    body = {**_summary(app, name), "generation": state.generation, "lagging": lagging}
    return json_reply(body, 202 if late else 200, {"Location": place} if late else None)


def _active(store: ModelStore, name: str) -> str | None:
    """Return the active version; None where the state cannot be read."""
    try:
        return store.state(name).active
    except FlaskmlError:  # The manifest is shown all the same.
        return None


def _summary(app: Flask, name: str) -> dict[str, Any]:
    return {**store_of(app).summary(name), "serving": _serving(app, name)}


def _serving(app: Flask, name: str) -> str | None:
    """Return the version that this process serves; None if it does not serve the model."""
    slot = registry_of(app).slots.get(name)
    return slot.serving.version if slot and slot.serving else None


def _verdict(state: ModelState, version: str) -> dict[str, Any]:
    """What trials said, without the answers: these are made of training rows."""
    shown = {"accepted", "reason", "at", "row"}
    judged = state.verdicts.get(version, {})
    return {environment: verdict.model_dump(include=shown) for environment, verdict in judged.items()}


def _features(store: ModelStore, name: str, state: ModelState) -> list[dict[str, Any]] | None:
    if state.active is None:
        return None
    try:
        schema = store.manifest(name, state.active).schema_
    except FlaskmlError:  # The history is told all the same: now it is needed.
        return None
    return [_public(feature) for feature in schema.features]


def _public(feature: Feature) -> dict[str, Any]:
    """What of a feature may be told to anybody: no counts and no quantiles, which few rows may stand behind."""
    return {**feature.model_dump(exclude_none=True, exclude={"counts", "quantiles"}), "example": feature.example}
