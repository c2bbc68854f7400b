"""The native door: `POST /predict` with JSON, CSV, an array or a form."""

from __future__ import annotations

import json
import re
import shlex
from functools import lru_cache
from typing import Any

from flask import Blueprint, Flask, Request, Response
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header

from flaskml.codecs.answers import PER_CLASS_METHODS, encode_csv
from flaskml.codecs.parser import Rows
from flaskml.errors import FlaskmlError, InvalidInput, NotParseable, Problem, UnsupportedMediaType, did_you_mean
from flaskml.inference.slot import Current
from flaskml.web.access import changes_no_state
from flaskml.web.bodies import limit_body
from flaskml.web.current import default_slot, named_slot, settings_of
from flaskml.web.lean import this_app, this_request
from flaskml.web.negotiation import FORM_MEDIA_TYPES, prefers, prefers_page
from flaskml.web.openapi import documented
from flaskml.web.pages import render_form
from flaskml.web.replies import json_reply, problem_as_json

bp = Blueprint("predict", __name__)

URLENCODED, MULTIPART = FORM_MEDIA_TYPES
CSV = "text/csv"
NPY = "application/x-npy"
ACCEPTED_MEDIA_TYPES = f"application/json, {CSV}, {NPY}, {URLENCODED} or {MULTIPART}"

QUERY_OPTIONS = ("method", "top_k")
"""What may stand in the query of a prediction."""

MAX_IGNORED_FIELDS = 1_000
"""Fields that a form may have beside those of the schema, where these are ignored: as many as Werkzeug takes at all."""

MAX_SHOWN_CLASSES = 10
"""Classes whose probabilities the page shows."""

_JSON_START = re.compile(rb"\s*[{\[]")
_COUNT = re.compile(r"[1-9][0-9]{0,5}\Z", re.ASCII)
_JSON_TYPE = re.compile(r"(application/(.+\+)?json)?\Z")


