"""The native prediction door: `POST /predict` with JSON, CSV, a NumPy array (.npy) or a form."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from flask import Blueprint, Flask, Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from flaskml.codecs.answers import PER_CLASS_METHODS, encode_csv
from flaskml.codecs.rows import Rows
from flaskml.errors import FlaskmlError, InvalidInput, NotParseable, Problem, UnsupportedMediaType, did_you_mean
from flaskml.inference.slot import Current
from flaskml.web.access import changes_no_state
from flaskml.web.bodies import keep_files_in_memory, limit_body, with_decoded_body
from flaskml.web.current import default_slot, named_slot, settings_of, this_app, this_request
from flaskml.web.direct import answered_directly
from flaskml.web.negotiation import CSV, FORM_MEDIA_TYPES, is_json, media_type_of, prefers, prefers_page
from flaskml.web.openapi import documented
from flaskml.web.prediction_form import render_form
from flaskml.web.replies import is_terse, json_reply, problems_as_json

bp = Blueprint("predict", __name__)

URLENCODED, MULTIPART = FORM_MEDIA_TYPES
NPY = "application/x-npy"
ACCEPTED_MEDIA_TYPES = f"application/json, {CSV}, {NPY}, {URLENCODED} or {MULTIPART}"

QUERY_OPTIONS = ("method", "top_k")
"""The query parameters of a prediction."""

MAX_IGNORED_FIELDS = 1_000
"""Fields that a form may have beside the features, where the schema ignores them. The number is Werkzeug's limit."""

MAX_SHOWN_CLASSES = 10
"""Classes whose probabilities the page shows."""

_JSON_START = re.compile(rb"\s*[{\[]")
_TOP_K = re.compile(r"[1-9][0-9]{0,5}\Z", re.ASCII)


