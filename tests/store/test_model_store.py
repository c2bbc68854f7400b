"""The model store: names, versions, publication, and damaged files."""

import importlib
import pickle
import shutil
import sys
import threading

import pytest
from sklearn.dummy import DummyRegressor

from flaskml.errors import (
    DamagedFile,
    InvalidName,
    ModelNotFound,
    NoActiveVersion,
    StorageFailed,
    VersionNotFound,
)
from flaskml.store.disk import STAGING_PREFIX, Disk
from flaskml.store.manifest import VersionFacts
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents
from tests.support.stores import Canary, accept, load_active


@pytest.fixture
def publish(store):
    manifest = store.manifest("default", "1")
    facts = VersionFacts(**{name: getattr(manifest, name) for name in VersionFacts.model_fields})
    golden = store.golden_rows(manifest)

    def publish(store, name="default", estimator=None, *, active=True):
        estimator = estimator or DummyRegressor().fit([[0]], [1])
        version = store.publish(name, facts, VersionContents(estimator, golden)).version
        accept(store, name, version, active=active)
        return version

    return publish


def test_the_store_lists_models_versions_and_the_active_version(store):
    assert store.names() == ["default", "homes"]
    assert store.versions("default") == ["1"]
    assert store.state("default").active == "1"
    assert type(load_active(store, "default").estimator).__name__ == "LinearRegression"


def test_version_numbers_increase(store, publish):
    assert [publish(store) for _ in range(11)] == [str(number) for number in range(2, 13)]
    assert store.versions("default")[-2:] == ["11", "12"]
    assert store.state("default").active == "12"
    assert [entry.version for entry in store.state("default").history][-2:] == ["11", "12"]


def test_concurrent_publishers_get_different_versions(store, publish):
    versions = []
    threads = [threading.Thread(target=lambda: versions.append(publish(store))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(versions, key=int) == [str(number) for number in range(2, 10)]
    assert len(store.state("default").history) == 9


@pytest.mark.parametrize("name", ["..", "a/b", "", "A", "a" * 64, "é", "a\n", ".a", "con/", "nul\x00", "absent"])
def test_invalid_and_unknown_names_are_not_found(store, publish, name):
    for call in (store.versions, store.state):
        with pytest.raises(ModelNotFound):
            call(name)
    with pytest.raises(NoActiveVersion if name == "absent" else ModelNotFound):
        load_active(store, name)
    if name != "absent":
        with pytest.raises(InvalidName, match="is not a valid model name"):
            publish(store, name)


@pytest.mark.parametrize("version", ["0", "01", "2", "../1", "1\n", "٣", "", "9" * 11, "-1"])
def test_invalid_and_unknown_versions_are_not_found(store, version):
    with pytest.raises(VersionNotFound):
        store.load("default", version)


def test_foreign_files_and_folders_are_ignored(store):
    (store.root / "Not A Model").mkdir()
    (store.root / "empty").mkdir()
    (store.root / "file").write_text("x")
    (store.root / "default/notes").mkdir()
    assert store.names() == ["default", "homes"] and store.versions("default") == ["1"]


@pytest.mark.parametrize("change", ["swapped", "appended", "flipped", "emptied", "linked", "gone", "folder"])
def test_the_digest_is_verified_before_unpickling(store, tmp_path, change):
    marker = tmp_path / "canary"
    canary = pickle.dumps(Canary(str(marker)))
    model = store.root / "default/1/model.joblib"
    content = model.read_bytes()
    if change == "linked":
        shutil.copy(model, tmp_path / "copy")
        model.unlink()
        model.symlink_to(tmp_path / "copy")
    elif change in ("gone", "folder"):
        model.unlink()
        if change == "folder":
            model.mkdir()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        padded = canary + bytes(len(content) - len(canary)) if len(canary) < len(content) else canary
        changed = {"swapped": padded, "appended": content + canary, "flipped": flipped, "emptied": b""}
        model.write_bytes(changed[change])
    with pytest.raises(DamagedFile, match=r"models/default/1/model\.joblib"):
        load_active(store, "default")
    assert not marker.exists()


def test_unpickling_the_canary_makes_its_folder(tmp_path):
    pickle.loads(pickle.dumps(Canary(str(tmp_path / "canary"))))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 10_000, b"\xff", b'{"format": 1, "active": 5}'],
    ids=["empty", "bare", "deep", "no text", "wrong"],
)
@pytest.mark.parametrize("file", ["state.json", "1/manifest.json", "1/manifest.sig"])
def test_invalid_state_manifest_and_signature_files_are_reported(store, content, file):
    (store.root / "default" / file).write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"models/default/{file.replace('.sig', '.json')}"):
        load_active(store, "default")


def test_a_version_under_another_number_is_rejected(store):
    shutil.copytree(store.root / "default/1", store.root / "default/2")
    with pytest.raises(DamagedFile, match="belongs to default version 1"):
        store.load("default", "2")


def test_the_error_names_a_missing_module(store, publish, tmp_path, monkeypatch):
    (tmp_path / "passing.py").write_text("class Estimator:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import passing

    publish(store, estimator=passing.Estimator())
    del sys.modules["passing"]
    (tmp_path / "passing.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(DamagedFile, match="ModuleNotFoundError passing"):
        load_active(store, "default")


class FullDisk(Disk):
    """A disk that is full at the operation with the given number; `count` is the number of operations so far."""

    def __init__(self, fails_at=0):
        self.fails_at = fails_at
        self.count = 0

    def _step(self):
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(28, "No space left on device")

    def make_directory(self, path):
        self._step()
        super().make_directory(path)

    def create(self, path):
        self._step()
        return super().create(path)

    def rename(self, source, target):
        self._step()
        super().rename(source, target)

    def replace(self, path, content):
        self._step()
        super().replace(path, content)

    def sync_directory(self, path):
        self._step()
        super().sync_directory(path)


def test_a_full_disk_at_any_operation_keeps_the_active_version(store, publish):
    disk = FullDisk()
    publish(ModelStore(store.instance_path, disk))
    assert disk.count > 8
    for number in range(1, disk.count + 1):
        active = store.state("default").active
        try:
            publish(ModelStore(store.instance_path, FullDisk(number)))
        except StorageFailed as error:
            assert error.status == 507 and "No space left" in error.detail
        assert int(load_active(store, "default").manifest.version) >= int(active)
        assert not [entry for entry in (store.root / "default").iterdir() if entry.name.startswith(STAGING_PREFIX)]
    assert publish(store) == store.state("default").active


def test_leftovers_of_a_dead_publisher_are_removed(store, publish):
    leftover = store.root / "default" / f"{STAGING_PREFIX}{'0123' * 4}"
    leftover.mkdir()
    (leftover / "model.joblib").write_bytes(b"half")
    (store.root / "default" / f"{STAGING_PREFIX}{'4567' * 4}").write_bytes(b"half")
    publish(store)
    assert not list((store.root / "default").glob(f"{STAGING_PREFIX}*"))
