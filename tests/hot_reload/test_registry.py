"""The slots of a process, and how they follow the store."""

import errno
import os
import shutil

import pytest

from flaskml import create_app
from flaskml.errors import Busy, ModelUnavailable, NoActiveVersion
from flaskml.hot_reload.registry import Registry
from flaskml.inference.predictor import Predictor
from flaskml.inference.slot import ModelSlot, NoPredictor
from flaskml.publishing.trial import TrialLimits, ensure_accepted
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore, environment_key
from tests.support.stores import accept, canary_store, constant, put, stop


@pytest.fixture
def small(tmp_path):
    """A store with one active version, which answers 7."""
    store = ModelStore(tmp_path / "instance")
    accept(store, "default", put(store, constant(7)))
    return store


def registry_of(store):
    return Registry(store, TrialLimits(), max_rows=10)


@pytest.fixture
def elsewhere(monkeypatch):
    """From now on the process runs in an environment that no version was tried in."""

    def move():
        for module in ("flaskml.store.model_store", "flaskml.publishing.trial"):
            monkeypatch.setattr(f"{module}.environment_key", lambda: "python 9.9.9")

    return move


def answer(slot):
    return slot.predict([[0.5]]).tolist()


def test_what_is_active_fills_its_slot(small):
    slot = registry_of(small).expect("default")
    assert answer(slot) == [7.0] and slot.serving.version == "1"


def test_a_slot_is_made_once(small):
    registry = registry_of(small)
    assert registry.expect("default") is registry.expect("default")


def test_a_model_that_is_not_there_yet(tmp_path):
    registry = registry_of(ModelStore(tmp_path))
    slot = registry.expect("default")
    assert isinstance(slot.current, NoPredictor)
    with pytest.raises(NoActiveVersion, match="flask train"):
        slot.predict([[0.5]])
    assert not registry.refresh()


def test_a_refresh_swaps_in_what_became_active(small, trials):
    registry = registry_of(small)
    slot = registry.expect("default")
    old = slot.current
    accept(small, "default", put(small, constant(8)))
    assert answer(slot) == [7.0]
    assert registry.refresh() == {"default": small.state("default").revision}
    assert answer(slot) == [8.0] and slot.serving.version == "2"
    assert old.predict(old.parser.parse_table([[0.5]])).tolist() == [7.0]
    assert not trials.asked


def test_a_refresh_without_news_replaces_nothing(small):
    registry = registry_of(small)
    current = registry.expect("default").current
    registry.refresh()
    assert registry.slots["default"].current is current


def test_a_new_alias_keeps_the_predictor_that_is_in_memory(small):
    registry = registry_of(small)
    slot = registry.expect("default")
    current = slot.current
    accept(small, "default", put(small, constant(8)), active=False)
    small.alias("default", "next", "2")
    registry.refresh()
    assert slot.current is current and slot.version("1") is current
    assert slot.version("2").predict(current.parser.parse_table([[0.5]])).tolist() == [8.0]


def test_a_name_published_later_gets_its_slot(small):
    registry = registry_of(small)
    accept(small, "late", put(small, constant(9), "late"))
    registry.refresh()
    assert answer(registry.slots["late"]) == [9.0]


def test_an_adopted_slot_is_left_alone(small):
    registry = registry_of(small)
    slot = registry.adopt(ModelSlot("default", NoPredictor(NoActiveVersion("default", ()))))
    registry.refresh()
    assert registry.slots["default"] is slot and isinstance(slot.current, NoPredictor)


def test_a_version_without_a_trial_here_is_tried_once(small, trials, elsewhere):
    elsewhere()
    registry_of(small).expect("default")
    assert answer(registry_of(small).expect("default")) == [7.0]
    assert trials.asked == [("default", "1")]
    assert set(small.state("default").verdicts["1"]) == {environment_key(), "python 9.9.9"}


def test_a_version_that_is_rejected_here_is_not_served_at_start(small, trials, elsewhere):
    elsewhere()
    trials.rejected.add("1")
    for _ in range(2):
        slot = registry_of(small).expect("default")
        with pytest.raises(ModelUnavailable, match="rejected in its trial: said so by the test"):
            slot.predict([[0.5]])
    assert trials.asked == [("default", "1")]


def test_a_version_that_is_rejected_leaves_the_old_one_serving(small, trials, elsewhere, caplog):
    registry = registry_of(small)
    slot = registry.expect("default")
    accept(small, "default", put(small, constant(8)))
    elsewhere()
    trials.rejected.add("2")
    for _ in range(3):
        registry.refresh()
    assert answer(slot) == [7.0] and trials.asked == [("default", "2")]
    assert "rejected in its trial" in caplog.text
    version = put(small, constant(9))
    ensure_accepted(small, "default", version, TrialLimits())
    small.activate("default", version, "better")
    registry.refresh()
    assert answer(slot) == [9.0]


def test_an_aliased_version_that_is_broken_does_not_take_the_active_one_down(small):
    accept(small, "default", put(small, constant(8)))
    small.alias("default", "old", "1")
    (small.root / "default/1/model.joblib").write_bytes(b"broken")
    slot = registry_of(small).expect("default")
    assert isinstance(slot.current, Predictor) and answer(slot) == [8.0]


def test_a_model_that_is_broken_hides_no_other(small, caplog):
    registry = registry_of(small)
    registry.expect("default")
    accept(small, "other", put(small, constant(5), "other"))
    accept(small, "default", put(small, constant(8)))
    (small.root / "default/2/model.joblib").write_bytes(b"broken")
    registry.refresh()
    assert answer(registry.slots["other"]) == [5.0] and answer(registry.slots["default"]) == [7.0]
    assert "models/default/2/model.joblib" in caplog.text


