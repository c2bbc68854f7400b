"""The app factory."""

import shutil
import threading

import numpy as np
import pytest

from flaskml import create_app
from flaskml.errors import InvalidSetting, NoActiveVersion
from flaskml.inference.slot import ModelSlot, NoPredictor
from tests.support.checkout import run_python
from tests.support.stores import load_active, stop


def test_the_active_version_is_loaded_into_the_extension(app):
    slot = app.extensions["model"]
    assert isinstance(slot, ModelSlot)
    assert slot.current.manifest.version == "1"
    assert slot.predict({"feature": 0.5}) == pytest.approx([20.8956816], rel=1e-8)


def test_another_blueprint_predicts_with_the_extension(app):
    from flask import Blueprint, current_app

    bp = Blueprint("custom", __name__)

    @bp.get("/custom")
    def custom():
        return {"answer": current_app.extensions["model"].predict([[0.5], [0.5]]).tolist()}

    app.register_blueprint(bp)
    answer = app.test_client().get("/custom").json["answer"]
    assert len(answer) == 2 and answer[0] == answer[1]


def test_an_injected_slot_is_used(instance, make_app):
    slot = make_app().extensions["models"]["homes"]
    app = create_app({"INSTANCE_PATH": instance}, slot=slot)
    assert app.extensions["model"] is slot
    assert app.test_client().get("/readyz").json["model"] == "homes"
    stop(app)


def test_every_active_model_is_loaded(app):
    assert set(app.extensions["models"]) == {"default", "homes"}
    assert app.extensions["models"]["default"] is app.extensions["model"]
    assert app.extensions["models"]["homes"].current_manifest.version == "1"


def test_the_config_argument_overrides_the_environment_overrides_the_file(instance, monkeypatch, make_app):
    (instance / "config.py").write_text('MODEL_NAME = "a"\nMAX_ROWS = 1\nMAX_BODY = 7\nSECRET_KEY = "flask"\n')
    monkeypatch.setenv("FLASKML_MODEL_NAME", "b")
    monkeypatch.setenv("FLASKML_MAX_ROWS", "2")
    app = make_app(MODEL_NAME="c")
    settings = app.extensions["settings"]
    assert (settings.model_name, settings.max_rows, settings.max_body) == ("c", 2, 7)
    assert app.config["SECRET_KEY"] == "flask" and app.config["MAX_ROWS"] == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"MODEL_NAMES": "x"}, "MODEL_NAMES.*MODEL_NAME"),
        ({"MAX_ROWS": "many"}, "MAX_ROWS"),
        ({"MODEL_NAME": "../etc"}, "MODEL_NAME"),
        ({"MODEL_NAME": "iris\n"}, "MODEL_NAME"),
        ({"model_name": "iris"}, "model_name"),
    ],
)
def test_invalid_settings_stop_the_start(instance, config, message):
    with pytest.raises(InvalidSetting, match=message):
        create_app({"INSTANCE_PATH": instance, **config})


def test_an_instance_path_in_config_py_stops_the_start(instance):
    (instance / "config.py").write_text('INSTANCE_PATH = "/elsewhere"\n')
    with pytest.raises(InvalidSetting, match="INSTANCE_PATH"):
        create_app({"INSTANCE_PATH": instance})


def test_the_factory_starts_no_thread_and_writes_no_file(instance):
    before = sorted(path for path in instance.rglob("*"))
    threads = threading.active_count()
    app = create_app({"INSTANCE_PATH": instance})
    app.extensions["model"].predict({"feature": 1})
    assert threading.active_count() == threads
    assert sorted(path for path in instance.rglob("*")) == before


def test_a_forked_child_predicts(instance):
    code = """
import os, sys
from flaskml import create_app
app = create_app({"INSTANCE_PATH": sys.argv[1], "MODEL_NAME": "homes"})
slot = app.extensions["model"]
row = slot.current.schema.example
pid = os.fork()
if pid == 0:
    slot.predict([row] * 50)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), slot.predict(row)[0])
"""
    assert run_python(code, instance).split()[0] == "0"


def test_two_apps_share_no_object(make_app):
    first, second = make_app(), make_app(MODEL_NAME="homes")
    assert first.extensions["model"].current.manifest.model == "default"
    assert second.extensions["model"].current.manifest.model == "homes"
    for name in ("settings", "store", "registry", "watcher", "jobs", "model", "models"):
        assert first.extensions[name] is not second.extensions[name], name
    assert first.extensions["jobs"].table is not second.extensions["jobs"].table
    assert first.extensions["watcher"].roster is not second.extensions["watcher"].roster
    assert set(first.extensions["models"]) == set(second.extensions["models"]) == {"default", "homes"}
    for name, slot in first.extensions["models"].items():
        assert slot is not second.extensions["models"][name]
        assert slot.current is not second.extensions["models"][name].current


def test_a_change_in_one_app_does_not_show_in_another(make_app, instance, tmp_path):
    other_instance = shutil.copytree(instance, tmp_path / "other")
    first, second = make_app(), make_app(INSTANCE_PATH=other_instance)
    first.config["MAX_ROWS"] = 1
    job = first.test_client().post("/train", json={"runtime": "sklearn"}).json
    first.extensions["jobs"].wait()
    second.extensions["watcher"].sync(force=True)
    assert first.test_client().get(f"/jobs/{job['id']}").json["status"] == "succeeded"
    assert [app.extensions["model"].current_manifest.version for app in (first, second)] == ["2", "1"]
    assert [app.extensions["store"].versions("default") for app in (first, second)] == [["1", "2"], ["1"]]
    assert [len(app.test_client().get("/jobs").json["jobs"]) for app in (first, second)] == [1, 0]
    assert second.test_client().get(f"/jobs/{job['id']}").status_code == 404
    assert second.config["MAX_ROWS"] == second.extensions["settings"].max_rows == 10_000
    second.extensions["model"].swap(NoPredictor(NoActiveVersion("default", ())))
    assert first.test_client().get("/readyz").json["version"] == "2"
    assert second.test_client().get("/readyz").status_code == 503


def test_the_host_is_checked_only_with_trusted_hosts(make_app):
    assert make_app().test_client().get("/livez", headers={"Host": "anything"}).status_code == 200
    client = make_app(TRUSTED_HOSTS="example.org").test_client()
    assert client.get("/livez", headers={"Host": "anything"}).status_code == 400
    assert client.get("/livez", headers={"Host": "example.org"}).status_code == 200


def test_predictions_equal_those_of_the_estimator(app, store):
    estimator = load_active(store, "default").estimator
    values = np.linspace(-3, 3, 50).reshape(-1, 1)
    predicted = app.extensions["model"].predict(values)
    assert np.array_equal(predicted, estimator.predict(values))
