"""The registry: slots follow the store by hot reload, and a broken version leaves the old one serving."""

import errno
import os
import shutil

import pytest

from flaskml import create_app
from flaskml.errors import ModelUnavailable, NoActiveVersion, RegistryBusy
from flaskml.hot_reload.registry import Registry
from flaskml.inference.predictor import Predictor
from flaskml.inference.slot import ModelSlot, NoPredictor
from flaskml.publishing.trial import TrialLimits, ensure_accepted
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore, environment_key
from tests.support.stores import accept, canary_store, constant, put, stop


@pytest.fixture
def small_store(tmp_path):
    """A store with one active version, which answers 7."""
    store = ModelStore(tmp_path / "instance")
    accept(store, "default", put(store, constant(7)))
    return store


def registry_of(store):
    return Registry(store, TrialLimits(), max_rows=10)


@pytest.fixture
def change_environment(monkeypatch):
    """Return a function after which the process runs in an environment that no version had its trial in."""

    def change():
        for module in ("flaskml.store.model_store", "flaskml.publishing.trial"):
            monkeypatch.setattr(f"{module}.environment_key", lambda: "python 9.9.9")

    return change


def answer(slot):
    return slot.predict([[0.5]]).tolist()


def test_the_active_version_fills_the_slot(small_store):
    slot = registry_of(small_store).slot_for("default")
    assert answer(slot) == [7.0] and slot.current_manifest.version == "1"


def test_a_slot_is_created_once(small_store):
    registry = registry_of(small_store)
    assert registry.slot_for("default") is registry.slot_for("default")


def test_the_slot_of_an_absent_model_raises_the_reason(tmp_path):
    registry = registry_of(ModelStore(tmp_path))
    slot = registry.slot_for("default")
    assert isinstance(slot.current, NoPredictor)
    with pytest.raises(NoActiveVersion, match="flask train"):
        slot.predict([[0.5]])
    assert not registry.refresh()


def test_a_refresh_swaps_in_the_newly_active_version(small_store, trials):
    registry = registry_of(small_store)
    slot = registry.slot_for("default")
    old = slot.current
    accept(small_store, "default", put(small_store, constant(8)))
    assert answer(slot) == [7.0]
    assert registry.refresh() == {"default": small_store.state("default").revision}
    assert answer(slot) == [8.0] and slot.current_manifest.version == "2"
    assert old.predict(old.parser.parse_table([[0.5]])).tolist() == [7.0]
    assert not trials.asked


def test_a_refresh_without_a_change_keeps_the_predictor(small_store):
    registry = registry_of(small_store)
    current = registry.slot_for("default").current
    registry.refresh()
    assert registry.slots["default"].current is current


def test_a_new_alias_keeps_the_predictor_in_memory(small_store):
    registry = registry_of(small_store)
    slot = registry.slot_for("default")
    current = slot.current
    accept(small_store, "default", put(small_store, constant(8)), active=False)
    small_store.alias("default", "next", "2")
    registry.refresh()
    assert slot.current is current and slot.version("1") is current
    assert slot.version("2").predict(current.parser.parse_table([[0.5]])).tolist() == [8.0]


def test_a_model_published_later_gets_a_slot(small_store):
    registry = registry_of(small_store)
    accept(small_store, "late", put(small_store, constant(9), "late"))
    registry.refresh()
    assert answer(registry.slots["late"]) == [9.0]


def test_a_refresh_does_not_change_an_injected_slot(small_store):
    registry = registry_of(small_store)
    slot = registry.inject_slot(ModelSlot("default", NoPredictor(NoActiveVersion("default", ()))))
    registry.refresh()
    assert registry.slots["default"] is slot and isinstance(slot.current, NoPredictor)


def test_a_version_without_a_trial_in_this_environment_gets_one_trial(small_store, trials, change_environment):
    change_environment()
    registry_of(small_store).slot_for("default")
    assert answer(registry_of(small_store).slot_for("default")) == [7.0]
    assert trials.asked == [("default", "1")]
    assert set(small_store.state("default").verdicts["1"]) == {environment_key(), "python 9.9.9"}


