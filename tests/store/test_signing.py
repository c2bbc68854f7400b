"""The signing key of an installation, and the HMAC signatures of manifests."""

import shutil
import stat
import threading

import pytest

from flaskml.errors import DamagedFile
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore
from flaskml.store.signing import KEY_BYTES, Signer
from tests.support.stores import canary_store, constant, put


@pytest.fixture
def path(tmp_path):
    return tmp_path / "instance/signing.key"


@pytest.fixture
def signer(path):
    return Signer(path, Disk())


def test_the_first_signature_creates_the_key_for_the_owner_only(signer, path):
    assert not signer.verify(b"content", b"")
    assert not path.parent.exists()
    signer.sign(b"content", new_key=True)
    assert len(path.read_bytes()) == KEY_BYTES and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_signature_is_valid_for_its_content_only(signer):
    signature = signer.sign(b"content", new_key=True)
    assert signer.verify(b"content", signature)
    for content, other in (
        (b"contend", signature),
        (b"content ", signature),
        (b"", signature),
        (b"content", signature[:-1]),
        (b"content", signature.upper()),
        (b"content", b"\xff" * 64),
        (b"content", b""),
    ):
        assert not signer.verify(content, other)


def test_all_processes_share_the_key(signer, path):
    assert Signer(path, Disk()).verify(b"content", signer.sign(b"content", new_key=True))
    assert signer.sign(b"content", new_key=True) == Signer(path, Disk()).sign(b"content", new_key=True)


def test_concurrent_first_signatures_create_one_key(path):
    signatures = []
    start = threading.Barrier(8)

    def sign():
        signer = Signer(path, Disk())
        start.wait()
        signatures.append(signer.sign(b"content", new_key=True))

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signatures) == 8 and set(signatures) == {Signer(path, Disk()).sign(b"content", new_key=True)}


def test_a_signature_by_another_key_is_invalid(signer, tmp_path):
    assert not Signer(tmp_path / "other.key", Disk()).verify(b"content", signer.sign(b"content", new_key=True))
    other = Signer(tmp_path / "other.key", Disk())
    other.sign(b"", new_key=True)
    assert not other.verify(b"content", signer.sign(b"content", new_key=True))


@pytest.mark.parametrize("content", [b"", b"short", b"x" * (KEY_BYTES + 1)])
def test_an_invalid_key_file_is_reported_and_not_replaced(signer, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    for call in (lambda content: signer.sign(content, new_key=True), lambda content: signer.verify(content, b"")):
        with pytest.raises(DamagedFile, match=r"signing\.key: it is not a signing key"):
            call(b"content")
    assert path.read_bytes() == content


def test_an_unreadable_key_file_is_reported_and_not_replaced(signer, path):
    path.mkdir(parents=True)
    for call in (lambda content: signer.sign(content, new_key=True), lambda content: signer.verify(content, b"")):
        with pytest.raises(DamagedFile, match=r"signing\.key"):
            call(b"content")


def test_a_missing_key_file_is_reported_and_not_replaced(signer, path):
    with pytest.raises(DamagedFile, match=r"signing\.key: it is missing"):
        signer.sign(b"content", new_key=False)
    assert not path.exists()


def test_publication_fails_without_the_key_of_the_store(tmp_path):
    store = ModelStore(tmp_path)
    put(store, constant(7))
    (tmp_path / "signing.key").unlink()
    with pytest.raises(DamagedFile, match="it is missing"):
        put(ModelStore(tmp_path), constant(8))
    assert store.versions("default") == ["1"] and not (tmp_path / "signing.key").exists()


def test_the_key_file_may_be_a_symbolic_link(signer, path, tmp_path):
    signature = signer.sign(b"content", new_key=True)
    (tmp_path / "secret").symlink_to(path)
    assert Signer(tmp_path / "secret", Disk()).verify(b"content", signature)


def test_a_copied_store_needs_its_key(tmp_path):
    store = ModelStore(tmp_path / "instance")
    put(store, constant(7))
    shutil.copytree(store.instance_path, tmp_path / "image")
    assert ModelStore(tmp_path / "image").load("default", "1").estimator.predict([[0]]) == [7]
    (tmp_path / "image/signing.key").unlink()
    with pytest.raises(DamagedFile, match=r"signature does not match signing\.key"):
        ModelStore(tmp_path / "image").load("default", "1")


def test_the_key_file_is_configurable(tmp_path):
    key = tmp_path / "secrets/key"
    store = ModelStore(tmp_path / "instance", key_file=key)
    put(store, constant(7))
    assert len(key.read_bytes()) == KEY_BYTES and not (tmp_path / "instance/signing.key").exists()
    assert ModelStore(tmp_path / "instance", key_file=key).check("default", "1")
    with pytest.raises(DamagedFile, match="signature"):
        ModelStore(tmp_path / "instance").check("default", "1")


@pytest.mark.parametrize("change", ["key missing", "other key", "manifest", "signature", "signature missing", "both"])
def test_the_signature_is_verified_before_unpickling(tmp_path, change):
    store, marker = canary_store(tmp_path)
    key, folder = store.instance_path / "signing.key", store.root / "default/1"
    manifest, signature = folder / "manifest.json", folder / "manifest.sig"
    changed = manifest.read_bytes().replace(b'"two rows"', b'"too rows"')
    if change == "key missing":
        key.unlink()
    elif change == "other key":
        key.write_bytes(bytes(KEY_BYTES))
    elif change == "manifest":
        manifest.write_bytes(changed)
    elif change == "signature":
        signature.write_bytes(bytes([signature.read_bytes()[0] ^ 1]) + signature.read_bytes()[1:])
    elif change == "signature missing":
        signature.unlink()
    else:
        manifest.write_bytes(changed)
        signature.write_bytes(Signer(tmp_path / "attacker.key", Disk()).sign(changed, new_key=True))
    for mapped in (True, False, None):
        with pytest.raises(DamagedFile, match=r"models/default/1/manifest\.(json|sig)"):
            ModelStore(store.instance_path).load("default", "1", mapped=mapped)
    assert not marker.exists()


def test_the_canary_is_unpickled_if_nothing_was_changed(tmp_path):
    store, marker = canary_store(tmp_path)
    ModelStore(store.instance_path).load("default", "1")
    assert marker.exists()
