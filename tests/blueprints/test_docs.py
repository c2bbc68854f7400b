"""The OpenAPI document is valid, complete and true."""

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


def test_the_document_is_valid(document):
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_route_is_documented(app, document):
    undocumented = {"/", "/docs", "/static/<path:filename>"}
    for rule in app.url_map.iter_rules():
        if rule.rule in undocumented or rule.endpoint == "models.activate_from_page":  # API clients use PUT.
            continue
        pattern = re.sub(r"<[^>]+>", r"[^/]+", rule.rule) + r"\Z"
        paths = [path for path in document["paths"] if re.match(pattern, path)]
        assert paths, rule.rule
        for path in paths:
            assert {method.lower() for method in rule.methods} & set(document["paths"][path])


def test_predictions_have_the_columns_of_the_model(document, home):
    row = document["components"]["schemas"]["homes-1.Row"]
    assert list(row["properties"]) == row["required"] == list(home)
    assert row["additionalProperties"] is False
    assert row["properties"]["home city"]["anyOf"][0]["examples"] == ["Oslo", "Rome", "São Paulo"]
    assert "in training" in row["properties"]["age"]["description"]
    assert "/models/homes/predict" in document["paths"] and "/models/homes/versions/1/predict" in document["paths"]


def test_every_example_gets_the_described_answer(client, document):
    schemas = document["components"]["schemas"]
    examples = 0
    for path, item in document["paths"].items():
        for kind, content in item.get("post", {}).get("requestBody", {}).get("content", {}).items():
            for example in content.get("examples", {}).values():
                jsonschema.validate(example["value"], {**content["schema"], "components": {"schemas": schemas}})
                body = example["value"] if kind == "text/csv" else json.dumps(example["value"])
                answer = client.post(path, data=body, content_type=kind)
                assert answer.status_code == 200, answer.text
                described = item["post"]["responses"]["200"]["content"][answer.mimetype]["schema"]
                jsonschema.validate(answer.json, {**described, "components": {"schemas": schemas}})
                examples += 1
    assert examples >= 15


def test_the_example_names_and_versions_exist(client, document):
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        examples = {item["name"]: item["example"] for item in document["paths"][path]["get"]["parameters"]}
        assert client.get(path.format_map(examples)).status_code == 200


def test_examples_name_a_served_model(make_app):
    document = make_app(MODEL_NAME="later").test_client().get("/openapi.json").json
    (parameter,) = document["paths"]["/models/{name}"]["get"]["parameters"]
    assert parameter["example"] in ("default", "homes")


def test_title_and_version_are_settings(make_app):
    client = make_app(API_TITLE="Houses", API_VERSION="2.1").test_client()
    assert client.get("/openapi.json").json["info"] == {"title": "Houses", "version": "2.1"}
    assert "Houses" in client.get("/docs").text


def test_similar_model_names_get_different_operation_ids(make_app, store, instance):
    for name in ("a-b", "a.b", "a_b"):
        publish(LinearRegression().fit(RAMP, RAMP[:, 0]), RAMP, name=name, instance_path=instance)
    document = make_app().test_client().get("/openapi.json").json
    validate(document)
    assert {f"/models/{name}/predict" for name in ("a-b", "a.b", "a_b")} <= set(document["paths"])


def test_only_served_versions_are_documented(make_app, instance, store):
    publish(LinearRegression().fit(RAMP, RAMP[:, 0]), RAMP, name="aliased", instance_path=instance, activate=False)
    store.alias("aliased", "next", "1")
    client = make_app().test_client()
    paths = client.get("/openapi.json").json["paths"]
    assert "/models/aliased/predict" not in paths and "/models/aliased/versions/1/predict" in paths
    assert client.post("/models/aliased/versions/1/predict", json={"x0": 1}).status_code == 200


def test_the_document_names_the_path_prefix(client):
    document = client.get("/openapi.json", environ_overrides={"SCRIPT_NAME": "/ml"}).json
    assert document["servers"] == [{"url": "/ml"}]


def test_without_a_model_the_document_is_still_valid(make_app, tmp_path):
    document = make_app(INSTANCE_PATH=tmp_path).test_client().get("/openapi.json").json
    validate(document)
    assert "/livez" in document["paths"]


def test_guarded_routes_document_the_token(make_app):
    document = make_app(ADMIN_TOKEN_SHA256=("0" * 64,)).test_client().get("/openapi.json").json
    assert document["paths"]["/train"]["post"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/predict"]["post"]
    assert {"401", "403"} <= set(document["paths"]["/train"]["post"]["responses"])


@pytest.mark.parametrize(
    ("feature", "valid", "invalid"),
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
def test_feature_schemas_accept_valid_values_only(feature, valid, invalid):
    feature = Feature(name="x", **feature)
    validator = jsonschema.Draft202012Validator(feature_schema(Schema(features=(feature,), layout="frame"), feature))
    assert all(validator.is_valid(value) for value in [*valid, feature.example])
    assert not any(validator.is_valid(value) for value in invalid)


def test_swagger_ui_loads_from_this_server_only(client):
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy and "connect-src 'self'" in policy
    assert "://" not in re.sub(r"<!doctype[^>]*>", "", page.text)
    for source in re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text):
        with client.get(source) as answer:
            assert answer.status_code == 200
