"""The OpenAPI document is valid, whole, and true."""

import json
import re

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import validate
from sklearn.linear_model import LinearRegression

from flaskml import publish
from flaskml.schema.features import Feature, Schema
from flaskml.web.json_schema import feature_schema

RAMP = np.linspace(0, 1, 40)[:, None]


@pytest.fixture
def document(client):
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json


def test_it_is_valid(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_route_is_in_it(app, document):
    beside = {"/", "/docs", "/static/<path:filename>"}
    for rule in app.url_map.iter_rules():
        if rule.rule in beside or rule.endpoint == "models.activate_from_page":  # PUT is what clients use.
            continue
        pattern = re.sub(r"<[^>]+>", r"[^/]+", rule.rule) + r"\Z"
        paths = [path for path in document["paths"] if re.match(pattern, path)]
        assert paths, rule.rule
        for path in paths:
            assert {method.lower() for method in rule.methods} & set(document["paths"][path])


def test_predictions_have_the_real_columns(document, home):
    row = document["components"]["schemas"]["homes-1.Row"]
    assert list(row["properties"]) == row["required"] == list(home)
    assert row["additionalProperties"] is False
    assert row["properties"]["home city"]["anyOf"][0]["examples"] == ["Oslo", "Rome", "São Paulo"]
    assert "in training" in row["properties"]["age"]["description"]
    assert "/models/homes/predict" in document["paths"] and "/models/homes/versions/1/predict" in document["paths"]


def test_every_example_is_answered_as_described(client, document):
    schemas = document["components"]["schemas"]
    tried = 0
    for path, item in document["paths"].items():
        for kind, content in item.get("post", {}).get("requestBody", {}).get("content", {}).items():
            for example in content.get("examples", {}).values():
                jsonschema.validate(example["value"], {**content["schema"], "components": {"schemas": schemas}})
                body = example["value"] if kind == "text/csv" else json.dumps(example["value"])
                answer = client.post(path, data=body, content_type=kind)
                assert answer.status_code == 200, answer.text
                described = item["post"]["responses"]["200"]["content"][answer.mimetype]["schema"]
                jsonschema.validate(answer.json, {**described, "components": {"schemas": schemas}})
                tried += 1
    assert tried >= 15


def test_the_examples_of_names_and_versions_are_there(client, document):
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        known = {parameter["name"]: parameter["example"] for parameter in document["paths"][path]["get"]["parameters"]}
        assert client.get(path.format_map(known)).status_code == 200


def test_the_examples_are_of_a_model_that_answers(make_app):
    document = make_app(MODEL_NAME="later").test_client().get("/openapi.json").json
    (parameter,) = document["paths"]["/models/{name}"]["get"]["parameters"]
    assert parameter["example"] in ("default", "homes")


def test_title_and_version_are_settings(make_app):
    client = make_app(API_TITLE="Houses", API_VERSION="2.1").test_client()
    assert client.get("/openapi.json").json["info"] == {"title": "Houses", "version": "2.1"}
    assert "Houses" in client.get("/docs").text


def test_names_that_are_nearly_the_same_are_told_apart(make_app, store, instance):
    for name in ("a-b", "a.b", "a_b"):
        publish(LinearRegression().fit(RAMP, RAMP[:, 0]), RAMP, name=name, instance_path=instance)
    document = make_app().test_client().get("/openapi.json").json
    validate(document)
    assert {f"/models/{name}/predict" for name in ("a-b", "a.b", "a_b")} <= set(document["paths"])


def test_what_would_not_be_answered_is_not_in_it(make_app, instance, store):
    publish(LinearRegression().fit(RAMP, RAMP[:, 0]), RAMP, name="never", instance_path=instance, activate=False)
    store.alias("never", "next", "1")
    client = make_app().test_client()
    paths = client.get("/openapi.json").json["paths"]
    assert "/models/never/predict" not in paths and "/models/never/versions/1/predict" in paths
    assert client.post("/models/never/versions/1/predict", json={"x0": 1}).status_code == 200


def test_it_says_under_which_path_it_is_served(client):
    document = client.get("/openapi.json", environ_overrides={"SCRIPT_NAME": "/ml"}).json
    assert document["servers"] == [{"url": "/ml"}]


def test_without_a_model_there_is_a_document_all_the_same(make_app, tmp_path):
    document = make_app(INSTANCE_PATH=tmp_path).test_client().get("/openapi.json").json
    validate(document)
    assert "/livez" in document["paths"]


def test_tokens_are_told_where_they_are_needed(make_app):
    document = make_app(ADMIN_TOKEN_SHA256=("0" * 64,)).test_client().get("/openapi.json").json
    assert document["paths"]["/train"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/predict"]["post"]
    assert {"401", "403"} <= set(document["paths"]["/train"]["post"]["responses"])


@pytest.mark.parametrize(
    ("feature", "right", "wrong"),
    [
        ({"kind": "float"}, [1.5, 0, -1e300], ["1", None, True]),
        ({"kind": "integer", "dtype": "int8"}, [1, -128, 3.0], [128, 1.5, "1"]),
        ({"kind": "boolean"}, [True], [1, "true"]),
        ({"kind": "category", "categories": ("a", "b"), "unknown": "refuse"}, ["a"], ["c", 1]),
        ({"kind": "category", "categories": (1, 2), "unknown": "accept"}, [1, 7], ["a"]),
        ({"kind": "text", "nullable": True}, ["", None], [1]),
        (
            {"kind": "datetime"},
            ["2024-01-28T23:59:59", "2024-02-29", "1860-01-01T00:00", "2024-01-01T10:00:00.5"],
            ["2024-13-01", "2024-01-01T00:00:00Z", "2024-02-41T00:00:00"],
        ),
        ({"kind": "datetime", "dtype": "datetime64[us, UTC]"}, ["2024-01-01T00:00:00+01:00"], ["2024-01-01T00:00:00"]),
    ],
)
def test_values(feature, right, wrong):
    made = Feature(name="x", **feature)
    schema = feature_schema(Schema(features=(made,), layout="frame"), made)
    check = jsonschema.Draft202012Validator(schema)
    assert all(check.is_valid(value) for value in [*right, made.example])
    assert not any(check.is_valid(value) for value in wrong)


def test_the_viewer_is_of_this_server_alone(client):
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "connect-src 'self'" in policy
    assert "://" not in re.sub(r"<!doctype[^>]*>", "", page.text)
    for source in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        with client.get(source) as found:
            assert found.status_code == 200
