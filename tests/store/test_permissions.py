"""Permission checks: owner, mode and links of the files of a version."""

import logging
import os
import shutil

import pytest

from flaskml.errors import DamagedFile
from flaskml.store.model_store import ModelStore
from tests.support.stores import canary_store

PATHS = ["", "default", "default/1", "default/1/model.joblib", "default/1/manifest.json", "default/1/golden.json"]


def disown(path, monkeypatch):
    """Make the path belong to another user than that of this process."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def link_symbolically(path, _):
    path.rename(path.parent / f"{path.name}.moved")
    path.symlink_to(path.parent / f"{path.name}.moved")


def link_hard(path, _):
    os.link(path, path.parent.parent.parent / "second")


def replace_by_pipe(path, _):
    path.unlink()
    os.mkfifo(path)


FAULTS = {
    "group": (lambda path, _: path.chmod(path.stat().st_mode | 0o020), PATHS, "others may write to it; run chmod go-w"),
    "all": (lambda path, _: path.chmod(path.stat().st_mode | 0o002), PATHS, "others may write to it; run chmod go-w"),
    "owner": (disown, PATHS, "it belongs to another user"),
    "link": (link_symbolically, PATHS[1:], "it is a symbolic link or a special file"),
    "hard link": (link_hard, PATHS[3:], "it has more than one hard link"),
    "pipe": (replace_by_pipe, PATHS[3:], "it is a symbolic link or a special file"),
}


@pytest.mark.parametrize(
    ("fault", "path"), [(fault, path) for fault, (_, paths, _) in FAULTS.items() for path in paths]
)
def test_a_file_that_others_could_change_is_named_and_not_unpickled(tmp_path, monkeypatch, fault, path):
    store, marker = canary_store(tmp_path)
    inject, _, sentence = FAULTS[fault]
    inject(store.root / path, monkeypatch)
    for call in (store.load, store.check):
        with pytest.raises(DamagedFile) as raised:
            call("default", "1")
        detail = raised.value.detail
        assert sentence in detail and "STORE_CHECKS" in detail
        if os.geteuid() == 0 or fault != "owner":
            assert detail.startswith(f"models/{path}:" if path else "models:")
    assert not marker.exists()


def test_without_strict_a_fault_is_logged_and_the_version_loads(tmp_path, caplog):
    store, marker = canary_store(tmp_path)
    (store.root / "default/1/golden.json").chmod(0o666)
    with caplog.at_level(logging.WARNING):
        ModelStore(store.instance_path, strict=False).load("default", "1")
    assert "models/default/1/golden.json: others may write to it" in caplog.text
    assert marker.exists()


def test_without_strict_the_digest_is_still_verified(tmp_path):
    store, marker = canary_store(tmp_path)
    model = store.root / "default/1/model.joblib"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedFile, match="SHA-256"):
        ModelStore(store.instance_path, strict=False).load("default", "1")
    assert not marker.exists()


def test_folders_above_models_are_not_checked(tmp_path):
    store, marker = canary_store(tmp_path)
    tmp_path.chmod(0o777)
    store.instance_path.chmod(0o777)
    store.load("default", "1")
    assert marker.exists()


def test_the_instance_folder_may_be_a_symbolic_link(tmp_path):
    store, marker = canary_store(tmp_path)
    (tmp_path / "current").symlink_to(store.instance_path)
    ModelStore(tmp_path / "current").load("default", "1")
    assert marker.exists()


def test_stored_files_pass_the_checks_with_any_umask(tmp_path):
    before = os.umask(0)
    try:
        store, _ = canary_store(tmp_path)
    finally:
        os.umask(before)
    assert store.check("default", "1").version == "1"


def test_permissions_of_other_versions_are_not_checked(tmp_path):
    store, marker = canary_store(tmp_path)
    shutil.copytree(store.root / "default/1", store.root / "default/2")
    (store.root / "default/2").chmod(0o777)
    store.load("default", "1")
    assert marker.exists()
