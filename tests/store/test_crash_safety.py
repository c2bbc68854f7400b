"""The store after faults: full disks, broken disks, killed processes and power cuts, at every operation."""

import os
import re
import shutil
import signal
from errno import EIO, EMFILE, ENOSPC, errorcode
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("fcntl", reason="processes are forked and killed as on Linux")

from flaskml.errors import FlaskmlError
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore
from flaskml.store.signing import KEY_FILE
from tests.support.checkout import run_python
from tests.support.crash_harness import (
    COMMANDS,
    NAME,
    REFUSED,
    Failing,
    PowerCut,
    between,
    build,
    content_of,
    delete,
    intercepted,
    kill,
    leftovers,
    look,
    make_store,
    publish,
    quickly,
    run,
    trace,
    traced_calls,
    visible,
)
from tests.support.stores import accept

pytestmark = pytest.mark.thorough

ERRORS = pytest.mark.parametrize("error", [ENOSPC, EIO, EMFILE], ids=errorcode.get)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder for stores, in memory where there is one: thousands of them are made and removed."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("ground")
    else:
        with TemporaryDirectory(dir=memory) as folder:
            yield Path(folder)


@pytest.fixture(scope="module")
def bases(ground):
    """The instance folders that commands start from: one with versions, one that is new, one with only a key."""
    with quickly(ground):
        make_store(ground / "full")
    full = content_of(ground / "full")
    key = frozenset((name, entry) for name, entry in full if name == KEY_FILE)
    return {"full": full, "keyed": key, "new": frozenset()}


@pytest.fixture(scope="module")
def expected(bases, ground):
    """What is found before a command and after it, by base and command."""
    found = {}
    for start, name in CASES:
        instance = build(bases[start], ground / "instance")
        before = look(instance)
        with quickly(instance):
            COMMANDS[name](ModelStore(instance))
        found[start, name] = before, look(instance)
    return found


CASES = [("new", "publish"), *(("full", name) for name in COMMANDS)]
EVERY_CASE = pytest.mark.parametrize(("start", "name"), CASES)


def same(found, other):
    """Whether two runs of a command came to the same; they differ in when and in how often."""
    return (found.versions, found.state.active, found.state.aliases) == (
        other.versions,
        other.state.active,
        other.state.aliases,
    )


def survive(instance, name, before, after, *, done=False):
    """A fresh store is whole, and the command can be given again and then has its effect."""
    found = look(instance)
    assert between(found, before, after)
    assert not done or same(found, after)
    with quickly(instance):
        COMMANDS[name](ModelStore(instance))
    again = look(instance)
    with ModelStore(instance).writing(NAME):  # Whoever writes next clears up.
        assert leftovers(instance) == []
    if name == "publish":
        assert len(again.versions) == len(found.versions) + 1 and again.highest > found.highest
    elif name == "rollback":
        assert again.state.active in ("2", "3")
    else:
        assert same(again, after)


@ERRORS
@pytest.mark.parametrize(
    "lasting",
    [False, pytest.param(True, marks=pytest.mark.gauntlet)],
    ids=lambda lasting: "lasting" if lasting else "once",
)
@EVERY_CASE
def test_an_error_at_any_operation(bases, expected, ground, start, name, error, lasting):
    for number in count(1):
        fault = Failing(error, number, lasting)
        instance = build(bases[start], ground / "instance")
        refused = None
        try:
            run(instance, name, fault)
        except FlaskmlError as raised:
            refused = raised
        if fault.failed is None:
            break
        assert refused is None or str(ground) not in refused.detail
        survive(instance, name, *expected[start, name], done=refused is None)
    assert number > 3


@EVERY_CASE
def test_a_kill_at_any_operation(bases, expected, ground, start, name):
    for number in count(1):
        instance = build(bases[start], ground / "instance")
        dead = kill(instance, name, number)
        survive(instance, name, *expected[start, name], done=not dead)
        if not dead:
            break
    assert number > FEWEST[name]


FEWEST = {"publish": 15, "delete": 10, "clean": 10}
FEWEST = {name: FEWEST.get(name, 4) for name in COMMANDS}
"""How many operations a command has at least: a harness that sees none would find nothing."""


