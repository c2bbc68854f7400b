"""The OpenAPI document of the live routes, and the Swagger UI page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, render_template
from werkzeug.routing import Rule

from flaskml.inference.slot import ModelSlot
from flaskml.training.trainer import TrainingSpec
from flaskml.web.access import is_guarded
from flaskml.web.bodies import ActivationRequest
from flaskml.web.current import registry_of, settings_of, this_app, this_request
from flaskml.web.openapi import ApiDescription, ApiRoute, ServedModel, description_of, documented, openapi_document
from flaskml.web.replies import json_reply, page_reply

bp = Blueprint("docs", __name__)

VIEWER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of Swagger UI: it sets inline styles, and loads and calls this server only."""

REFERENCE_TEMPLATE = "#/components/schemas/{model}"


@bp.get("/openapi.json")
@documented("about", {200: "Anything"})
def openapi() -> Response:
    """Return the OpenAPI document of the live routes and the served models."""
    app = this_app()
    routes = sorted(_routes(app), key=lambda route: route.path)
    return json_reply(openapi_document(_describe_api(app, this_request().script_root), routes, body_schemas()))


@bp.get("/docs")
def docs() -> Response:
    """Return the Swagger UI page, which loads its files from this server (no CDN)."""
    page = render_template("docs.html", title=settings_of(this_app()).api_title)
    return page_reply(page, policy=VIEWER_POLICY)


def _describe_api(app: Flask, root: str) -> ApiDescription:
    settings = settings_of(app)
    served = {name: _served_model(slot) for name, slot in sorted(registry_of(app).slots.items())}
    return ApiDescription(
        title=settings.api_title,
        version=settings.api_version,
        default=settings.model_name,
        max_rows=settings.max_rows,
        has_tokens=bool(settings.admin_token_sha256),
        root=root,
        served=served,
    )


def _served_model(slot: ModelSlot) -> ServedModel:
    active = slot.current_manifest
    others = [predictor.manifest for predictor in list(slot.versions.values())]
    versions = [active, *others] if active else others
    return ServedModel(active, {manifest.version: manifest for manifest in versions})


def _routes(app: Flask) -> Iterator[ApiRoute]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        description = description_of(view)
        if description is None:
            continue
        summary = (view.__doc__ or "").splitlines()[0]
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield ApiRoute(_path(rule), method.lower(), view.__name__, summary, description, is_guarded(view, method))


def _path(rule: Rule) -> str:
    """Return the path of a Flask rule with OpenAPI's parameters in braces."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


def body_schemas() -> dict[str, Any]:
    """Return, by name, the schemas of all bodies except those of predictions."""
    schemas: dict[str, Any] = {"Anything": {"type": "object"}, **ANSWER_SCHEMAS}
    for kind in (ActivationRequest, TrainingSpec):
        schema = kind.model_json_schema(ref_template=REFERENCE_TEMPLATE)
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
    return schemas


def _object_schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _TEXT_OR_NULL = {"type": "string"}, {"type": ["string", "null"]}
_MODEL = _object_schema(name=_TEXT, active=_TEXT_OR_NULL, serving=_TEXT_OR_NULL)
_JOB = _object_schema(
    id=_TEXT, status=_TEXT, model=_TEXT, version=_TEXT_OR_NULL, progress={"type": "number"}, detail=_TEXT_OR_NULL
)
ANSWER_SCHEMAS: Mapping[str, Any] = {
    "Live": _object_schema(status=_TEXT),
    "Ready": _object_schema(status=_TEXT, model=_TEXT, version=_TEXT),
    "Model": _MODEL,
    "Models": _object_schema(models={"type": "array", "items": {"type": "object"}}),
    "Manifest": _object_schema(model=_TEXT, version=_TEXT, task=_TEXT, estimator=_TEXT, schema={"type": "object"}),
    "Activated": _object_schema(name=_TEXT, active=_TEXT_OR_NULL, lagging={"type": "array"}),
    "Job": _JOB,
    "Jobs": _object_schema(jobs={"type": "array", "items": _JOB}),
    "Training": _object_schema(built_in={"type": "array", "items": _TEXT}, specification={"type": "object"}),
    "Queued": _object_schema(id=_TEXT, status=_TEXT, model=_TEXT),
}
"""From name to the schema of a response."""
