"""Training over HTTP: a specification in, a job to watch out."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, Request, Response, url_for
from werkzeug.datastructures import FileStorage

from flaskml.errors import InvalidInput, Problem, UnsupportedMediaType
from flaskml.training.datasets import BUILT_IN
from flaskml.training.trainer import TrainingSpec
from flaskml.web.bodies import checked, limit_body
from flaskml.web.current import default_slot, jobs_of, settings_of
from flaskml.web.lean import may_block, this_app, this_request
from flaskml.web.negotiation import FORM_MEDIA_TYPES, prefers_page
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply, page_or_json, see_other

bp = Blueprint("train", __name__)

FILE_FIELD = "data"
"""The part of a multipart body that holds the CSV file."""


@bp.get("/train")
@documented("training", {200: "Training"})
def ask() -> Response:
    """What can be trained: the form, or the specification that training takes."""
    document = {"built_in": sorted(BUILT_IN), "specification": TrainingSpec.model_json_schema()}
    return page_or_json("train.html", document, default=settings_of(this_app()).model_name)


@bp.post("/train")
@documented(
    "training",
    {202: "Queued"},
    errors=(400, 413, 415, 422, 429, 507),
    takes="TrainingSpec",
)
@may_block
def train() -> Response:
    """Queue a training job: JSON with a built-in data set's name, or multipart with a CSV file."""
    app, sent = this_app(), this_request()
    upload = _upload(app, sent)
    spec = _spec(sent, upload)
    if spec.data is None:
        _require_file(upload, spec)
    file, file_name = (upload.stream, _base_name(upload.filename)) if upload else (None, "")
    job_id = jobs_of(app).submit(spec, file, file_name)
    active = default_slot(app).serving
    serving = {"model": active.model, "version": active.version} if active else None
    body = {"id": job_id, "status": "queued", "model": spec.name, "serving": serving}
    place = url_for("train.show_job", job_id=job_id)
    return see_other(place) if prefers_page(sent) else json_reply(body, 202, {"Location": place})


@bp.get("/jobs")
@documented("training", {200: "Jobs"}, errors=(503,))
@may_block
def list_jobs() -> Response:
    """All jobs, newest first."""
    return page_or_json("jobs.html", {"jobs": [job.to_dict() for job in jobs_of(this_app()).table.all()]})


@bp.get("/jobs/<job_id>")
@documented("training", {200: "Job"}, errors=(404, 503))
@may_block
def show_job(job_id: str) -> Response:
    """One job as it stands. A browser that watches it lands on the new version."""
    job = jobs_of(this_app()).table.get(job_id)
    if prefers_page(this_request()) and job.version is not None:
        return see_other(url_for("models.show_version", name=job.spec.name, version=job.version))
    return page_or_json("job.html", job.to_dict())


def _upload(app: Flask, sent: Request) -> FileStorage | None:
    """Return the uploaded file, if there is one; a browser sends an empty part for a field that was left empty."""
    settings = settings_of(app)
    if sent.mimetype == "multipart/form-data":
        limit_body(sent, settings.max_upload, "MAX_UPLOAD")
    else:
        limit_body(sent, settings.max_body, "MAX_BODY")
    upload = sent.files.get(FILE_FIELD)
    return upload if upload and upload.filename else None


def _require_file(upload: FileStorage | None, spec: TrainingSpec) -> None:
    if upload is None:
        known = ", ".join(BUILT_IN)
        raise InvalidInput([Problem(None, "data", f'"data" must be a CSV file, or one of {known}')])
    if spec.target is None:
        raise InvalidInput(
            [Problem(None, "target", '"target" is missing; it must name the column of the file to predict')]
        )


def _spec(sent: Request, upload: FileStorage | None) -> TrainingSpec:
    if sent.mimetype == "application/json":
        return checked(lambda: TrainingSpec.model_validate_json(sent.get_data(), strict=True))
    if sent.mimetype not in FORM_MEDIA_TYPES:
        raise UnsupportedMediaType(sent.mimetype or "No Content-Type", "application/json or multipart/form-data")
    twice = [key or "" for key, values in sent.form.lists() if len(values) > 1]
    if twice:
        raise InvalidInput([Problem(None, key[:100], f'"{key[:100]}" was sent more than once') for key in twice])
    values: dict[str, Any] = {key: value for key, value in sent.form.items() if value}
    if upload is not None or FILE_FIELD not in values:  # A form that arrived empty asks for nothing.
        values[FILE_FIELD] = None
    return checked(lambda: TrainingSpec.model_validate(values))


def _base_name(name: str | None) -> str:
    """The file's name for people, without its folder; it is never used as a path."""
    return (name or "upload.csv").replace("\\", "/").rsplit("/", 1)[-1][:200]
