"""Workers that are replaced or kept while the store is damaged, models do not load, and training jobs run."""

import os
import shutil
import signal
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest

from flaskml.hot_reload import registry as registry_module
from flaskml.hot_reload.registry import Registry
from flaskml.publishing.trial import TrialLimits
from tests.support.load import Load, failed
from tests.support.server_processes import children, wait_until
from tests.support.stores import accept, constant, put

MAX_ROWS = 100


def damage_by_garbage(file):
    file.write_text("{garbage")


def damage_by_truncation(file):
    file.write_bytes(file.read_bytes()[:20])


def damage_by_emptying(file):
    file.write_bytes(b"")


def damage_by_permissions(file):
    file.chmod(0o666)


def damage_by_a_folder(file):
    file.unlink()
    file.mkdir()


DAMAGES = (damage_by_garbage, damage_by_truncation, damage_by_emptying, damage_by_permissions, damage_by_a_folder)


def restore(file, content):
    """Put the intact state file back."""
    if file.is_dir():
        file.rmdir()
    file.write_bytes(content)
    file.chmod(0o600)


@pytest.mark.parametrize("times", [8, pytest.param(200, marks=pytest.mark.gauntlet)])
def test_damaged_states_of_a_model_end_neither_the_server_nor_another_models_predictions(serve, instance, times):
    file = instance / "models/homes/state.json"
    content = file.read_bytes()
    server = serve("flask serve", "--workers", "2")
    workers = children(server.process.pid)
    with Load([server.port], feature="feature", pause=0.005) as load:
        for damage in DAMAGES:
            for _ in range(times):
                damage(file)
                time.sleep(0.1)  # In a second, each process looks at the store ten times, the supervisor once.
                restore(file, content)
    assert not failed(load.answers) and server.process.poll() is None
    assert children(server.process.pid) == workers


@pytest.fixture(scope="module")
def served(trained):
    """An instance folder with a model of a mixed table beside the default one."""
    return trained


@pytest.fixture
def registry_of(store, monkeypatch):
    """Return a function that makes a registry of the store, for which every version is large."""
    monkeypatch.setattr(registry_module, "LARGE_VERSION_BYTES", 1)

    def make():
        registry = Registry(store, TrialLimits(), MAX_ROWS)
        for name in store.names():
            registry.slot_for(name)
        return registry

    return make


def add_version(store, value):
    """Publish and activate a version of the default model that answers with `value`."""
    version = put(store, constant(value))
    accept(store, "default", version)
    return version


def model_file(store, version):
    return store.instance_path / "models/default" / version / "model.joblib"


def test_a_new_large_version_is_loaded_once(store, registry_of):
    registry = registry_of()
    assert not registry.load_large_versions()
    version = add_version(store, 7)
    assert registry.load_large_versions()
    assert registry.slots["default"].current.manifest.version == version
    assert not registry.load_large_versions()


def test_a_large_version_that_does_not_load_is_no_change_and_is_tried_again_later(store, registry_of, monkeypatch):
    registry = registry_of()
    version = add_version(store, 7)
    content = model_file(store, version).read_bytes()
    model_file(store, version).write_bytes(b"damaged")
    load, opened = store.load, []
    monkeypatch.setattr(type(store), "load", lambda _, *version: opened.append(version) or load(*version))
    for _ in range(10):
        assert not registry.load_large_versions()
    assert len(opened) == 1 and registry.slots["default"].current.manifest.version == "1"
    model_file(store, version).write_bytes(content)
    monkeypatch.setattr(registry_module.time, "monotonic", lambda now=time.monotonic: now() + 6)
    assert registry.load_large_versions()
    assert registry.slots["default"].current.manifest.version == version


def test_a_new_active_version_beside_a_damaged_aliased_one_is_a_change(store, registry_of):
    aliased = add_version(store, 7)
    store.change("default", lambda state: state.with_alias("stable", aliased))
    model_file(store, aliased).write_bytes(b"damaged")
    accept(store, "default", "1")
    registry = registry_of()
    assert not registry.load_large_versions()
    version = add_version(store, 8)
    assert registry.load_large_versions()
    assert registry.slots["default"].current.manifest.version == version
    assert not registry.load_large_versions()


def test_a_model_that_does_not_load_is_taken_over_with_its_aliases(store, registry_of):
    aliased = add_version(store, 7)
    store.change("default", lambda state: state.with_alias("stable", aliased))
    active = add_version(store, 8)
    former = registry_of()
    for version in (aliased, active):
        model_file(store, version).write_bytes(b"damaged")
    (store.instance_path / "models/homes/state.json").write_text("{garbage")
    registry = registry_of()
    registry.take_over(former)
    slot = registry.slots["default"]
    assert slot.predict({"x": 1}).tolist() == [8] and slot.version(aliased).manifest.version == aliased
    assert registry.slots["homes"].current is former.slots["homes"].current


def test_a_removed_model_is_not_taken_over(store, registry_of):
    former = registry_of()
    shutil.rmtree(store.instance_path / "models/homes")
    registry = registry_of()
    registry.take_over(former)
    assert "homes" not in registry.slots


def test_sighup_keeps_a_model_that_does_not_load(serve, instance):
    server = serve("flask serve", "--workers", "2")
    for file in (instance / "models/default/1").glob("model.*"):
        file.write_bytes(b"damaged")
    for _ in range(2):
        former = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda former=former: len(now := children(server.process.pid)) == 2 and not former & now, 30)
        assert [server.json("POST", "/predict", {"feature": 0.5})[0] for _ in range(10)] == [200] * 10
    killed = children(server.process.pid).pop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(now := children(server.process.pid)) == 2 and killed not in now)
    assert [server.json("POST", "/predict", {"feature": 0.5})[0] for _ in range(10)] == [200] * 10


def test_a_replaced_worker_says_that_the_service_is_ready(serve):
    server = serve("flask serve")
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().read()
        [former] = children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(children(server.process.pid)) == 2, 20)
        answers = []
        while former in children(server.process.pid):
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                answers.append((response.status, response.read()))
            except OSError:
                break
            if response.headers["Connection"] == "close":
                break
    assert answers and {status for status, _ in answers} == {200}


@pytest.mark.parametrize("times", [2, pytest.param(60, marks=pytest.mark.gauntlet)])
def test_training_jobs_outlive_rolling_restarts_under_load(serve, times):
    server = serve("flask serve", "--workers", "2")
    jobs = [
        server.json("POST", "/train", {"name": f"trained{index}", "data": "iris", "runtime": "sklearn"})[1]["id"]
        for index in range(2)
    ]
    with Load([server.port], feature="feature", pause=0.01) as load:
        for _ in range(times):
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.5)
        wait_until(lambda: all(status_of(server, job) in ("succeeded", "failed", "interrupted") for job in jobs), 60)
    assert [status_of(server, job) for job in jobs] == ["succeeded"] * 2
    assert not failed(load.answers)
    wait_until(lambda: len(children(server.process.pid)) == 2, 30)


def status_of(server, job):
    """Return the status of a training job."""
    return server.json("GET", f"/jobs/{job}")[1]["status"]
