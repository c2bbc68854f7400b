"""Request bodies: size limits and content codings of every door, forms, and JSON validated by pydantic models."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.formparser import FormDataParser

from flaskml.codecs.content_codings import content_codings, decode_content
from flaskml.errors import (
    MAX_PROBLEMS,
    InvalidInput,
    NotParseable,
    Problem,
    TooLarge,
    UnsupportedMediaType,
)
from flaskml.web.current import settings_of, this_app, this_request

Body = TypeVar("Body", bound=BaseModel)


class MemoryFormParser(FormDataParser):
    """A parser of forms that keeps files in memory; Werkzeug's writes large ones to the temporary folder."""

    def __init__(self, stream_factory: Any = None, *args: Any, **options: Any) -> None:
        super().__init__(_memory_stream, *args, **options)


def _memory_stream(*_: Any, **__: Any) -> BytesIO:
    return BytesIO()


class ActivationRequest(BaseModel):
    """The body of a request that activates a version."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: str = Field(max_length=20)
    reason: str = Field(default="activated over HTTP", max_length=500)


def parse_body(kind: type[Body]) -> Body:
    """Return the JSON body of the current request as a `kind`.

    Raises `TooLarge`, `UnsupportedMediaType`, `NotParseable`, or `InvalidInput` naming each wrong key.
    """
    request = this_request()
    refuse_encoded_body(request)
    limit_body(request, settings_of(this_app()).max_body, "MAX_BODY")
    return translate_validation_errors(lambda: kind.model_validate_json(request.get_data()))


def translate_validation_errors(validate: Callable[[], Body]) -> Body:
    """Return the result of `validate`. Raises `NotParseable` or `InvalidInput` for a pydantic `ValidationError`."""
    try:
        return validate()
    except ValidationError as error:
        error_kinds = {detail["type"] for detail in error.errors(include_url=False, include_input=False)}
        problems = [_key_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
    if problems[0].feature is None and error_kinds & {"json_invalid", "json_type"}:
        raise NotParseable(problems[0].detail)
    raise InvalidInput(problems[:MAX_PROBLEMS], more=len(problems) > MAX_PROBLEMS)


def _key_problem(detail: Any) -> Problem:
    """Return pydantic's error about one key as a problem. The client chose the key, so it is cut to 100 characters."""
    key = str(detail["loc"][0])[:100] if detail["loc"] else None
    return Problem(None, key, f'"{key}": {detail["msg"]}' if key else detail["msg"])


def keep_files_in_memory(request: Request) -> None:
    """Let the parser of the request's form keep files in memory. `limit_body` limits their size."""
    request.form_data_parser_class = MemoryFormParser


def refuse_encoded_body(request: Request) -> None:
    """Raise `UnsupportedMediaType` for a body with a content coding, such as gzip."""
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "")
    if content_codings(encoding):
        raise UnsupportedMediaType(f"Content-Encoding {encoding}", "an unencoded body")


def with_decoded_body(request: Request, limit: int, setting: str) -> Request:
    """Return the request, or, if its body has a content coding, a copy with the body decoded.

    Raises `UnsupportedMediaType`, `NotParseable`, or `TooLarge` for more than `limit` bytes.
    """
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "")
    if not content_codings(encoding):
        return request
    body = decode_content(request.get_data(cache=False), encoding, limit, setting)
    environ = {
        **request.environ,
        "HTTP_CONTENT_ENCODING": "",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        "wsgi.input_terminated": True,
    }
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return type(request)(environ, populate_request=False)


def limit_body(request: Request, limit: int, setting: str) -> None:
    """Limit the body to `limit` bytes, also while it is read. Raises `TooLarge` for a larger Content-Length."""
    request.max_content_length = limit
    if (request.content_length or 0) > limit:
        raise TooLarge(limit, setting)
