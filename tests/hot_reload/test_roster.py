"""The roster of live processes, and the watcher that announces what a process serves."""

import errno
import os
import subprocess
import sys

import pytest

from flaskml.hot_reload.roster import Roster
from flaskml.hot_reload.watcher import Watcher
from flaskml.store.disk import Disk
from tests.support.checkout import CHECKOUT

MEMBER = """
import sys
from pathlib import Path
from flaskml.hot_reload.roster import Roster
roster = Roster(Path(sys.argv[1]))
print(roster.enter(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def roster(tmp_path):
    roster = Roster(tmp_path)
    yield roster
    roster.leave()


def test_entering_is_idempotent(roster):
    assert roster.enter() == roster.enter()
    assert roster.is_alive(roster.enter()) and not roster.is_alive("absent")


def test_a_killed_process_is_dead_and_its_files_are_deleted(roster, tmp_path):
    command = [sys.executable, "-c", MEMBER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as process:
        member = process.stdout.readline().strip()
        leftover = tmp_path / "run" / f"{member}.upload.csv"
        leftover.write_text("x")
        assert roster.is_alive(member)
        roster.enter()
        assert leftover.exists()
        process.kill()
    assert not roster.is_alive(member)
    newcomer = Roster(tmp_path)
    newcomer.enter()
    assert not leftover.exists() and roster.is_alive(roster.enter()) and newcomer.is_alive(roster.enter())
    newcomer.leave()


class FullDisk(Disk):
    """A full disk: creating a folder fails."""

    def make_directory(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def watcher_of(roster, revisions):
    return Watcher(roster, fingerprint=lambda: dict(revisions), refresh=lambda: dict(revisions))


def test_a_process_on_a_full_disk_serves_without_the_roster(tmp_path):
    watcher = watcher_of(Roster(tmp_path, FullDisk()), {"default": "a"})
    watcher.ensure_started()
    watcher.stop()
    assert not (tmp_path / "run").exists()


def test_a_failed_announcement_is_repeated_at_the_next_poll(roster, monkeypatch):
    revisions = {"default": "a"}
    watcher = watcher_of(roster, revisions)
    roster.enter()
    watcher.sync(force=True)

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    revisions["default"] = "b"
    with monkeypatch.context() as patch:
        patch.setattr(roster, "announce", fail)
        watcher.sync()
    (member,) = roster.members()
    assert member.revisions == {"default": "a"}
    watcher.sync()
    (member,) = roster.members()
    assert member.revisions == {"default": "b"}


def test_a_process_lags_until_it_serves_the_state_or_a_later_one(roster):
    roster.enter()
    for announced, current, is_lagging in (
        ("a", "b", True),
        ("b", "b", False),
        ("c", "c", False),
        ("b", "c", False),
        ("a", "c", True),
    ):
        roster.announce({"default": announced})
        lagging = roster.lagging("default", "b", lambda current=current: current, 0)
        assert bool(lagging) is is_lagging, (announced, current)


def test_a_process_that_leaves_is_not_alive(roster):
    member = roster.enter()
    roster.leave()
    assert not roster.is_alive(member)
