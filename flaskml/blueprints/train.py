"""Training over HTTP: a specification in, a job to watch out."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request
from pydantic import ValidationError

from flaskml.errors import InvalidInput, NotParseable, Problem, UnsupportedMediaType
from flaskml.training.trainer import TrainingSpec
from flaskml.web import jobs, limit_body, reply, settings, slot

bp = Blueprint("train", __name__)

FILE_FIELD = "data"
"""The part of a multipart body that holds the CSV file."""


@bp.post("/train")
def train() -> Response:
    """Queues a training job: JSON with a built-in data set's name, or multipart with a CSV file."""
    limit_body(settings().max_upload, "MAX_UPLOAD")
    upload = request.files.get(FILE_FIELD)
    spec = _spec()
    job_id = jobs().submit(spec, upload.stream if upload else None, _base_name(upload.filename) if upload else "")
    active = slot().serving
    serving = {"model": active.model, "version": active.version} if active else None
    body = {"id": job_id, "status": "queued", "model": spec.name, "serving": serving}
    return reply(body, 202, {"Location": f"/jobs/{job_id}"})


@bp.get("/jobs")
def list_jobs() -> Response:
    """All jobs, newest first."""
    return reply({"jobs": [job.to_dict() for job in jobs().table.all()]})


@bp.get("/jobs/<job_id>")
def show_job(job_id: str) -> Response:
    """One job as it stands."""
    return reply(jobs().table.get(job_id).to_dict())


def _spec() -> TrainingSpec:
    if request.mimetype == "application/json":
        return _validated(request.get_data(), is_json=True)
    if request.mimetype not in ("multipart/form-data", "application/x-www-form-urlencoded"):
        raise UnsupportedMediaType(request.mimetype or "No Content-Type", "application/json or multipart/form-data")
    values: dict[str, Any] = {key: value for key, value in request.form.items() if value}
    if FILE_FIELD in request.files:
        values[FILE_FIELD] = None
    return _validated(values, is_json=False)


def _validated(source: Any, *, is_json: bool) -> TrainingSpec:
    try:
        return TrainingSpec.model_validate_json(source) if is_json else TrainingSpec.model_validate(source)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False, include_input=False)]
    if problems[0].feature is None:
        raise NotParseable(problems[0].detail)
    raise InvalidInput(problems)


def _problem(detail: Any) -> Problem:
    """What pydantic says of one key; a key is none of our words, so it is cut."""
    key = str(detail["loc"][0])[:100] if detail["loc"] else None
    return Problem(None, key, f'"{key}": {detail["msg"]}' if key else detail["msg"])


def _base_name(name: str | None) -> str:
    """The file's name for people, without its folder; it is never used as a path."""
    return (name or "upload.csv").replace("\\", "/").rsplit("/", 1)[-1][:200]
