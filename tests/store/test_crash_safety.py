"""Crash safety of the store: a full or failing disk, a killed process and a power cut, at every operation."""

import os
import re
import shutil
import signal
from errno import EIO, EMFILE, ENOSPC, errorcode
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("fcntl", reason="the tests fork and kill processes as on Linux")

from flaskml.errors import FlaskmlError
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore
from flaskml.store.signing import KEY_FILE
from tests.support.checkout import run_python
from tests.support.crash_harness import (
    COMMANDS,
    EXIT_FLASKML_ERROR,
    NAME,
    FailingCall,
    PowerCut,
    delete,
    inspect_store,
    intercepted,
    is_between,
    leftovers,
    make_store,
    publish,
    read_tree,
    run_and_kill,
    run_command,
    run_under_strace,
    traced_calls,
    without_fsync,
    without_staging,
    write_tree,
)
from tests.support.sampling import sampled
from tests.support.stores import accept

pytestmark = pytest.mark.thorough

ERRORS = pytest.mark.parametrize(
    "error", [ENOSPC, EIO, pytest.param(EMFILE, marks=pytest.mark.gauntlet)], ids=errorcode.get
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A folder for thousands of stores, in memory (/dev/shm) if possible, to save time."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path_factory.mktemp("scratch")
    else:
        with TemporaryDirectory(dir=memory) as folder:
            yield Path(folder)


@pytest.fixture(scope="module")
def start_contents(scratch):
    """The contents of the instance folders that commands start from: with versions, empty, and with only a key."""
    with without_fsync(scratch):
        make_store(scratch / "full")
    full = read_tree(scratch / "full")
    key = frozenset((name, entry) for name, entry in full if name == KEY_FILE)
    return {"full": full, "keyed": key, "new": frozenset()}


@pytest.fixture(scope="module")
def expected(start_contents, scratch):
    """The store contents before and after each command, by start content and command."""
    contents = {}
    for start, name in CASES:
        instance = write_tree(start_contents[start], scratch / "instance")
        before = inspect_store(instance)
        with without_fsync(instance):
            COMMANDS[name](ModelStore(instance))
        contents[start, name] = before, inspect_store(instance)
    return contents


CASES = [("new", "publish"), *(("full", name) for name in COMMANDS)]
EVERY_CASE = pytest.mark.parametrize(("start", "name"), sampled(CASES, 2))


def has_same_effect(contents, other):
    """Return whether two runs of a command had the same effect, apart from times and the number of changes."""
    return (contents.versions, contents.state.active, contents.state.aliases) == (
        other.versions,
        other.state.active,
        other.state.aliases,
    )


def check_recovery(instance, name, before, after, *, done=False):
    """Assert that a new `ModelStore` reads intact contents, and that the repeated command succeeds."""
    contents = inspect_store(instance)
    assert is_between(contents, before, after)
    assert not done or has_same_effect(contents, after)
    with without_fsync(instance):
        COMMANDS[name](ModelStore(instance))
    repeated = inspect_store(instance)
    with ModelStore(instance).locked(NAME):  # The next writer removes the leftovers.
        assert leftovers(instance) == []
    if name == "publish":
        assert len(repeated.versions) == len(contents.versions) + 1 and repeated.highest > contents.highest
    elif name == "rollback":
        assert repeated.state.active in ("2", "3")
    else:
        assert has_same_effect(repeated, after)


@ERRORS
@pytest.mark.parametrize(
    "lasting",
    [False, pytest.param(True, marks=pytest.mark.gauntlet)],
    ids=lambda lasting: "lasting" if lasting else "once",
)
@EVERY_CASE
def test_a_disk_error_at_any_operation_leaves_the_store_intact(
    start_contents, expected, scratch, start, name, error, lasting
):
    for number in count(1):
        fault = FailingCall(error, number, lasting)
        instance = write_tree(start_contents[start], scratch / "instance")
        error_raised = None
        try:
            run_command(instance, name, fault)
        except FlaskmlError as raised:
            error_raised = raised
        if fault.failed is None:
            break
        assert error_raised is None or str(scratch) not in error_raised.detail
        check_recovery(instance, name, *expected[start, name], done=error_raised is None)
    assert number > 3


@EVERY_CASE
def test_a_kill_at_any_operation_leaves_the_store_intact(start_contents, expected, scratch, start, name):
    for number in count(1):
        instance = write_tree(start_contents[start], scratch / "instance")
        was_killed = run_and_kill(instance, name, number)
        check_recovery(instance, name, *expected[start, name], done=not was_killed)
        if not was_killed:
            break
    assert number > MIN_OPERATIONS[name]


MIN_OPERATIONS = {"publish": 15, "delete": 10, "clean": 10}
MIN_OPERATIONS = {name: MIN_OPERATIONS.get(name, 4) for name in COMMANDS}
"""The minimum number of operations of each command: a harness that misses operations would find no faults."""


@pytest.mark.gauntlet
@EVERY_CASE
def test_a_second_kill_during_the_repeated_command_leaves_the_store_intact(
    start_contents, expected, scratch, start, name
):
    for first in count(1):
        for second in count(1):
            instance = write_tree(start_contents[start], scratch / "instance")
            was_killed = run_and_kill(instance, name, first)
            middle = inspect_store(instance)
            was_killed_again = run_and_kill(instance, name, second)
            contents = inspect_store(instance)
            assert contents.highest >= middle.highest and contents.state.generation >= middle.state.generation
            with without_fsync(instance):
                COMMANDS[name](ModelStore(instance))
            assert inspect_store(instance).highest >= expected[start, name][1].highest
            if not was_killed_again:
                break
        if not was_killed:
            break


INSPECT_SCRIPT = """
import sys
from pathlib import Path
from tests.support.crash_harness import inspect_store
for path in sys.argv[1:]:
    print(sorted(inspect_store(Path(path)).versions), inspect_store(Path(path)).state.active)
"""


def test_a_new_process_reads_the_same_contents(start_contents, expected, scratch, tmp_path):
    instances, contents = [], []
    for start, name in CASES:
        for number in (2, MIN_OPERATIONS[name]):
            instances.append(write_tree(start_contents[start], tmp_path / f"{start}-{name}-{number}"))
            assert run_and_kill(instances[-1], name, number)
            contents.append(inspect_store(instances[-1]))
    lines = run_python(INSPECT_SCRIPT, *instances).splitlines()
    assert lines == [f"{sorted(each.versions)} {each.state.active}" for each in contents]


class InPlaceDisk(Disk):
    """A planted fault: a disk that writes over a file in place, instead of an atomic replace."""

    def replace(self, path, content):
        path.unlink(missing_ok=True)
        with self.create(path) as file:
            file.write(content)


class EarlyNameDisk(Disk):
    """A planted fault: a disk that makes the final directory before its files, instead of an atomic rename."""

    def rename(self, source, target):
        self.make_directory(target)
        for file in sorted(source.iterdir()):
            os.rename(file, target / file.name)
        self.sync_directory(target.parent)
        os.rmdir(source)


@pytest.mark.parametrize(("disk", "name"), [(InPlaceDisk, "activate"), (EarlyNameDisk, "publish")])
def test_the_harness_detects_writes_that_are_not_atomic(start_contents, expected, scratch, disk, name):
    broken = 0
    for number in count(1):
        instance = write_tree(start_contents["full"], scratch / "instance")
        was_killed = run_and_kill(instance, name, number, disk())
        try:
            assert is_between(inspect_store(instance), *expected["full", name])
        except (AssertionError, FlaskmlError):
            broken += 1
        if not was_killed:
            break
    assert broken


@pytest.mark.parametrize("name", ["activate", "alias"])
def test_a_version_deleted_before_the_lock_is_held_is_rejected(start_contents, scratch, name):
    instance = write_tree(start_contents["full"], scratch / "instance")
    lock_calls = []

    def step(call, perform):
        if call.name == "flock" and not lock_calls:
            lock_calls.append(call)
            delete(ModelStore(instance))
        return perform()

    with intercepted(instance, step), pytest.raises(FlaskmlError):
        COMMANDS[name](ModelStore(instance))
    assert lock_calls
    assert inspect_store(instance).versions == {"1", "2", "3"}


def cut_power(start_contents, scratch, start, name, skipped=0):
    """Run and record a command. Return the record, and the store contents before and after it."""
    root = write_tree(frozenset(), scratch / "recorded")
    instance = root / "instance"
    if start != "absent":
        write_tree(start_contents[start], instance)
    before = inspect_store(instance)
    cut = PowerCut(root, skipped)
    with intercepted(root, cut):
        COMMANDS[name](ModelStore(instance))
    cut.acknowledge()
    return cut, before, inspect_store(instance)


def faults(states, before, after, scratch):
    """Yield an error for each faulty state of those that a power cut may leave."""
    for content, acknowledged in states:
        instance = write_tree(content, scratch / "cut") / "instance"
        try:
            contents = inspect_store(instance)
            assert contents == after if acknowledged else is_between(contents, before, after)
            with without_fsync(instance):
                version = publish(ModelStore(instance)).version
            highest = max(before.highest, after.highest if acknowledged else 0)
            assert int(version) > highest, "a version number is used twice"
            assert inspect_store(instance).state == contents.state
        except (AssertionError, FlaskmlError) as fault:
            yield fault


# If a command creates the key too, the fsync of the key also covers a folder made before. One case has a key already.
POWER_CASES = [("absent", "publish"), ("keyed", "publish"), *(("full", name) for name in COMMANDS)]


@pytest.mark.parametrize(("start", "name"), sampled(POWER_CASES, 2))
def test_a_power_cut_at_any_operation_leaves_the_store_intact(start_contents, scratch, start, name):
    cut, before, after = cut_power(start_contents, scratch, start, name)
    assert list(faults(cut.states, before, after, scratch)) == []
    assert len(cut.states) > 2 * len(cut.syncs)


def test_every_fsync_is_needed(start_contents, scratch):
    places, needed = set(), set()
    for start, name in POWER_CASES:
        for number in count(1):
            cut, before, after = cut_power(start_contents, scratch, start, name, skipped=number)
            if number > len(cut.syncs):
                break
            # A fault appears in late states and outside staging directories: test only those contents, the last first.
            states = {(without_staging(content), acknowledged): None for content, acknowledged in reversed(cut.states)}
            places.add(cut.syncs[number - 1])
            if any(faults(states, before, after, scratch)):
                needed.add(cut.syncs[number - 1])
    assert len(needed) > 8
    assert places - needed == set()


def test_the_power_cut_model_covers_content_and_name(scratch):
    root = write_tree(frozenset({("a", b"old")}), scratch / "recorded")
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
    assert set(cut.tree.outcomes()) == {frozenset(content) for content in ([old], [old, new], [("a", b"new!")])}
    with intercepted(root, cut):
        Disk().sync_directory(root)
    assert list(cut.tree.outcomes()) == [frozenset({("a", b"new!")})]


SAMPLED_CALLS = 7
"""The number of system calls that get a fault in the short test, spread over all of them."""

CHANGING_CALLS = r"O_CREAT|^\d+ +(write|fsync|mkdir|rename|unlink|rmdir)"
ANY_CALLS = r"^\d+ +(openat|read|close|write|fsync|mkdir|rename|unlink|rmdir|getdents|newfstatat|statx)"
EVERY_INJECTION = pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ("signal=KILL", CHANGING_CALLS),
        ("error=ENOSPC", CHANGING_CALLS),
        ("error=EIO", ANY_CALLS),
        ("error=EMFILE", r"^\d+ +openat"),
    ],
    ids=["KILL", "ENOSPC", "EIO", "EMFILE"],
)