@bp.post("/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), takes="rows")
@changes_no_state
def predict() -> Response | tuple[str, int]:
    """Predicts each row of the body with the default model."""
    app = this_app()
    return answer(app, this_request(), default_slot(app).current)


@bp.post("/models/<model_name:name>/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), takes="rows")
@changes_no_state
def predict_with_model(name: str) -> Response | tuple[str, int]:
    """Predicts with the active version of a model."""
    app = this_app()
    return answer(app, this_request(), named_slot(app, name).current)


@bp.post("/models/<model_name:name>/versions/<version:version>/predict")
@documented("predictions", {200: "Anything"}, errors=(400, 404, 413, 415, 422, 503), takes="rows")
@changes_no_state
def predict_with_version(name: str, version: str) -> Response | tuple[str, int]:
    """Predicts with a version that is active or has an alias."""
    app = this_app()
    return answer(app, this_request(), named_slot(app, name).version(version))


def answer(app: Flask, sent: Request, predictor: Current) -> Response | tuple[str, int]:
    """What the predictor makes of the request: JSON or CSV, or the page for a form from a browser."""
    limit_body(sent, settings_of(app).max_body, "MAX_BODY")
    is_form = sends_form(sent)
    if is_form and prefers_page(sent):
        return answer_with_page(app, sent, predictor)
    method, top = read_options(predictor, sent)
    rows = read_rows(predictor, sent, is_form=is_form)
    values = predictor.values(predictor.predict(rows, method), method, top)
    warnings = predictor.range_warnings.find(rows)
    if prefers(sent, CSV):
        return csv_reply(predictor, values, len(warnings))
    return json_reply(
        predictor.answer(rows, values, [problem_as_json(warning) for warning in warnings] if warnings else ())
    )


def csv_reply(predictor: Current, values: list[Any], warnings: int) -> Response:
    """The values as CSV; which version gave them, and how many warnings, stand in the headers: a table has no place."""
    manifest = predictor.manifest
    headers = {"Model": manifest.model, "Model-Version": manifest.version, "Model-Warnings": str(warnings)}
    return Response(encode_csv(values), headers=headers, content_type=f"{CSV}; charset=utf-8; header=present")


def read_options(predictor: Current, sent: Request) -> tuple[str, int | None]:
    """The method that is asked for, and how many classes of it."""
    if not sent.query_string:
        return predictor.method(None), None
    for key in sent.args:
        if key not in QUERY_OPTIONS:
            raise InvalidInput(
                [Problem(None, None, f'there is no option "{key[:100]}"{did_you_mean(key, QUERY_OPTIONS)}')]
            )
    method = predictor.method(sent.args.get("method"))
    asked = sent.args.get("top_k")
    if asked is None:
        return method, None
    if method not in PER_CLASS_METHODS:
        raise InvalidInput([Problem(None, None, '"top_k" is for predict_proba and predict_log_proba only')])
    if not _COUNT.match(asked):
        raise InvalidInput([Problem(None, None, '"top_k" must be a whole number from 1 on')])
    return method, int(asked)


def read_rows(predictor: Current, sent: Request, *, is_form: bool) -> Rows:
    """The rows that the request asks about, by what it says it sends."""
    encoding = sent.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding {encoding}", "an unencoded body")
    if is_form:
        return read_form(predictor, sent)
    kind = media_type(sent.environ.get("CONTENT_TYPE", ""))
    if kind == CSV:
        return predictor.parser.parse_csv(read_body(sent))
    if kind == NPY:
        return predictor.parser.parse_npy(read_body(sent))
    try:
        return predictor.parse(read_body(sent))
    except NotParseable:
        # A type that is none of ours is forgiven as long as what it holds is JSON; a bare curl declares anything.
        if _JSON_TYPE.match(kind) or kind == URLENCODED:
            raise
        raise UnsupportedMediaType(kind, ACCEPTED_MEDIA_TYPES) from None


def read_body(sent: Request) -> bytes:
    """The whole body, which is no longer than its limit: that was compared with its length before."""
    length, environ = sent.content_length, sent.environ
    if length is not None and environ.get("wsgi.input_terminated"):
        body: bytes = environ["wsgi.input"].read(length)
        if len(body) == length:
            return body
    return sent.get_data(cache=False)  # Its length is not known, or somebody has read it already.


@lru_cache(maxsize=256)
def media_type(content_type: str) -> str:
    """The type in a Content-Type header, in lower case and without what it says beside."""
    return parse_options_header(content_type)[0].lower()


def sends_form(sent: Request) -> bool:
    """Whether the body is a form. What `curl -d '{...}'` sends is declared as one, and is JSON."""
    kind = media_type(sent.environ.get("CONTENT_TYPE", ""))
    if kind == URLENCODED:
        return not _JSON_START.match(sent.get_data(parse_form_data=False))
    return kind == MULTIPART


def read_form(predictor: Current, sent: Request) -> Rows:
    """The one row of a form. A file is no value."""
    beside = 1 if predictor.schema.extra == "refuse" else MAX_IGNORED_FIELDS
    sent.max_form_parts = len(predictor.schema.features) + beside
    if sent.mimetype == URLENCODED:
        limit_urlencoded(sent, sent.max_form_parts)
    if files := [name or "" for name in sent.files]:  # The header of a part may leave its name out.
        raise InvalidInput([Problem(0, name[:100], f'"{name[:100]}" is a file; send its value') for name in files])
    return predictor.parser.parse_form([(name or "", text) for name, text in sent.form.items(multi=True)])


def limit_urlencoded(sent: Request, fields: int) -> None:
    """Holds a urlencoded body to what a multipart one is held to; Werkzeug reads it whole, into many small strings."""
    body = sent.get_data(parse_form_data=False)
    if len(body) > (sent.max_form_memory_size or sent.max_content_length or 0) or body.count(b"&") >= fields:
        raise RequestEntityTooLarge


def answer_with_page(app: Flask, sent: Request, predictor: Current) -> tuple[str, int]:
    """The form again, with the prediction or with what is wrong beside each field."""
    try:
        rows = read_rows(predictor, sent, is_form=True)
    except FlaskmlError as error:
        return render_form(app, predictor, error.status, values=field_values(predictor, sent), error=error)
    method = predictor.method(None)
    shown = {
        "prediction": predictor.values(predictor.predict(rows), method)[0],
        "shares": class_probabilities(predictor, rows),
        "line": curl_line(predictor, rows, sent),
    }
    return render_form(
        app, predictor, values=field_values(predictor, sent), warnings=predictor.range_warnings.find(rows), **shown
    )


def class_probabilities(predictor: Current, rows: Rows) -> dict[str, float]:
    """The most probable classes of the first row; none where there are no probabilities, or several outputs."""
    if "predict_proba" not in predictor.manifest.methods or len(predictor.manifest.classes) != 1:
        return {}
    try:
        answer = predictor.predict(rows, "predict_proba")
    except FlaskmlError:  # The prediction itself is there.
        return {}
    found = predictor.values(answer, "predict_proba", MAX_SHOWN_CLASSES)[0]
    return found if isinstance(found, dict) else {}


def curl_line(predictor: Current, rows: Rows, sent: Request) -> str:
    """What to type to ask the same from a shell."""
    row = dict(zip(predictor.schema.names, rows.values[0], strict=True))
    body = shlex.quote(json.dumps(row, ensure_ascii=False))
    return f"curl {shlex.quote(sent.base_url)} -H 'Content-Type: application/json' -d {body}"


def field_values(predictor: Current, sent: Request) -> dict[str, str]:
    """What stands in the fields of the form, by the names of the features."""
    return {predictor.parser.feature_meant(name): text for name, text in sent.form.items()}