@bp.post("/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), request_schema="rows")
@changes_no_state
@answered_directly
def predict() -> Response:
    """Predict each row of the body with the default model."""
    app = this_app()
    return answer(app, this_request(), default_slot(app).current)


@bp.post("/models/<model_name:name>/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), request_schema="rows")
@changes_no_state
@answered_directly
def predict_with_model(name: str) -> Response:
    """Predict each row of the body with the active version of a model."""
    app = this_app()
    return answer(app, this_request(), named_slot(app, name).current)


@bp.post("/models/<model_name:name>/versions/<version:version>/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), request_schema="rows")
@changes_no_state
@answered_directly
def predict_with_version(name: str, version: str) -> Response:
    """Predict each row of the body with a version that is active or has an alias."""
    app = this_app()
    return answer(app, this_request(), named_slot(app, name).version(version))


def answer(app: Flask, request: Request, predictor: Current) -> Response:
    """Return the predictions for the request as JSON or CSV, or as the page for a form from a browser."""
    limit_body(request, settings_of(app).max_body, "MAX_BODY")
    request = with_decoded_body(request, settings_of(app).max_body, "MAX_BODY")
    keep_files_in_memory(request)
    is_form = has_form_body(request)
    if is_form and prefers_page(request):
        return answer_with_page(app, request, predictor)
    method, top = read_options(predictor, request)
    rows = read_rows(predictor, request, is_form=is_form)
    values = predictor.json_values(predictor.predict(rows, method), method, top)
    warnings = predictor.range_warnings.find(rows)
    if prefers(request, CSV):
        return csv_reply(predictor, values, len(warnings))
    warnings_json = problems_as_json(warnings, terse=is_terse()) if warnings else ()
    return json_reply(predictor.encode_answer(rows, values, warnings_json))


def csv_reply(predictor: Current, values: list[Any], warning_count: int) -> Response:
    """Return the values as CSV. CSV has no room for the model, version and warning count, so headers carry them."""
    manifest = predictor.manifest
    headers = {"Model": manifest.model, "Model-Version": manifest.version, "Model-Warnings": str(warning_count)}
    return Response(encode_csv(values), headers=headers, content_type=f"{CSV}; charset=utf-8; header=present")


def read_options(predictor: Current, request: Request) -> tuple[str, int | None]:
    """Return the method and `top_k` from the query. Raises `InvalidInput` or `MethodNotOffered`."""
    if not request.query_string:
        return predictor.resolve_method(None), None
    for key in request.args:
        if key not in QUERY_OPTIONS:
            raise InvalidInput([Problem(None, None, f'unknown option "{key[:100]}"{did_you_mean(key, QUERY_OPTIONS)}')])
    method = predictor.resolve_method(request.args.get("method"))
    top_k = request.args.get("top_k")
    if top_k is None:
        return method, None
    if method not in PER_CLASS_METHODS:
        raise InvalidInput([Problem(None, None, '"top_k" is for predict_proba and predict_log_proba only')])
    if not _TOP_K.match(top_k):
        raise InvalidInput([Problem(None, None, '"top_k" must be a whole number from 1 to 999999')])
    return method, int(top_k)


def read_rows(predictor: Current, request: Request, *, is_form: bool) -> Rows:
    """Return the rows of the body, parsed by its Content-Type. Raises `UnsupportedMediaType` or the parser's errors."""
    if is_form:
        return read_form(predictor, request)
    declared_type = media_type_of(request.environ.get("CONTENT_TYPE", ""))
    if declared_type == CSV:
        return predictor.parser.parse_csv(read_body(request))
    if declared_type == NPY:
        return predictor.parser.parse_npy(read_body(request))
    try:
        return predictor.parse(read_body(request))
    except NotParseable:
        # JSON under any other Content-Type is accepted, because curl and scripts often declare a wrong one. A body
        # that is not JSON is then a 415.
        if is_json(declared_type) or declared_type == URLENCODED:
            raise
        raise UnsupportedMediaType(declared_type, ACCEPTED_MEDIA_TYPES) from None


def read_body(request: Request) -> bytes:
    """Return the whole body. `limit_body` has already compared its declared length with the limit."""
    length, environ = request.content_length, request.environ
    if length is not None and environ.get("wsgi.input_terminated"):
        body: bytes = environ["wsgi.input"].read(length)
        if len(body) == length:
            return body
    return request.get_data(cache=False)  # The length is unknown, or the stream is partly read.


def has_form_body(request: Request) -> bool:
    """Return whether the body is a form. `curl -d '{...}'` declares a form, but sends JSON."""
    declared_type = media_type_of(request.environ.get("CONTENT_TYPE", ""))
    if declared_type == URLENCODED:
        return not _JSON_START.match(request.get_data(parse_form_data=False))
    return declared_type == MULTIPART


def read_form(predictor: Current, request: Request) -> Rows:
    """Return the single row of a form. Raises `InvalidInput` for an uploaded file."""
    ignored_fields = 1 if predictor.schema.extra == "refuse" else MAX_IGNORED_FIELDS
    request.max_form_parts = len(predictor.schema.features) + ignored_fields
    if request.mimetype == URLENCODED:
        limit_urlencoded(request, request.max_form_parts)
    if files := [name or "" for name in request.files]:  # A part's header may have no name.
        raise InvalidInput(
            [Problem(0, name[:100], f'"{name[:100]}" is a file; send it as a text field') for name in files]
        )
    return predictor.parser.parse_form([(name or "", text) for name, text in request.form.items(multi=True)])


def limit_urlencoded(request: Request, max_fields: int) -> None:
    """Apply Werkzeug's limits for multipart forms to a urlencoded body too. Raises `RequestEntityTooLarge`.

    Werkzeug has no such limits of its own: it reads the whole body into many small strings.
    """
    body = request.get_data(parse_form_data=False)
    max_bytes = request.max_form_memory_size or request.max_content_length or 0
    if len(body) > max_bytes or body.count(b"&") >= max_fields:
        raise RequestEntityTooLarge


def answer_with_page(app: Flask, request: Request, predictor: Current) -> Response:
    """Return the form page with the prediction, or with an error beside each wrong field."""
    try:
        rows = read_rows(predictor, request, is_form=True)
    except FlaskmlError as error:
        return render_form(app, predictor, error.status, values=field_values(predictor, request), error=error)
    method = predictor.resolve_method(None)
    return render_form(
        app,
        predictor,
        values=field_values(predictor, request),
        warnings=predictor.range_warnings.find(rows),
        prediction=predictor.json_values(predictor.predict(rows), method)[0],
        probabilities=class_probabilities(predictor, rows),
        curl_command=curl_command(predictor, rows, request),
    )


def class_probabilities(predictor: Current, rows: Rows) -> dict[str, float]:
    """Return the most probable classes of the first row; empty without `predict_proba` or with several outputs."""
    if "predict_proba" not in predictor.manifest.methods or len(predictor.manifest.classes) != 1:
        return {}
    try:
        answer = predictor.predict(rows, "predict_proba")
    except FlaskmlError:  # The page still shows the prediction.
        return {}
    probabilities = predictor.json_values(answer, "predict_proba", MAX_SHOWN_CLASSES)[0]
    return probabilities if isinstance(probabilities, dict) else {}


def curl_command(predictor: Current, rows: Rows, request: Request) -> str:
    """Return a curl command that sends the same row as JSON."""
    row = dict(zip(predictor.schema.names, rows.values[0], strict=True))
    body = shlex.quote(json.dumps(row, ensure_ascii=False))
    return f"curl {shlex.quote(request.base_url)} -H 'Content-Type: application/json' -d {body}"


def field_values(predictor: Current, request: Request) -> dict[str, str]:
    """Return the texts of the form's fields by feature name."""
    return {predictor.parser.feature_of_field(name): text for name, text in request.form.items()}
