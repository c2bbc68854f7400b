"""The roster of live processes."""

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


def test_entering_twice_is_entering_once(roster):
    assert roster.enter() == roster.enter()
    assert roster.is_alive(roster.enter()) and not roster.is_alive("absent")


def test_a_killed_process_is_dead_to_all(roster, tmp_path):
    command = [sys.executable, "-c", MEMBER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as process:
        member = process.stdout.readline().strip()
        left = tmp_path / "run" / f"{member}.upload.csv"
        left.write_text("x")
        assert roster.is_alive(member)
        roster.enter()
        assert left.exists()
        process.kill()
    assert not roster.is_alive(member)
    newcomer = Roster(tmp_path)
    newcomer.enter()
    assert not left.exists() and roster.is_alive(roster.enter()) and newcomer.is_alive(roster.enter())
    newcomer.leave()


class FullDisk(Disk):
    """A disk on which no folder can be made."""

    def make_directory(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def watcher_of(roster, marks):
    return Watcher(roster, look=lambda: dict(marks), follow=lambda: dict(marks))


def test_a_process_that_finds_the_disk_full_serves_without_being_in_the_roster(tmp_path):
    watcher = watcher_of(Roster(tmp_path, FullDisk()), {"default": "a"})
    watcher.join()
    watcher.stop()
    assert not (tmp_path / "run").exists()


def test_what_could_not_be_told_is_told_at_the_next_look(roster, monkeypatch):
    marks = {"default": "a"}
    watcher = watcher_of(roster, marks)
    roster.enter()
    watcher.compare(always=True)

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    marks["default"] = "b"
    with monkeypatch.context() as patch:
        patch.setattr(roster, "tell", fail)
        watcher.compare()
    (member,) = roster.members()
    assert member.revisions == {"default": "a"}
    watcher.compare()
    (member,) = roster.members()
    assert member.revisions == {"default": "b"}


def test_a_process_lags_until_it_shows_the_state_or_a_later_one(roster):
    roster.enter()
    for told, current, late in (
        ("a", "b", True),
        ("b", "b", False),
        ("c", "c", False),
        ("b", "c", False),
        ("a", "c", True),
    ):
        roster.tell({"default": told})
        found = roster.lagging("default", "b", lambda current=current: current, 0)
        assert bool(found) is late, (told, current)


def test_leaving(roster):
    member = roster.enter()
    roster.leave()
    assert not roster.is_alive(member)