@pytest.mark.gauntlet
@EVERY_CASE
def test_a_kill_of_the_one_who_comes_after_the_dead(bases, expected, ground, start, name):
    for first in count(1):
        for second in count(1):
            instance = build(bases[start], ground / "instance")
            dead = kill(instance, name, first)
            middle = look(instance)
            dead_again = kill(instance, name, second)
            found = look(instance)
            assert found.highest >= middle.highest and found.state.generation >= middle.state.generation
            with quickly(instance):
                COMMANDS[name](ModelStore(instance))
            assert look(instance).highest >= expected[start, name][1].highest
            if not dead_again:
                break
        if not dead:
            break


LOOK = """
import sys
from pathlib import Path
from tests.support.crash_harness import look
for path in sys.argv[1:]:
    print(sorted(look(Path(path)).versions), look(Path(path)).state.active)
"""


def test_a_fresh_process_finds_the_same(bases, expected, ground, tmp_path):
    instances, found = [], []
    for start, name in CASES:
        for number in (2, FEWEST[name]):
            instances.append(build(bases[start], tmp_path / f"{start}-{name}-{number}"))
            assert kill(instances[-1], name, number)
            found.append(look(instances[-1]))
    told = run_python(LOOK, *instances).splitlines()
    assert told == [f"{sorted(one.versions)} {one.state.active}" for one in found]


class Careless(Disk):
    """A disk that replaces a file in its place."""

    def replace(self, path, content):
        path.unlink(missing_ok=True)
        with self.create(path) as file:
            file.write(content)


class Hasty(Disk):
    """A disk that gives a directory its name before it is filled."""

    def rename(self, source, target):
        self.make_directory(target)
        for file in sorted(source.iterdir()):
            os.rename(file, target / file.name)
        self.sync_directory(target.parent)
        os.rmdir(source)


@pytest.mark.parametrize(("disk", "name"), [(Careless, "activate"), (Hasty, "publish")])
def test_a_store_that_does_not_survive_is_found_out(bases, expected, ground, disk, name):
    broken = 0
    for number in count(1):
        instance = build(bases["full"], ground / "instance")
        dead = kill(instance, name, number, disk())
        try:
            assert between(look(instance), *expected["full", name])
        except (AssertionError, FlaskmlError):
            broken += 1
        if not dead:
            break
    assert broken


@pytest.mark.parametrize("name", ["activate", "alias"])
def test_a_version_that_is_deleted_meanwhile_is_not_named(bases, ground, name):
    instance = build(bases["full"], ground / "instance")
    meanwhile = []

    def step(call, perform):
        if call.name == "flock" and not meanwhile:
            meanwhile.append(call)
            delete(ModelStore(instance))
        return perform()

    with intercepted(instance, step), pytest.raises(FlaskmlError):
        COMMANDS[name](ModelStore(instance))
    assert meanwhile
    assert look(instance).versions == {"1", "2", "3"}


def cut_power(bases, ground, start, name, skipped=0):
    """Gives a command and records it; also what was found before and after."""
    root = build(frozenset(), ground / "recorded")
    instance = root / "instance"
    if start != "absent":
        build(bases[start], instance)
    before = look(instance)
    cut = PowerCut(root, skipped)
    with intercepted(root, cut):
        COMMANDS[name](ModelStore(instance))
    cut.acknowledge()
    return cut, before, look(instance)


def faults(states, before, after, ground):
    """What is wrong with each of the states that a power cut may leave."""
    for content, acknowledged in states:
        instance = build(content, ground / "cut") / "instance"
        try:
            found = look(instance)
            assert found == after if acknowledged else between(found, before, after)
            with quickly(instance):
                version = publish(ModelStore(instance)).version
            assert int(version) > max(before.highest, after.highest if acknowledged else 0), "a number is used twice"
            assert look(instance).state == found.state
        except (AssertionError, FlaskmlError) as fault:
            yield fault


# Where the key is made as well, its sync covers that of a folder made before; so it is there in one case.
POWER_CASES = [("absent", "publish"), ("keyed", "publish"), *(("full", name) for name in COMMANDS)]


@pytest.mark.parametrize(("start", "name"), POWER_CASES)
def test_a_power_cut_at_any_moment(bases, ground, start, name):
    cut, before, after = cut_power(bases, ground, start, name)
    assert list(faults(cut.states, before, after, ground)) == []
    assert len(cut.states) > 2 * len(cut.syncs)


def test_every_sync_is_needed(bases, ground):
    places, needed = set(), set()
    for start, name in POWER_CASES:
        for number in count(1):
            cut, before, after = cut_power(bases, ground, start, name, skipped=number)
            if number > len(cut.syncs):
                break
            # What is wrong shows late and in what can be seen, so these states are looked at first, and no others.
            states = {(visible(content), acknowledged): None for content, acknowledged in reversed(cut.states)}
            places.add(cut.syncs[number - 1])
            if any(faults(states, before, after, ground)):
                needed.add(cut.syncs[number - 1])
    assert len(needed) > 8
    assert places - needed == set()


