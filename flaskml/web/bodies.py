"""Request bodies: size limits, and JSON validated by pydantic models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flaskml.errors import (
    MAX_PROBLEMS,
    InvalidInput,
    NotParseable,
    Problem,
    TooLarge,
)
from flaskml.web.current import settings_of
from flaskml.web.lean import this_app, this_request

Body = TypeVar("Body", bound=BaseModel)


class ActivationRequest(BaseModel):
    """The body of an activation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: str = Field(max_length=20)
    reason: str = Field(default="activated over HTTP", max_length=500)


def validated(kind: type[Body]) -> Body:
    """The JSON body as a `kind`. Raises `NotParseable`, or `InvalidInput` naming each key that is wrong."""
    sent = this_request()
    limit_body(sent, settings_of(this_app()).max_body, "MAX_BODY")
    return checked(lambda: kind.model_validate_json(sent.get_data()))


def checked(validate: Callable[[], Body]) -> Body:
    """What `validate` returns, with pydantic's errors as ours."""
    try:
        return validate()
    except ValidationError as error:
        error_kinds = {detail["type"] for detail in error.errors(include_url=False, include_input=False)}
        problems = [_key_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
    if problems[0].feature is None and error_kinds & {"json_invalid", "json_type"}:
        raise NotParseable(problems[0].detail)
    raise InvalidInput(problems[:MAX_PROBLEMS], more=len(problems) > MAX_PROBLEMS)


def _key_problem(detail: Any) -> Problem:
    """What pydantic says of one key; a key is none of our words, so it is cut."""
    key = str(detail["loc"][0])[:100] if detail["loc"] else None
    return Problem(None, key, f'"{key}": {detail["msg"]}' if key else detail["msg"])


def limit_body(sent: Request, limit: int, setting: str) -> None:
    """Refuses a declared body of more than `limit` bytes, and lets none grow beyond it while it is read."""
    sent.max_content_length = limit
    if (sent.content_length or 0) > limit:
        raise TooLarge(limit, setting)
