"""The roster of live processes."""

import subprocess
import sys

import pytest

from flaskml.processes import Roster
from tests.conftest import CHECKOUT

MEMBER = """
import sys
from pathlib import Path
from flaskml.processes import Roster
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


def test_leaving(roster):
    member = roster.enter()
    roster.leave()
    assert not roster.is_alive(member)