def test_a_version_rejected_in_this_environment_is_not_served(small_store, trials, change_environment):
    change_environment()
    trials.rejected.add("1")
    for _ in range(2):
        slot = registry_of(small_store).slot_for("default")
        with pytest.raises(ModelUnavailable, match="rejected in its trial: the test decided so"):
            slot.predict([[0.5]])
    assert trials.asked == [("default", "1")]


def test_a_rejected_version_leaves_the_old_one_serving(small_store, trials, change_environment, caplog):
    registry = registry_of(small_store)
    slot = registry.slot_for("default")
    accept(small_store, "default", put(small_store, constant(8)))
    change_environment()
    trials.rejected.add("2")
    for _ in range(3):
        registry.refresh()
    assert answer(slot) == [7.0] and trials.asked == [("default", "2")]
    assert "rejected in its trial" in caplog.text
    version = put(small_store, constant(9))
    ensure_accepted(small_store, "default", version, TrialLimits())
    small_store.activate("default", version, "better")
    registry.refresh()
    assert answer(slot) == [9.0]


def test_a_broken_aliased_version_does_not_take_the_active_one_down(small_store):
    accept(small_store, "default", put(small_store, constant(8)))
    small_store.alias("default", "old", "1")
    (small_store.root / "default/1/model.joblib").write_bytes(b"broken")
    slot = registry_of(small_store).slot_for("default")
    assert isinstance(slot.current, Predictor) and answer(slot) == [8.0]


def test_a_broken_model_does_not_affect_the_others(small_store, caplog):
    registry = registry_of(small_store)
    registry.slot_for("default")
    accept(small_store, "other", put(small_store, constant(5), "other"))
    accept(small_store, "default", put(small_store, constant(8)))
    (small_store.root / "default/2/model.joblib").write_bytes(b"broken")
    registry.refresh()
    assert answer(registry.slots["other"]) == [5.0] and answer(registry.slots["default"]) == [7.0]
    assert "models/default/2/model.joblib" in caplog.text


def test_a_failed_load_is_not_retried_at_once(small_store, caplog):
    registry = registry_of(small_store)
    registry.slot_for("default")
    accept(small_store, "default", put(small_store, constant(8)))
    model = small_store.root / "default/2/model.joblib"
    content = model.read_bytes()
    model.write_bytes(b"broken")
    for _ in range(3):
        registry.refresh()
    assert caplog.text.count("model.joblib") == 1
    model.write_bytes(content)
    accept(small_store, "default", "2")
    registry.refresh()
    assert answer(registry.slots["default"]) == [8.0]


