"""The model registry over HTTP."""

import os
import shutil
import time
from pathlib import Path

import pytest

from flaskml.hot_reload import registry
from flaskml.store.model_store import ModelStore
from tests.support.stores import accept, stop, train_into

pytestmark = pytest.mark.contract


@pytest.fixture(scope="session")
def trained_twice(trained, tmp_path_factory):
    """An instance folder whose default model has a second version, trained on other data and not active."""
    path = Path(shutil.copytree(trained, tmp_path_factory.mktemp("trained_twice") / "instance"))
    train_into(path, data="diabetes")
    ModelStore(path).activate("default", "1", "back to the first")
    return path


@pytest.fixture
def two(trained_twice, store, instance):
    """The store of the test, with two versions of the default model."""
    shutil.copytree(trained_twice / "models/default", instance / "models/default", dirs_exist_ok=True)
    return store


def test_an_encoded_body_is_refused(client):
    path, headers = "/models/default/active", {"Content-Encoding": "gzip"}
    assert client.put(path, json={"version": "1"}, headers=headers).status_code == 415
    assert client.post(path, data={"version": "1"}, headers=headers).status_code == 415
    answer = client.put(path, json={"version": "1"}, headers={"Content-Encoding": "Identity"})
    assert answer.status_code == 200


def test_models_are_listed(client):
    models = client.get("/models").json["models"]
    assert [(model["name"], model["active"], model["versions"], model["serving"]) for model in models] == [
        ("default", "1", ["1"], "1"),
        ("homes", "1", ["1"], "1"),
    ]


def test_a_model_shows_its_history_and_verdicts(client, two):
    model = client.get("/models/default").json
    assert (model["active"], model["versions"], model["serving"], model["aliases"]) == ("1", ["1", "2"], "1", {})
    assert [(entry["version"], entry["reason"]) for entry in model["history"]] == [
        ("1", "trained on regression"),
        ("2", "trained on diabetes"),
        ("1", "back to the first"),
    ]
    assert [feature["name"] for feature in model["features"]] == ["feature"]
    (verdict,) = model["verdicts"]["2"].values()
    assert verdict["accepted"] and "32 golden rows" in verdict["reason"]


def test_a_version_shows_its_manifest(client):
    manifest = client.get("/models/homes/versions/1").json
    assert (manifest["model"], manifest["version"], manifest["target"]) == ("homes", "1", "sold")


def test_rollback_reverts_an_activation(client, two):
    assert client.post("/predict", json={"feature": 1}).json["version"] == "1"
    answer = client.put("/models/default/active", json={"version": "2"})
    assert answer.status_code == 200 and answer.json["active"] == answer.json["serving"] == "2"
    assert answer.json["lagging"] == []
    assert client.post("/predict", json={"feature": 1}).status_code == 422
    answer = client.post("/models/default/rollback")
    assert answer.status_code == 200 and answer.json["active"] == "1"
    assert client.post("/predict", json={"feature": 1}).json["version"] == "1"
    assert client.get("/models/default").json["history"][-1]["reason"] == "rolled back"
    assert client.post("/models/default/rollback").json["active"] == "2"


def test_an_activation_does_not_wait_for_the_interval_of_its_own_watcher(two, make_app, monkeypatch):
    monkeypatch.setattr("flaskml.hot_reload.watcher.WATCH_INTERVAL_SECONDS", 3600.0)
    answer = make_app().test_client().put("/models/default/active", json={"version": "2"})
    assert answer.status_code == 200 and answer.json["serving"] == "2" and answer.json["lagging"] == []


def test_a_slow_load_ends_an_activation_with_202(two, make_app, monkeypatch):
    monkeypatch.setattr("flaskml.hot_reload.registry.ROSTER_TIMEOUT_SECONDS", 0.2)
    client = make_app().test_client()
    client.get("/livez")
    opened = registry.open_predictor

    def open_slowly(*arguments, **options):
        time.sleep(1)
        return opened(*arguments, **options)

    monkeypatch.setattr(registry, "open_predictor", open_slowly)
    answer = client.put("/models/default/active", json={"version": "2"})
    assert answer.status_code == 202 and [member["pid"] for member in answer.json["lagging"]] == [os.getpid()]


def test_rollback_without_an_earlier_version_is_a_conflict(client):
    answer = client.post("/models/homes/rollback")
    assert answer.status_code == 409 and "no earlier active version" in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"version": "9"}, 404),
        ({"version": 1}, 422),
        ({}, 422),
        ({"version": "1", "x": 1}, 422),
        ({"version": "../1"}, 404),
    ],
)
def test_invalid_activations_are_refused(client, body, status):
    assert client.put("/models/default/active", json=body).status_code == status
    assert client.put("/models/absent/active", json={"version": "1"}).status_code == 404
    assert client.put("/models/default/active", data=b"{").status_code == 400


def test_an_unused_version_is_deleted(client, two):
    assert client.delete("/models/default/versions/1").status_code == 409
    assert client.delete("/models/default/versions/2").status_code == 204
    assert client.delete("/models/default/versions/2").status_code == 204
    assert client.get("/models/default").json["versions"] == ["1"]
    assert client.delete("/models/absent/versions/2").status_code == 404
    assert client.get("/models/default/versions/2").status_code == 404


