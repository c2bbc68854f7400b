"""The factory."""

import threading

import numpy as np
import pytest

from flaskml import create_app
from flaskml.errors import InvalidSetting
from flaskml.inference.slot import ModelSlot
from tests.support.checkout import run_python
from tests.support.stores import load_active, stop


def test_loads_the_active_version_into_the_extension(app):
    slot = app.extensions["model"]
    assert isinstance(slot, ModelSlot)
    assert slot.current.manifest.version == "1"
    assert slot.predict({"feature": 0.5}) == pytest.approx([20.8956816], rel=1e-8)


def test_a_users_own_blueprint_predicts_with_it(app):
    from flask import Blueprint, current_app

    bp = Blueprint("own", __name__)

    @bp.get("/own")
    def own():
        return {"answer": current_app.extensions["model"].predict([[0.5], [0.5]]).tolist()}

    app.register_blueprint(bp)
    answer = app.test_client().get("/own").json["answer"]
    assert len(answer) == 2 and answer[0] == answer[1]


def test_an_injected_slot_is_used(instance, make_app):
    slot = make_app().extensions["models"]["homes"]
    app = create_app({"INSTANCE_PATH": instance}, slot=slot)
    assert app.extensions["model"] is slot
    assert app.test_client().get("/readyz").json["model"] == "homes"
    stop(app)


def test_all_active_models_are_loaded(app):
    assert set(app.extensions["models"]) == {"default", "homes"}
    assert app.extensions["models"]["default"] is app.extensions["model"]
    assert app.extensions["models"]["homes"].serving.version == "1"


def test_config_wins_over_environment_wins_over_file(instance, monkeypatch, make_app):
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
def test_wrong_settings_stop_the_start(instance, config, message):
    with pytest.raises(InvalidSetting, match=message):
        create_app({"INSTANCE_PATH": instance, **config})


def test_instance_path_in_its_own_config_stops_the_start(instance):
    (instance / "config.py").write_text('INSTANCE_PATH = "/elsewhere"\n')
    with pytest.raises(InvalidSetting, match="INSTANCE_PATH"):
        create_app({"INSTANCE_PATH": instance})


def test_starts_no_thread_and_writes_nothing(instance):
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


def test_two_apps_share_nothing(make_app):
    first, second = make_app(), make_app(MODEL_NAME="homes")
    assert first.extensions["model"].current.manifest.model == "default"
    assert second.extensions["model"].current.manifest.model == "homes"


def test_hosts_are_checked_only_when_configured(make_app):
    assert make_app().test_client().get("/livez", headers={"Host": "anything"}).status_code == 200
    client = make_app(TRUSTED_HOSTS="example.org").test_client()
    assert client.get("/livez", headers={"Host": "anything"}).status_code == 400
    assert client.get("/livez", headers={"Host": "example.org"}).status_code == 200


def test_predictions_are_the_estimators_own(app, store):
    estimator = load_active(store, "default").estimator
    values = np.linspace(-3, 3, 50).reshape(-1, 1)
    predicted = app.extensions["model"].predict(values)
    assert np.array_equal(predicted, estimator.predict(values))
