"""The OpenAPI 3.1 document: the live routes, and of predictions the very columns that each model takes.

A view says what it takes and answers with `documented`; its path, its methods and its docstring say the rest. Routes of
predictions are written out for every version that is served, each with its own schema.
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
    """What a view takes and answers."""

    tag: str
    """The heading that it stands under."""

    answers: Mapping[int, str | None]
    """By status, the name of the schema of the answer; None for one without a body."""

    errors: tuple[int, ...] = ()
    """The statuses of its errors."""

    takes: str | None = None
    """The name of the schema of its body; `rows` for predictions."""

    forms: tuple[str, ...] = ()
    """The media types, beside JSON, that the same may be sent as."""


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """A route of the app: a path with its parameters in braces, a method, what the view does, and its description."""

    path: str
    method: str
    name: str
    summary: str
    description: OperationDescription
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The versions of a model that answer."""

    active: Manifest | None
    versions: Mapping[str, Manifest]
    """All of them, by their numbers."""


@dataclass(frozen=True, slots=True)
class ApiDescription:
    """What the document is about."""

    title: str
    version: str
    default: str
    """The model that answers when none is named."""

    most_rows: int
    has_tokens: bool
    root: str = ""
    """The path under which the app is served."""

    served: Mapping[str, ServedModel] = field(default_factory=dict)
    """By the names of the models."""

    @property
    def example(self) -> Manifest | None:
        """A version that answers, of the default model if it has one."""
        names = sorted(self.served, key=lambda name: name != self.default)
        return next((active for name in names if (active := self.served[name].active)), None)


_DESCRIBED: dict[Callable[..., Any], OperationDescription] = {}


def documented(
    tag: str,
    answers: Mapping[int, str | None],
    *,
    errors: Iterable[int] = (),
    takes: str | None = None,
    forms: Iterable[str] = (),
) -> Callable[[_View], _View]:
    """Says what a view takes and answers."""

    def note(view: _View) -> _View:
        _DESCRIBED[view] = OperationDescription(tag, answers, tuple(errors), takes, tuple(forms))
        return view

    return note


def description_of(view: Callable[..., Any]) -> OperationDescription | None:
    """What was said of a view."""
    return _DESCRIBED.get(view)


