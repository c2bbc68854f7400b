"""What the API is: the OpenAPI document, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Blueprint, Response, render_template, request
from werkzeug.routing import Rule

from flaskml.inference.slot import ModelSlot
from flaskml.training.trainer import TrainingSpec
from flaskml.web.access import is_guarded
from flaskml.web.bodies import ActivationRequest
from flaskml.web.current import registry_of, settings_of
from flaskml.web.lean import this_app
from flaskml.web.openapi import ApiDescription, ApiRoute, ServedModel, description_of, documented, openapi_document
from flaskml.web.replies import json_reply

bp = Blueprint("docs", __name__)

VIEWER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the viewer, which sets styles on what it shows, and asks this server alone."""

REFERENCE_TEMPLATE = "#/components/schemas/{model}"


@bp.get("/openapi.json")
@documented("about", {200: "Anything"})
def openapi() -> Response:
    """The OpenAPI document of this server as it stands."""
    return json_reply(openapi_document(_api(), sorted(_routes(), key=lambda route: route.path), body_schemas()))


@bp.get("/docs")
def docs() -> Response:
    """The document for people, rendered from files of this server."""
    page = Response(render_template("docs.html", title=settings_of(this_app()).api_title))
    page.headers["Content-Security-Policy"] = VIEWER_POLICY
    return page


def _api() -> ApiDescription:
    app = this_app()
    settings = settings_of(app)
    served = {name: _served(slot) for name, slot in sorted(registry_of(app).slots.items())}
    return ApiDescription(
        title=settings.api_title,
        version=settings.api_version,
        default=settings.model_name,
        most_rows=settings.max_rows,
        has_tokens=bool(settings.admin_token_sha256),
        root=request.script_root,
        served=served,
    )


def _served(slot: ModelSlot) -> ServedModel:
    active = slot.serving
    others = [predictor.manifest for predictor in list(slot.versions.values())]
    versions = [active, *others] if active else others
    return ServedModel(active, {manifest.version: manifest for manifest in versions})


def _routes() -> Iterator[ApiRoute]:
    for rule in this_app().url_map.iter_rules():
        view = this_app().view_functions[rule.endpoint]
        described = description_of(view)
        if described is None:
            continue
        summary = (view.__doc__ or "").splitlines()[0]
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield ApiRoute(_path(rule), method.lower(), view.__name__, summary, described, is_guarded(view, method))


def _path(rule: Rule) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


def body_schemas() -> dict[str, Any]:
    """The schemas of all bodies but of predictions, by name."""
    found: dict[str, Any] = {"Anything": {"type": "object"}, **ANSWER_SCHEMAS}
    for kind in (ActivationRequest, TrainingSpec):
        made = kind.model_json_schema(ref_template=REFERENCE_TEMPLATE)
        found |= made.pop("$defs", {})
        found[kind.__name__] = made
    return found


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _MAYBE = {"type": "string"}, {"type": ["string", "null"]}
_MODEL = _object(name=_TEXT, active=_MAYBE, serving=_MAYBE)
_JOB = _object(id=_TEXT, status=_TEXT, model=_TEXT, version=_MAYBE, progress={"type": "number"}, detail=_MAYBE)
ANSWER_SCHEMAS: Mapping[str, Any] = {
    "Live": _object(status=_TEXT),
    "Ready": _object(status=_TEXT, model=_TEXT, version=_TEXT),
    "Model": _MODEL,
    "Models": _object(models={"type": "array", "items": {"type": "object"}}),
    "Manifest": _object(model=_TEXT, version=_TEXT, task=_TEXT, estimator=_TEXT, schema={"type": "object"}),
    "Activated": _object(name=_TEXT, active=_MAYBE, lagging={"type": "array"}),
    "Job": _JOB,
    "Jobs": _object(jobs={"type": "array", "items": _JOB}),
    "Training": _object(built_in={"type": "array", "items": _TEXT}, specification={"type": "object"}),
    "Queued": _object(id=_TEXT, status=_TEXT, model=_TEXT),
}
"""The schemas of the answers."""
