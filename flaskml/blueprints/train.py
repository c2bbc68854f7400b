"""Training over HTTP: `POST /train` queues a job, `GET /jobs/{id}` shows its progress."""

from __future__ import annotations

import os
from errno import EIO
from typing import Any

from flask import Blueprint, Flask, Request, Response, url_for
from werkzeug.datastructures import FileStorage

from flaskml.errors import InvalidInput, Problem, StorageFailed, UnsupportedMediaType
from flaskml.settings import MODEL_NAME_PATTERN
from flaskml.training.datasets import BUILT_IN
from flaskml.training.trainer import TrainingSpec
from flaskml.web.bodies import limit_body, refuse_encoded_body, translate_validation_errors
from flaskml.web.current import default_slot, jobs_of, settings_of, this_app, this_request
from flaskml.web.negotiation import FORM_MEDIA_TYPES, prefers_page
from flaskml.web.openapi import documented
from flaskml.web.replies import json_reply, page_or_json, see_other

bp = Blueprint("train", __name__)

FILE_FIELD = "data"
"""The part of a multipart body that holds the CSV file."""


@bp.get("/train")
@documented("training", {200: "Training"})
def show_training() -> Response:
    """Show the training form, or the JSON schema of a training specification."""
    document = {"built_in": sorted(BUILT_IN), "specification": TrainingSpec.model_json_schema()}
    default = settings_of(this_app()).model_name
    return page_or_json("train.html", document, default=default, name_pattern=MODEL_NAME_PATTERN)


@bp.post("/train")
@documented(
    "training",
    {202: "Queued"},
    errors=(400, 413, 415, 422, 429, 507),
    request_schema="TrainingSpec",
)
def train() -> Response:
    """Queue a training job. The body is JSON with the name of a built-in data set, or multipart with a CSV file."""
    app, request = this_app(), this_request()
    refuse_encoded_body(request)
    upload = _uploaded_file(app, request)
    spec = _read_spec(request, upload)
    if spec.data is None:
        _require_file_and_target(upload, spec)
    file, file_name = (upload.stream, _base_name(upload.filename)) if upload else (None, "")
    job_id = jobs_of(app).submit(spec, file, file_name)
    location = url_for("train.show_job", job_id=job_id)
    return see_other(location) if prefers_page(request) else _queued_reply(app, job_id, spec.name, location)


@bp.get("/jobs")
@documented("training", {200: "Jobs"}, errors=(503,))
def list_jobs() -> Response:
    """List all jobs, newest first."""
    return page_or_json("jobs.html", {"jobs": [job.to_dict() for job in jobs_of(this_app()).table.all()]})


@bp.get("/jobs/<job_id>")
@documented("training", {200: "Job"}, errors=(404, 503))
def show_job(job_id: str) -> Response:
    """Show one job. When it has succeeded, a browser is redirected to the new version."""
    job = jobs_of(this_app()).table.get(job_id)
    if prefers_page(this_request()) and job.version is not None:
        return see_other(url_for("models.show_version", name=job.spec.name, version=job.version))
    return page_or_json("job.html", job.to_dict())


def _queued_reply(app: Flask, job_id: str, name: str, location: str) -> Response:
    active = default_slot(app).current_manifest
    serving = {"model": active.model, "version": active.version} if active else None
    return json_reply(
        {"id": job_id, "status": "queued", "model": name, "serving": serving}, 202, {"Location": location}
    )


def _uploaded_file(app: Flask, request: Request) -> FileStorage | None:
    """Return the uploaded file, or None. A browser sends a part without a file name for an empty file field.

    Raises `StorageFailed` for a large file that the temporary folder does not take.
    """
    settings = settings_of(app)
    if request.mimetype == "multipart/form-data":
        limit_body(request, settings.max_upload, "MAX_UPLOAD")
    else:
        limit_body(request, settings.max_body, "MAX_BODY")
    try:
        upload = request.files.get(FILE_FIELD)
    except OSError as error:
        raise StorageFailed(os.strerror(error.errno or EIO), "temporary folder") from error
    return upload if upload and upload.filename else None


def _require_file_and_target(upload: FileStorage | None, spec: TrainingSpec) -> None:
    if upload is None:
        names = ", ".join(BUILT_IN)
        raise InvalidInput([Problem(None, "data", f'"data" must be a CSV file, or one of {names}')])
    if spec.target is None:
        raise InvalidInput(
            [Problem(None, "target", '"target" is missing; it must name the column of the file to predict')]
        )


def _read_spec(request: Request, upload: FileStorage | None) -> TrainingSpec:
    if request.mimetype == "application/json":
        return translate_validation_errors(lambda: TrainingSpec.model_validate_json(request.get_data(), strict=True))
    if request.mimetype not in FORM_MEDIA_TYPES:
        raise UnsupportedMediaType(request.mimetype or "No Content-Type", "application/json or multipart/form-data")
    duplicates = [key or "" for key, values in request.form.lists() if len(values) > 1]
    if duplicates:
        raise InvalidInput([Problem(None, key[:100], f'"{key[:100]}" was sent more than once') for key in duplicates])
    fields: dict[str, Any] = {key: value for key, value in request.form.items() if value}
    if upload is not None or FILE_FIELD not in fields:  # Without this, an empty form would train the default data set.
        fields[FILE_FIELD] = None
    return translate_validation_errors(lambda: TrainingSpec.model_validate(fields))


def _base_name(name: str | None) -> str:
    """Return the file name without folders, for display. It is never used as a path."""
    return (name or "upload.csv").replace("\\", "/").rsplit("/", 1)[-1][:200]
