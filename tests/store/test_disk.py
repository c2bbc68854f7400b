"""File operations of the store: permissions, symbolic links, atomic replace, locks and digests."""

import os
import stat
import threading

import pytest

from flaskml.store.disk import STAGING_PREFIX, Disk, lock_file

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and links")


@pytest.fixture
def disk():
    return Disk()


def test_create_refuses_an_existing_file(disk, tmp_path):
    with disk.create(tmp_path / "a") as file:
        file.write(b"one")
    assert disk.read(tmp_path / "a") == b"one"
    with pytest.raises(FileExistsError), disk.create(tmp_path / "a"):
        pass


@posix
def test_new_files_and_folders_are_accessible_to_the_owner_only(disk, tmp_path):
    former = os.umask(0)
    try:
        disk.make_directory(tmp_path / "a/b")
        with disk.create(tmp_path / "a/b/c"):
            pass
    finally:
        os.umask(former)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o700, 0o700, 0o600]


@posix
def test_symbolic_links_are_not_followed(disk, tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        disk.read(tmp_path / "link")
    with pytest.raises(OSError), disk.create(tmp_path / "link"):
        pass


def test_replace_writes_the_new_content(disk, tmp_path):
    disk.replace(tmp_path / "a", b"old")
    disk.replace(tmp_path / "a", b"new")
    assert disk.read(tmp_path / "a") == b"new"
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_a_failed_replace_keeps_the_old_content(tmp_path):
    class Full(Disk):
        def create(self, path):
            raise OSError(28, "No space left on device")

    Disk().replace(tmp_path / "a", b"old")
    with pytest.raises(OSError):
        Full().replace(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert not list(tmp_path.glob(f"{STAGING_PREFIX}*"))


def test_rename_refuses_a_directory_with_content(disk, tmp_path):
    disk.make_directory(tmp_path / "a")
    disk.make_directory(tmp_path / "b/c")
    with pytest.raises(OSError):
        disk.rename(tmp_path / "a", tmp_path / "b")


def test_a_lock_is_exclusive(disk, tmp_path):
    order = []
    with disk.lock(tmp_path / "lock"):
        thread = threading.Thread(target=lambda: _append_second(disk, tmp_path / "lock", order))
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def _append_second(disk, path, order):
    with disk.lock(path):
        order.append("second")


def test_lock_file_does_not_wait(tmp_path):
    with (tmp_path / "a").open("wb") as holder, (tmp_path / "a").open("rb") as other:
        assert lock_file(holder)
        assert not lock_file(other, shared=True)
    with (tmp_path / "a").open("rb") as one, (tmp_path / "a").open("rb") as two:
        assert lock_file(one, shared=True) and lock_file(two, shared=True)


def test_digest_returns_size_and_sha256(disk, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    size, digest = disk.digest(tmp_path / "a")
    assert size == 3 and digest.startswith("ba7816bf")