def test_an_aliased_version_answers_under_its_number(client, two):
    two.alias("default", "stable", "2")
    client.get("/livez")
    row = dict.fromkeys(two.manifest("default", "2").schema_.names, 0.01)
    app = client.application
    app.extensions["watcher"].sync()
    answer = client.post("/models/default/versions/2/predict", json=row)
    assert answer.status_code == 200 and answer.json["version"] == "2"
    assert client.post("/models/default/versions/1/predict", json={"feature": 1}).json["version"] == "1"
    assert client.post("/models/default/predict", json={"feature": 1}).json["version"] == "1"
    assert client.delete("/models/default/versions/2").status_code == 409
    assert client.post("/models/default/versions/7/predict", json=row).status_code == 404
    assert client.post("/models/absent/predict", json=row).status_code == 404


def test_a_model_published_later_gets_its_slot(client, instance):
    assert client.post("/models/late/predict", json={"feature": 1}).status_code == 404
    train_into(instance, name="late")
    client.application.extensions["watcher"].sync()
    assert client.post("/models/late/predict", json={"feature": 1}).json["model"] == "late"
    assert client.application.extensions["models"]["late"].current_manifest.version == "1"


def test_an_idle_process_compares_before_its_first_answer(make_app, two):
    client = make_app().test_client()
    two.activate("default", "2", "while the process was idle")
    assert client.get("/readyz").json["version"] == "2"


def test_a_lagging_process_is_named(client, make_app, two, monkeypatch):
    monkeypatch.setattr("flaskml.hot_reload.registry.ROSTER_TIMEOUT_SECONDS", 0.3)
    other = make_app()
    other.test_client().get("/livez")
    other.extensions["watcher"]._is_stopped = True
    other.extensions["watcher"]._thread.join()
    answer = client.put("/models/default/active", json={"version": "2"})
    assert answer.status_code == 202 and answer.headers["Location"] == "/models/default"
    assert len(answer.json["lagging"]) == 1 and answer.json["lagging"][0]["pid"]


def test_a_concurrent_change_is_refused(app, client, two):
    changes = (
        lambda: client.put("/models/default/active", json={"version": "2"}),
        lambda: client.post("/models/default/rollback"),
        lambda: client.delete("/models/default/versions/2"),
    )
    with app.extensions["registry"].exclusive_change():
        answers = [change() for change in changes]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
    assert two.state("default").active == "1" and two.versions("default") == ["1", "2"]
    assert changes[0]().json["active"] == "2"


def test_a_model_with_a_damaged_manifest_shows_its_history(client, store):
    (store.root / "homes/1/manifest.json").write_bytes(b"{")
    model = client.get("/models/homes").json
    assert [entry["version"] for entry in model["history"]] == ["1"] and model["features"] is None
    assert client.get("/models/homes/versions/1").status_code >= 500


def test_unknown_names_and_versions_are_404(client):
    answer = client.get("/models/hommes")
    assert answer.status_code == 404 and "homes" in answer.json["detail"]
    for name in ("..", "%2e%2e", "A", "a" * 64, "a%00", "a%0a", "%EF%BC%A1", "a%2fb"):
        status = client.get(f"/models/{name}").status_code
        assert status == 404 or (name == "a%00" and status == 400)  # `flask serve` answers 400 to a NUL.
    for version in ("0", "01", "%D9%A1", "1%0a", "1" * 11, "-1"):
        assert client.get(f"/models/default/versions/{version}").status_code == 404


def test_an_empty_store_lists_no_model(tmp_path):
    from flaskml import create_app

    app = create_app({"INSTANCE_PATH": tmp_path / "new"})
    assert not (tmp_path / "new").exists()
    assert app.test_client().get("/models").json == {"models": []}
    stop(app)


def test_answers_hold_no_training_text(homes, store, home):
    golden = store.golden_rows(store.manifest("homes", "1"))
    texts = {value for row in golden.rows for value in row if isinstance(value, str) and "case" in value}
    assert texts
    paths = ["/", "/models", "/models/homes", "/models/homes/versions/1"]
    answers = [homes.get(path).text for path in paths] + [homes.post("/predict", json=home | {"rooms": "x"}).text]
    assert not [text for text in texts if text in "".join(answers)]


def test_a_rejected_version_is_not_activated(client, store, two, monkeypatch):
    from flaskml.store.model_store import environment_key
    from flaskml.store.state import TrialVerdict, utc_now

    bad = TrialVerdict(
        accepted=False, reason="it answered golden row 3 differently than in training.", at=utc_now(), row=3
    )
    store.change("default", lambda state: state.with_verdict("2", environment_key(), bad))
    monkeypatch.setattr("flaskml.publishing.trial.run_trial", lambda *_: bad)  # Activation repeats the trial.
    answer = client.put("/models/default/active", json={"version": "2"})
    assert answer.status_code == 409 and "golden row 3" in answer.json["detail"]
    assert client.get("/readyz").json["version"] == "1"
    accept(store, "default", "2", active=False)
    assert client.put("/models/default/active", json={"version": "2"}).status_code == 200