def openapi_document(api: ApiDescription, routes: Iterable[ApiRoute], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The document; `schemas` are those of all bodies but of predictions, by name."""
    paths: dict[str, dict[str, Any]] = {}
    components = {"Problem": PROBLEM_SCHEMA, **schemas}
    for route in routes:
        if route.description.takes != "rows":
            paths.setdefault(route.path, {})[route.method] = _operation(api, route)
            continue
        for path, manifest in _targets(api, route.path):
            name = f"{manifest.model}-{manifest.version}"
            components |= _predictions(name, manifest, api.most_rows)
            paths.setdefault(path, {})[route.method] = _prediction(api, route, path, name, manifest)
    shown: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": api.title, "version": api.version},
        "servers": [{"url": api.root or "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": paths,
        "components": {"schemas": components},
    }
    if api.has_tokens:
        shown["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return shown


def _targets(api: ApiDescription, path: str) -> Iterator[tuple[str, Manifest]]:
    """The paths that a route of predictions stands for, each with the version that answers there."""
    names = api.served if "{name}" in path else [api.default] if api.default in api.served else []
    for name in names:
        served = api.served[name]
        active = [served.active] if served.active else []
        for manifest in served.versions.values() if "{version}" in path else active:
            yield path.replace("{name}", name).replace("{version}", manifest.version), manifest


def _operation(api: ApiDescription, route: ApiRoute) -> dict[str, Any]:
    described = route.description
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [described.tag],
        "summary": route.summary,
        "parameters": list(_parameters(api, route.path)),
        "responses": {
            **{str(status): _answer(status, name) for status, name in described.answers.items()},
            **{str(status): _problem(status) for status in _errors(api, route)},
        },
    }
    if described.takes:
        content = {kind: {"schema": _reference(described.takes)} for kind in (JSON, *described.forms)}
        operation["requestBody"] = {"required": True, "content": content}
    if route.guarded and api.has_tokens:
        operation["security"] = [{"token": []}]
    return operation


def _errors(api: ApiDescription, route: ApiRoute) -> list[int]:
    guards = {401, 403} if route.guarded and api.has_tokens else {403} if route.guarded else set()
    return sorted({*route.description.errors, *guards})


def _answer(status: int, name: str | None) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if name is not None:
        answer["content"] = {JSON: {"schema": _reference(name)}}
    return answer


def _problem(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_JSON: {"schema": _reference("Problem")}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameters(api: ApiDescription, path: str) -> Iterator[dict[str, Any]]:
    known = {"name": api.example.model, "version": api.example.version} if api.example else {}
    for name in re.findall(r"{(\w+)}", path):
        example = {"example": known[name]} if name in known else {}
        yield {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name], **example}


# Predictions.


def _prediction(api: ApiDescription, route: ApiRoute, path: str, name: str, manifest: Manifest) -> dict[str, Any]:
    """The operation of one version."""
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
            "description": "What to ask the estimator. Of probabilities, `top_k` gives the most probable only.",
            "schema": {"enum": list(manifest.methods), "default": manifest.methods[0]},
        }
    ]
    answer = {"schema": _reference(f"{name}.Answer")}
    operation["responses"]["200"] = {
        "description": HTTPStatus.OK.phrase,
        "content": {JSON: answer, "text/csv": {"schema": {"type": "string"}}},
    }
    return operation


def _identifier(path: str) -> str:
    """The path in letters, digits and underscores, another one for each."""
    return re.sub(r"[^A-Za-z0-9/]", lambda found: f"_{ord(found[0]):x}_", path).replace("/", "_")


def _predictions(name: str, manifest: Manifest, most_rows: int) -> dict[str, Any]:
    """The schemas of what a version takes and answers."""
    row, listed = _reference(f"{name}.Row"), row_list_schema(manifest.schema_)
    many = {"type": "array", "maxItems": most_rows}
    by = {"model": {"const": manifest.model}, "version": {"const": manifest.version}, "warnings": WARNINGS_SCHEMA}
    value = _value(manifest)
    return {
        f"{name}.Row": row_schema(manifest.schema_),
        f"{name}.Rows": {
            "anyOf": [
                row,
                {**many, "items": row},
                {
                    "type": "object",
                    "properties": {"instances": {**many, "items": {"anyOf": [row, listed]}}},
                    "required": ["instances"],
                    "additionalProperties": False,
                },
            ]
        },
        f"{name}.Answer": {
            "oneOf": [
                _answered({"prediction": value, **by}, "prediction"),
                _answered({"predictions": {"type": "array", "items": value}, **by}, "predictions"),
            ]
        },
    }


def _answered(properties: Mapping[str, Any], name: str) -> dict[str, Any]:
    required = [name, "model", "version"]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _value(manifest: Manifest) -> dict[str, Any]:
    """The schema of what the methods answer for one row."""
    number: dict[str, Any] = {"type": ["number", "null"]}
    plain = number if manifest.task == "regression" else {"type": ["string", "number", "boolean", "null"]}
    if manifest.task == "classification" and len(manifest.classes) == 1:
        plain = {**plain, "description": f"One of {', '.join(manifest.classes[0][:20])}."}
    kinds: list[dict[str, Any]] = [plain, {"type": "array"}]
    if "predict_proba" in manifest.methods:
        kinds.append({"type": "object", "additionalProperties": number})
    return {"anyOf": kinds}


TAGS = ("predictions", "models", "training", "health", "about")
"""The headings, in their order."""

PARAMETERS: Mapping[str, Any] = {
    "name": {"type": "string", "pattern": f"^{MODEL_NAME_PATTERN}$"},
    "version": {"type": "string", "pattern": f"^{VERSION_PATTERN}$"},
    "job_id": {"type": "string", "pattern": "^[0-9a-f]{1,40}$"},
}
"""The schemas of what stands in paths."""
