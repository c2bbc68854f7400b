"""Who could have changed a file."""

import logging
import os
import shutil

import pytest

from flaskml.errors import DamagedFile
from flaskml.store.model_store import ModelStore
from tests.support.stores import canary_store

PLACES = ["", "default", "default/1", "default/1/model.joblib", "default/1/manifest.json", "default/1/golden.json"]


def disown(path, monkeypatch):
    """Lets the path belong to somebody else than this process."""
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
    "group": (lambda path, _: path.chmod(path.stat().st_mode | 0o020), PLACES, "others may write to it; chmod go-w"),
    "all": (lambda path, _: path.chmod(path.stat().st_mode | 0o002), PLACES, "others may write to it; chmod go-w"),
    "owner": (disown, PLACES, "it belongs to another user"),
    "link": (link_symbolically, PLACES[1:], "it is neither a file nor a folder"),
    "hard link": (link_hard, PLACES[3:], "it has a second name, a hard link"),
    "pipe": (replace_by_pipe, PLACES[3:], "it is neither a file nor a folder"),
}


@pytest.mark.parametrize(
    ("fault", "place"), [(fault, place) for fault, (_, places, _) in FAULTS.items() for place in places]
)
def test_what_others_could_have_changed_is_named_and_not_unpickled(tmp_path, monkeypatch, fault, place):
    store, nest = canary_store(tmp_path)
    spoil, _, sentence = FAULTS[fault]
    spoil(store.root / place, monkeypatch)
    for call in (store.load, store.check):
        with pytest.raises(DamagedFile) as refused:
            call("default", "1")
        detail = refused.value.detail
        assert sentence in detail and "STORE_CHECKS" in detail
        if os.geteuid() == 0 or fault != "owner":
            assert detail.startswith(f"models/{place}:" if place else "models:")
    assert not nest.exists()


def test_where_it_is_only_a_warning_the_version_loads(tmp_path, caplog):
    store, nest = canary_store(tmp_path)
    (store.root / "default/1/golden.json").chmod(0o666)
    with caplog.at_level(logging.WARNING):
        ModelStore(store.instance_path, strict=False).load("default", "1")
    assert "models/default/1/golden.json: others may write to it" in caplog.text
    assert nest.exists()


def test_a_warning_loosens_nothing_else(tmp_path):
    store, nest = canary_store(tmp_path)
    model = store.root / "default/1/model.joblib"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedFile, match="SHA-256"):
        ModelStore(store.instance_path, strict=False).load("default", "1")
    assert not nest.exists()


def test_what_lies_above_the_models_is_the_owners_affair(tmp_path):
    store, nest = canary_store(tmp_path)
    tmp_path.chmod(0o777)
    store.instance_path.chmod(0o777)
    store.load("default", "1")
    assert nest.exists()


def test_the_path_to_the_store_may_be_a_link(tmp_path):
    store, nest = canary_store(tmp_path)
    (tmp_path / "current").symlink_to(store.instance_path)
    ModelStore(tmp_path / "current").load("default", "1")
    assert nest.exists()


def test_what_is_written_passes_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        store, _ = canary_store(tmp_path)
    finally:
        os.umask(before)
    assert store.check("default", "1").version == "1"


def test_other_versions_do_not_matter(tmp_path):
    store, nest = canary_store(tmp_path)
    shutil.copytree(store.root / "default/1", store.root / "default/2")
    (store.root / "default/2").chmod(0o777)
    store.load("default", "1")
    assert nest.exists()