def test_what_could_not_be_shown_is_not_tried_again_until_something_changes(small, caplog):
    registry = registry_of(small)
    registry.expect("default")
    accept(small, "default", put(small, constant(8)))
    model = small.root / "default/2/model.joblib"
    content = model.read_bytes()
    model.write_bytes(b"broken")
    for _ in range(3):
        registry.refresh()
    assert caplog.text.count("model.joblib") == 1
    model.write_bytes(content)
    accept(small, "default", "2")
    registry.refresh()
    assert answer(registry.slots["default"]) == [8.0]


def test_an_active_version_that_is_gone(small):
    (small.root / "default/1").rename(small.root / "default/5")
    slot = registry_of(small).expect("default")
    with pytest.raises(ModelUnavailable, match=r"models/default/state\.json: it names version 1, which is gone"):
        slot.predict([[0.5]])


class Clock:
    """A clock that a test turns."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_what_could_not_be_shown_is_tried_again_after_a_while(small, caplog, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("flaskml.hot_reload.registry.time", clock)
    registry = registry_of(small)
    registry.expect("default")
    accept(small, "default", put(small, constant(8)))
    model = small.root / "default/2/model.joblib"
    content = model.read_bytes()
    model.write_bytes(b"broken")
    waits = []
    for _ in range(6):
        registry.refresh()
        waits.append(registry.failures["default"].again - clock.now)
        clock.now = registry.failures["default"].again
    assert waits == [5, 10, 20, 40, 60, 60] and caplog.text.count("model.joblib") == 1
    model.write_bytes(content)
    clock.now -= 1
    seen = registry.look()
    clock.now += 1
    assert registry.look() != seen, "a watcher would never look again"
    registry.refresh()
    assert answer(registry.slots["default"]) == [8.0] and not registry.failures


def test_a_model_that_is_removed_goes_on_answering_until_another_takes_its_name(small):
    registry = registry_of(small)
    slot = registry.expect("default")
    shutil.rmtree(small.root / "default")
    registry.refresh()
    assert answer(slot) == [7.0]
    accept(small, "default", put(small, constant(8)))
    registry.refresh()
    assert answer(slot) == [8.0] and slot.serving.version == "1"


def test_a_model_that_was_never_active_answers_under_its_alias(small):
    accept(small, "shadow", put(small, constant(9), "shadow"), active=False)
    small.alias("shadow", "next", "1")
    registry = registry_of(small)
    registry.refresh()
    slot = registry.slots["shadow"]
    predictor = slot.version("1")
    assert predictor.predict(predictor.parser.parse_table([[0.5]])).tolist() == [9.0]
    with pytest.raises(NoActiveVersion, match="flask models activate shadow"):
        slot.predict([[0.5]])


def test_one_change_at_a_time(small):
    registry = registry_of(small)
    with registry.changing(), pytest.raises(Busy), registry.changing():
        pass
    with registry.changing():
        pass


class ReadOnly(Disk):
    """The disk of a folder that is mounted read-only, or of a user who may not write there."""

    def __init__(self, number):
        self.number = number

    def _refuse(self, *_, **__):
        raise OSError(self.number, os.strerror(self.number))

    lock = create = rename = replace = _refuse


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("tried", [True, False])
def test_a_store_that_cannot_be_written_serves(small, trials, elsewhere, number, tried):
    if not tried:
        elsewhere()
    before = (small.root / "default/state.json").read_bytes()
    store = ModelStore(small.instance_path, ReadOnly(number))
    assert [answer(registry_of(store).expect("default")) for _ in range(2)] == [[7.0], [7.0]]
    assert len(trials.asked) == (0 if tried else 2)  # Where no verdict can be kept, each start tries anew.
    assert (small.root / "default/state.json").read_bytes() == before


def test_an_app_serves_from_a_folder_that_cannot_be_written(small, monkeypatch):
    for operation in ("make_directory", "lock", "create", "rename", "replace"):
        monkeypatch.setattr(Disk, operation, ReadOnly(errno.EROFS)._refuse)
    app = create_app({"INSTANCE_PATH": small.instance_path})
    client = app.test_client()
    assert client.post("/predict", json={"x": 0.5}).json["prediction"] == 7.0
    assert client.get("/readyz").status_code == 200
    stop(app)
    assert not (small.instance_path / "run").exists()


def test_a_rejected_version_is_not_served_from_a_store_that_cannot_be_written(small, trials, elsewhere):
    elsewhere()
    trials.rejected.add("1")
    slot = registry_of(ModelStore(small.instance_path, ReadOnly(errno.EROFS))).expect("default")
    with pytest.raises(ModelUnavailable, match="rejected"):
        slot.predict([[0.5]])


@pytest.mark.parametrize("file", ["model.joblib", "golden.json", "manifest.json", "manifest.sig", "../state.json"])
def test_nothing_is_unpickled_from_a_store_that_was_changed(tmp_path, trials, elsewhere, file):
    store, nest = canary_store(tmp_path)
    elsewhere()
    path = store.root / "default/1" / file
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    slot = registry_of(store).expect("default")
    with pytest.raises(ModelUnavailable, match=r"models/default/"):
        slot.predict([[0.5]])
    assert not nest.exists() and not trials.asked


def test_the_canary_sings_from_a_store_that_was_not_changed(tmp_path, trials, elsewhere):
    store, nest = canary_store(tmp_path)
    elsewhere()
    registry_of(store).expect("default")
    assert nest.exists() and trials.asked
