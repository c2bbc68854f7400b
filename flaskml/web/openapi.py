"""The OpenAPI 3.1 document of the live routes, with the features of each served model.

The decorator `documented` names the schemas of a view's request and responses. The path, the methods and the summary
come from the route and the view's docstring. A prediction route appears once per served version, each time with the
schema of that version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from flaskml.codecs.csv_tables import write_csv
from flaskml.settings import MODEL_NAME_PATTERN, VERSION_PATTERN
from flaskml.store.manifest import Manifest
from flaskml.web.json_schema import PROBLEM_SCHEMA, WARNINGS_SCHEMA, row_list_schema, row_schema

_View = TypeVar("_View", bound=Callable[..., Any])

PROBLEM_JSON = "application/problem+json"

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class OperationDescription:
    """The OpenAPI description of one view."""

    tag: str
    """The heading in the document, one of `TAGS`."""

    responses: Mapping[int, str | None]
    """From status to the name of the response schema; None for a response without a body."""

    errors: tuple[int, ...] = ()
    """The statuses of the error responses."""

    request_schema: str | None = None
    """The name of the schema of the request body; `rows` for predictions, None for a route without a body."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A route of the app, with its description. `path` has its parameters in braces; `method` is in lower case."""

    path: str
    method: str
    name: str
    summary: str
    description: OperationDescription
    is_guarded: bool = False
    """True for a route that needs the right to change state."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The versions of a model that answer predictions."""

    active: Manifest | None
    versions: Mapping[str, Manifest]
    """All served versions by number: the active one, and those with an alias."""


@dataclass(frozen=True, slots=True)
class ApiDescription:
    """The facts about the app that the document shows."""

    title: str
    version: str
    default: str
    """The model that answers when a request names none."""

    max_rows: int
    has_tokens: bool
    root: str = ""
    """The path prefix under which the app is served (WSGI's SCRIPT_NAME)."""

    served: Mapping[str, ServedModel] = field(default_factory=dict)
    """From model name to its served versions."""

    @property
    def example(self) -> Manifest | None:
        """The active version of the default model, or else of another served model; None if no model is served."""
        names = sorted(self.served, key=lambda name: name != self.default)
        return next((active for name in names if (active := self.served[name].active)), None)


_DESCRIPTIONS: dict[Callable[..., Any], OperationDescription] = {}


def documented(
    tag: str,
    responses: Mapping[int, str | None],
    *,
    errors: Iterable[int] = (),
    request_schema: str | None = None,
) -> Callable[[_View], _View]:
    """Return a decorator that records the OpenAPI description of a view."""

    def decorate(view: _View) -> _View:
        _DESCRIPTIONS[view] = OperationDescription(tag, responses, tuple(errors), request_schema)
        return view

    return decorate


def description_of(view: Callable[..., Any]) -> OperationDescription | None:
    """Return the description that `documented` recorded for a view, or None."""
    return _DESCRIPTIONS.get(view)