def test_an_active_version_without_a_folder_is_reported(small_store):
    (small_store.root / "default/1").rename(small_store.root / "default/5")
    slot = registry_of(small_store).slot_for("default")
    with pytest.raises(ModelUnavailable, match=r"models/default/state\.json: it names version 1, which does not exist"):
        slot.predict([[0.5]])


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_a_failed_load_is_retried_with_exponential_back_off(small_store, caplog, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("flaskml.hot_reload.registry.time", clock)
    registry = registry_of(small_store)
    registry.slot_for("default")
    accept(small_store, "default", put(small_store, constant(8)))
    model = small_store.root / "default/2/model.joblib"
    content = model.read_bytes()
    model.write_bytes(b"broken")
    waits = []
    for _ in range(6):
        registry.refresh()
        waits.append(registry.failures["default"].retry_at - clock.now)
        clock.now = registry.failures["default"].retry_at
    assert waits == [5, 10, 20, 40, 60, 60] and caplog.text.count("model.joblib") == 1
    model.write_bytes(content)
    clock.now -= 1
    fingerprint = registry.fingerprint()
    clock.now += 1
    assert registry.fingerprint() != fingerprint, "a watcher would never retry"
    registry.refresh()
    assert answer(registry.slots["default"]) == [8.0] and not registry.failures


def test_a_removed_model_keeps_serving_until_its_name_is_reused(small_store):
    registry = registry_of(small_store)
    slot = registry.slot_for("default")
    shutil.rmtree(small_store.root / "default")
    registry.refresh()
    assert answer(slot) == [7.0]
    accept(small_store, "default", put(small_store, constant(8)))
    registry.refresh()
    assert answer(slot) == [8.0] and slot.current_manifest.version == "1"


def test_an_aliased_version_of_an_inactive_model_answers(small_store):
    accept(small_store, "shadow", put(small_store, constant(9), "shadow"), active=False)
    small_store.alias("shadow", "next", "1")
    registry = registry_of(small_store)
    registry.refresh()
    slot = registry.slots["shadow"]
    predictor = slot.version("1")
    assert predictor.predict(predictor.parser.parse_table([[0.5]])).tolist() == [9.0]
    with pytest.raises(NoActiveVersion, match="flask models activate shadow"):
        slot.predict([[0.5]])


def test_a_concurrent_change_is_refused(small_store):
    registry = registry_of(small_store)
    with registry.exclusive_change(), pytest.raises(RegistryBusy), registry.exclusive_change():
        pass
    with registry.exclusive_change():
        pass


class ReadOnlyDisk(Disk):
    """A disk on which every write fails with this error number."""

    def __init__(self, number):
        self.number = number

    def _refuse(self, *_, **__):
        raise OSError(self.number, os.strerror(self.number))

    lock = create = rename = replace = _refuse


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("had_trial", [True, False])
def test_a_read_only_store_is_served(small_store, trials, change_environment, number, had_trial):
    if not had_trial:
        change_environment()
    before = (small_store.root / "default/state.json").read_bytes()
    store = ModelStore(small_store.instance_path, ReadOnlyDisk(number))
    assert [answer(registry_of(store).slot_for("default")) for _ in range(2)] == [[7.0], [7.0]]
    assert len(trials.asked) == (
        0 if had_trial else 2
    )  # A verdict that cannot be stored is lost, so each start holds a trial.
    assert (small_store.root / "default/state.json").read_bytes() == before


def test_an_app_serves_from_a_read_only_folder(small_store, monkeypatch):
    for operation in ("make_directory", "lock", "create", "rename", "replace"):
        monkeypatch.setattr(Disk, operation, ReadOnlyDisk(errno.EROFS)._refuse)
    app = create_app({"INSTANCE_PATH": small_store.instance_path})
    client = app.test_client()
    assert client.post("/predict", json={"x": 0.5}).json["prediction"] == 7.0
    assert client.get("/readyz").status_code == 200
    stop(app)
    assert not (small_store.instance_path / "run").exists()


def test_a_rejected_version_is_not_served_from_a_read_only_store(small_store, trials, change_environment):
    change_environment()
    trials.rejected.add("1")
    slot = registry_of(ModelStore(small_store.instance_path, ReadOnlyDisk(errno.EROFS))).slot_for("default")
    with pytest.raises(ModelUnavailable, match="rejected"):
        slot.predict([[0.5]])


@pytest.mark.parametrize("file", ["model.joblib", "golden.json", "manifest.json", "manifest.sig", "../state.json"])
def test_nothing_is_unpickled_from_a_tampered_store(tmp_path, trials, change_environment, file):
    store, nest = canary_store(tmp_path)
    change_environment()
    path = store.root / "default/1" / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    slot = registry_of(store).slot_for("default")
    with pytest.raises(ModelUnavailable, match=r"models/default/"):
        slot.predict([[0.5]])
    assert not nest.exists() and not trials.asked


def test_the_canary_is_unpickled_from_an_intact_store(tmp_path, trials, change_environment):
    store, nest = canary_store(tmp_path)
    change_environment()
    registry_of(store).slot_for("default")
    assert nest.exists() and trials.asked