def publish_and_activate(instance, disk=None):
    store = ModelStore(instance, disk)
    accept(store, NAME, publish(store).version)


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture(scope="module")
def calls(start_contents, scratch):
    """The system calls of a publication and an activation, as strace sees them."""
    instance, log = write_tree(start_contents["full"], scratch / "instance"), scratch / "log"
    assert run_under_strace(publish_and_activate, instance, options=[], log=log) == 0
    return list(traced_calls(log, instance))


def inject(calls, start_contents, scratch, fault, pattern, limit=None, disk=None):
    """Inject a fault of strace into one matching call per run. Yield the instance folder and the exit code."""
    matching = [(name, number) for name, number, line in calls if re.search(pattern, line)]
    for name, number in matching[:: max(1, len(matching) // limit) if limit else 1]:
        instance = write_tree(start_contents["full"], scratch / "instance")
        options = ["-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number}"]
        code = run_under_strace(publish_and_activate, instance, disk, options=options)
        assert code in ((-signal.SIGKILL,) if "KILL" in fault else (0, EXIT_FLASKML_ERROR)), (name, number, code)
        yield instance, code


def check_calls(calls, start_contents, scratch, fault, pattern, limit=None):
    for instance, code in inject(calls, start_contents, scratch, fault, pattern, limit):
        contents = inspect_store(instance)
        assert contents.state.active == "5" if code == 0 else contents.state.active in ("3", "5")
        with without_fsync(instance):
            publish_and_activate(instance)
        repeated = inspect_store(instance)
        assert int(repeated.state.active) == repeated.highest > contents.highest


@needs_strace
@EVERY_INJECTION
def test_a_system_call_that_fails_or_kills_leaves_the_store_intact(calls, start_contents, scratch, fault, pattern):
    check_calls(calls, start_contents, scratch, fault, pattern, SAMPLED_CALLS)


@needs_strace
@pytest.mark.gauntlet
@EVERY_INJECTION
def test_every_system_call_that_fails_or_kills_leaves_the_store_intact(calls, start_contents, scratch, fault, pattern):
    check_calls(calls, start_contents, scratch, fault, pattern)


@needs_strace
def test_strace_detects_writes_that_are_not_atomic(start_contents, scratch, tmp_path):
    instance, log = write_tree(start_contents["full"], scratch / "instance"), tmp_path / "log"
    assert run_under_strace(publish_and_activate, instance, InPlaceDisk(), options=[], log=log) == 0
    calls = [call for call in traced_calls(log, instance) if "state.json" in call[2]]
    runs = inject(calls, start_contents, scratch, "signal=KILL", CHANGING_CALLS, disk=InPlaceDisk())
    contents = [inspect_or_none(instance) for instance, _ in runs]
    assert [each for each in contents if each is None or each.state.active not in ("3", "5")]


def inspect_or_none(instance):
    try:
        return inspect_store(instance)
    except (AssertionError, FlaskmlError):
        return None