def openapi_document(api: ApiDescription, routes: Iterable[ApiRoute], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document. `schemas` holds, by name, the schemas of all bodies except those of predictions."""
    paths: dict[str, dict[str, Any]] = {}
    components = {"Problem": PROBLEM_SCHEMA, **schemas}
    for route in routes:
        if route.description.request_schema != "rows":
            paths.setdefault(route.path, {})[route.method] = _operation(api, route)
            continue
        for path, manifest in _prediction_paths(api, route.path):
            name = f"{manifest.model}-{manifest.version}"
            components |= _prediction_schemas(name, manifest, api.max_rows)
            paths.setdefault(path, {})[route.method] = _prediction_operation(api, route, path, name, manifest)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": api.title, "version": api.version},
        "servers": [{"url": api.root or "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": paths,
        "components": {"schemas": components},
    }
    if api.has_tokens:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return document


def _prediction_paths(api: ApiDescription, path: str) -> Iterator[tuple[str, Manifest]]:
    """Yield the concrete paths of a prediction route, each with the manifest of the version that answers there."""
    names = api.served if "{name}" in path else [api.default] if api.default in api.served else []
    for name in names:
        served = api.served[name]
        active = [served.active] if served.active else []
        for manifest in served.versions.values() if "{version}" in path else active:
            yield path.replace("{name}", name).replace("{version}", manifest.version), manifest


def _operation(api: ApiDescription, route: ApiRoute) -> dict[str, Any]:
    description = route.description
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [description.tag],
        "summary": route.summary,
        "parameters": list(_parameters(api, route.path)),
        "responses": {
            **{str(status): _response(status, name) for status, name in description.responses.items()},
            **{str(status): _problem_response(status) for status in _error_statuses(api, route)},
        },
    }
    if description.request_schema:
        content = {JSON: {"schema": _reference(description.request_schema)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.is_guarded and api.has_tokens:
        operation["security"] = [{"token": []}]
    return operation


def _error_statuses(api: ApiDescription, route: ApiRoute) -> list[int]:
    access_errors = {401, 403} if route.is_guarded and api.has_tokens else {403} if route.is_guarded else set()
    return sorted({*route.description.errors, *access_errors})


def _response(status: int, name: str | None) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if name is not None:
        response["content"] = {JSON: {"schema": _reference(name)}}
    return response


def _problem_response(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_JSON: {"schema": _reference("Problem")}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameters(api: ApiDescription, path: str) -> Iterator[dict[str, Any]]:
    examples = {"name": api.example.model, "version": api.example.version} if api.example else {}
    for name in re.findall(r"{(\w+)}", path):
        example = {"example": examples[name]} if name in examples else {}
        yield {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name], **example}


# Predictions.


def _prediction_operation(
    api: ApiDescription, route: ApiRoute, path: str, name: str, manifest: Manifest
) -> dict[str, Any]:
    """Return the operation that predicts with one version."""
    operation = _operation(api, route)
    operation["operationId"] = route.name + _identifier(path)
    body = _reference(f"{name}.Rows")
    row = manifest.schema_.example
    examples = {
        "row": {"summary": "One row", "value": row},
        "rows": {"summary": "Several rows", "value": [row, row]},
        "instances": {"summary": "Rows as lists", "value": {"instances": [list(row.values())]}},
    }
    content = {JSON: {"schema": body, "examples": examples}}
    content["text/csv"] = {"schema": {"type": "string"}, "examples": {"rows": {"value": write_csv([row, row])}}}
    content["application/x-npy"] = {}
    operation["requestBody"] = {"required": True, "content": content}
    operation["parameters"] = [
        {
            "name": "method",
            "in": "query",
            "description": "Method of the estimator. With probabilities, `top_k` keeps only the most probable classes.",
            "schema": {"enum": list(manifest.methods), "default": manifest.methods[0]},
        }
    ]
    json_content = {"schema": _reference(f"{name}.Answer")}
    operation["responses"]["200"] = {
        "description": HTTPStatus.OK.phrase,
        "content": {JSON: json_content, "text/csv": {"schema": {"type": "string"}}},
    }
    return operation


def _identifier(path: str) -> str:
    """Return the path in letters, digits and underscores. Different paths give different identifiers."""
    return re.sub(r"[^A-Za-z0-9/]", lambda match: f"_{ord(match[0]):x}_", path).replace("/", "_")


def _prediction_schemas(name: str, manifest: Manifest, max_rows: int) -> dict[str, Any]:
    """Return the schemas of the requests and responses of a version."""
    row, row_list = _reference(f"{name}.Row"), row_list_schema(manifest.schema_)
    array = {"type": "array", "maxItems": max_rows}
    common = {"model": {"const": manifest.model}, "version": {"const": manifest.version}, "warnings": WARNINGS_SCHEMA}
    answer = _row_answer_schema(manifest)
    return {
        f"{name}.Row": row_schema(manifest.schema_),
        f"{name}.Rows": {
            "anyOf": [
                row,
                {**array, "items": row},
                {
                    "type": "object",
                    "properties": {"instances": {**array, "items": {"anyOf": [row, row_list]}}},
                    "required": ["instances"],
                    "additionalProperties": False,
                },
            ]
        },
        f"{name}.Answer": {
            "oneOf": [
                _answer_schema({"prediction": answer, **common}, "prediction"),
                _answer_schema({"predictions": {"type": "array", "items": answer}, **common}, "predictions"),
            ]
        },
    }


def _answer_schema(properties: Mapping[str, Any], name: str) -> dict[str, Any]:
    required = [name, "model", "version"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _row_answer_schema(manifest: Manifest) -> dict[str, Any]:
    """Return the schema of the answer to one row, by any method."""
    number: dict[str, Any] = {"type": ["number", "null"]}
    label = number if manifest.task == "regression" else {"type": ["string", "number", "boolean", "null"]}
    if manifest.task == "classification" and len(manifest.classes) == 1:
        label = {**label, "description": f"One of {', '.join(manifest.classes[0][:20])}."}
    kinds: list[dict[str, Any]] = [label, {"type": "array"}]
    if "predict_proba" in manifest.methods:
        kinds.append({"type": "object", "additionalProperties": number})
    return {"anyOf": kinds}


TAGS = ("predictions", "models", "training", "health", "about")
"""The headings of the document, in order."""

PARAMETERS: Mapping[str, Any] = {
    "name": {"type": "string", "pattern": f"^{MODEL_NAME_PATTERN}$"},
    "version": {"type": "string", "pattern": f"^{VERSION_PATTERN}$"},
    "job_id": {"type": "string", "pattern": "^[0-9a-f]{1,40}$"},
}
"""The schemas of the path parameters."""
