"""Liveness and readiness."""

import pytest

pytestmark = pytest.mark.contract


def test_a_process_with_a_model_is_live_and_ready(client):
    assert client.get("/livez").json == {"status": "live"}
    assert client.get("/readyz").json == {"status": "ready", "model": "default", "version": "1"}


def test_a_process_without_a_model_is_live_but_not_ready(make_app):
    client = make_app(MODEL_NAME="absent").test_client()
    assert client.get("/livez").status_code == 200
    answer = client.get("/readyz")
    assert answer.status_code == 503 and "default, homes" in answer.json["detail"]