def test_what_a_power_cut_leaves_of_a_file_and_its_name(ground):
    root = build(frozenset({("a", b"old")}), ground / "recorded")
    cut = PowerCut(root)
    with intercepted(root, cut), Disk().create(root / "b") as file:
        file.write(b"new!")
    assert {content for content, _ in cut.states} == {
        frozenset({("a", b"old"), *written})
        for written in [(), *([("b", content)] for content in (b"", b"ne", bytes(4), b"new!"))]
    }
    with intercepted(root, cut):
        os.replace(root / "b", root / "a")
    old, new = ("a", b"old"), ("b", b"new!")
    assert set(cut.tree.outcomes()) == {frozenset(left) for left in ([old], [old, new], [("a", b"new!")])}
    with intercepted(root, cut):
        Disk().sync_directory(root)
    assert list(cut.tree.outcomes()) == [frozenset({("a", b"new!")})]


SYSTEM_CALLS = 7
"""How many of the system's calls are hit in each way, spread over all, where not every one is."""

CHANGES = r"O_CREAT|^\d+ +(write|fsync|mkdir|rename|unlink|rmdir)"
ANY = r"^\d+ +(openat|read|close|write|fsync|mkdir|rename|unlink|rmdir|getdents|newfstatat|statx)"
EVERY_HIT = pytest.mark.parametrize(
    ("how", "which"),
    [("signal=KILL", CHANGES), ("error=ENOSPC", CHANGES), ("error=EIO", ANY), ("error=EMFILE", r"^\d+ +openat")],
    ids=["KILL", "ENOSPC", "EIO", "EMFILE"],
)


def publish_and_activate(instance, disk=None):
    store = ModelStore(instance, disk)
    accept(store, NAME, publish(store).version)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def calls(bases, ground):
    """The calls that the system sees of a publication and an activation."""
    instance, log = build(bases["full"], ground / "instance"), ground / "log"
    assert trace(publish_and_activate, instance, options=[], log=log) == 0
    return list(traced_calls(log, instance))


def hit(calls, bases, ground, how, which, most=None, disk=None):
    """Does to the chosen calls, one in each run, what strace is told; yields what is found after it."""
    chosen = [(name, number) for name, number, line in calls if re.search(which, line)]
    for name, number in chosen[:: max(1, len(chosen) // most) if most else 1]:
        instance = build(bases["full"], ground / "instance")
        options = ["-e", f"trace={name}", "-e", f"inject={name}:{how}:when={number}"]
        end = trace(publish_and_activate, instance, disk, options=options)
        assert end in ((-signal.SIGKILL,) if "KILL" in how else (0, REFUSED)), f"{name} {number} ended with {end}"
        yield instance, end


def check_calls(calls, bases, ground, how, which, most=None):
    for instance, end in hit(calls, bases, ground, how, which, most):
        found = look(instance)
        assert found.state.active == "5" if end == 0 else found.state.active in ("3", "5")
        with quickly(instance):
            publish_and_activate(instance)
        again = look(instance)
        assert int(again.state.active) == again.highest > found.highest


@needs_strace
@EVERY_HIT
def test_calls_of_the_system_fail_or_kill(calls, bases, ground, how, which):
    check_calls(calls, bases, ground, how, which, SYSTEM_CALLS)


@needs_strace
@pytest.mark.gauntlet
@EVERY_HIT
def test_every_call_of_the_system_fails_or_kills(calls, bases, ground, how, which):
    check_calls(calls, bases, ground, how, which)


@needs_strace
def test_strace_finds_out_a_store_that_does_not_survive(bases, ground, tmp_path):
    instance, log = build(bases["full"], ground / "instance"), tmp_path / "log"
    assert trace(publish_and_activate, instance, Careless(), options=[], log=log) == 0
    calls = [call for call in traced_calls(log, instance) if "state.json" in call[2]]
    found = [look_or_none(left) for left, _ in hit(calls, bases, ground, "signal=KILL", CHANGES, disk=Careless())]
    assert [one for one in found if one is None or one.state.active not in ("3", "5")]


def look_or_none(instance):
    try:
        return look(instance)
    except (AssertionError, FlaskmlError):
        return None
