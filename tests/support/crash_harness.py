"""A store under faults: every call of the system that it makes can fail, kill its process, or be recorded.

The faults are put in at the calls that `files.Disk` is made of, so what runs is the product's own code and what is
counted is what the system sees. No call to sync is passed on: a test cannot see its effect, and `PowerCut` works out
what the disk would hold without it.
"""

import ctypes
import fcntl
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from errno import EIO, EMFILE, ENOSPC
from itertools import combinations, product
from pathlib import Path

import pytest
from sklearn.dummy import DummyRegressor

from flaskml.errors import FlaskmlError
from flaskml.schema.features import Feature, Schema
from flaskml.store import disk as files
from flaskml.store.disk import STAGING_PREFIX
from flaskml.store.golden_rows import GoldenRows
from flaskml.store.manifest import VersionFacts
from flaskml.store.model_store import LOCK_FILE, ModelStore
from flaskml.store.state import EMPTY_STATE, ModelState
from flaskml.store.version_folder import VersionContents
from tests.support.checkout import CHECKOUT
from tests.support.stores import accept, load_active

NAME = "default"
SCHEMA = Schema(features=(Feature(name="x", kind="float", minimum=0.0, maximum=1.0),), layout="array")
FACTS = VersionFacts(task="regression", estimator="DummyRegressor", data="made", rows=1, schema_=SCHEMA)


# What is done to a store.


def publish(store, value=0.0):
    """Publishes an estimator that always answers `value`, and golden rows that say so."""
    golden = GoldenRows(rows=((0.0,), (1.0,)), answers=(value, value))
    return store.publish(
        NAME, FACTS, VersionContents(DummyRegressor(strategy="constant", constant=value).fit([[0.0]], [value]), golden)
    )


def activate(store):
    return store.activate(NAME, "4", "test")


def rollback(store):
    return store.activate(NAME, store.state(NAME).previous(NAME, store.versions(NAME)), "rolled back")


def alias(store):
    return store.alias(NAME, "stable", "4")


def judge(store):
    return accept(store, NAME, "4", active=False)


def delete(store):
    return store.delete(NAME, "4")


def clean(store):
    return store.clean(NAME, 1)


COMMANDS = {command.__name__: command for command in (publish, activate, rollback, alias, judge, delete, clean)}


def make_store(instance):
    """Four versions: 3 is active, 2 was so before, and of both the newest, 4, and the oldest, 1, nothing is said."""
    store = ModelStore(instance)
    for value in (1.0, 2.0, 3.0, 4.0):
        version = publish(store, value).version
        accept(store, NAME, version, active=version in "23")
    store.alias(NAME, "stable", "2")
    return store


def content_of(path):
    """The content of a file, or of a folder as pairs of names and contents. Lock files are left out."""
    if path.is_file():
        return path.read_bytes()
    return frozenset((entry.name, content_of(entry)) for entry in path.iterdir() if not entry.name.endswith(LOCK_FILE))


def build(content, path):
    """Makes the folder with that content in place of what is there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    for name, entry in content:
        if isinstance(entry, bytes):
            with open(os.open(path / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(entry)
        else:
            build(entry, path / name)
    return path


# What is found in a store.


@dataclass(frozen=True)
class Found:
    """What a fresh store finds under an instance folder."""

    state: ModelState = EMPTY_STATE
    versions: frozenset = frozenset()

    @property
    def highest(self):
        """The largest number that was ever given out."""
        return max([self.state.highest, *map(int, self.versions)])


seen = {}


def look(instance):
    """What is there. Raises unless every version verifies, loads and answers, and what the state names is there.

    The same bytes are looked at once: most faults leave what was there before, or all that was to be.
    """
    if not instance.is_dir():
        return Found()
    kept = [
        path for path in (instance / "models").rglob("*") if not str(path.relative_to(instance)).count(STAGING_PREFIX)
    ]
    key = visible(content_of(instance)), frozenset((path.lstat().st_mode, path.name) for path in kept)
    if key not in seen:
        seen[key] = _look(instance)
    return seen[key]


def visible(content):
    """The part of a folder's content that is not being written."""
    return frozenset(
        (name, entry if isinstance(entry, bytes) else visible(entry))
        for name, entry in content
        if not name.startswith(STAGING_PREFIX)
    )


def _look(instance):
    store = ModelStore(instance)
    if NAME not in store.names():
        return Found()
    state, versions = store.state(NAME), store.versions(NAME)
    assert state.served() <= set(versions), f"{sorted(state.served())} serve, {versions} are there"
    for version in versions:
        manifest = store.check(NAME, version)
        answer = store.load(NAME, version).estimator.predict
        assert store.golden(manifest).replay(manifest.schema_, answer) is None
    if state.active is not None:
        assert load_active(store, NAME).manifest.version == state.active
    return Found(state, frozenset(versions))


def between(found, before, after):
    """Whether `found` may be there while what leads from `before` to `after` is under way."""
    generations = range(before.state.generation, after.state.generation + 1)
    versions = before.versions & after.versions <= found.versions <= before.versions | after.versions
    return found.state.generation in generations and versions


def leftovers(instance):
    return sorted(path.name for path in instance.rglob(f"{STAGING_PREFIX}*"))


# The calls that a store makes of the system.


@dataclass(frozen=True)
class Call:
    """One call of the system: which, on what, and with what."""

    name: str
    path: Path
    target: Path | None = None
    content: bytes = b""

    @property
    def changes(self):
        """Whether it can change the disk, so that to die before it is not to die before the next one."""
        return self.name not in ("stat", "list", "open", "read", "close", "flock")


@contextmanager
def intercepted(root, step):
    """Has every call that concerns what lies under `root` made by `step(call, perform)`."""
    real = {name: getattr(os, name) for name in ("open", "close", "listdir", "scandir", "stat", "lstat", "mkdir")}
    real |= {name: getattr(os, name) for name in ("rename", "replace", "unlink", "rmdir")}
    real_flock, real_open = fcntl.flock, io.open
    opened = {}

    def locate(path, folder=None):
        """The path in full if it is ours. A folder may be given open, as shutil does."""
        if isinstance(path, int):
            return opened.get(path)
        path = Path(opened[folder], path) if folder in opened else Path(path)
        return path if path.is_relative_to(root) else None

    def make(name, path, perform, **details):
        return perform() if path is None else step(Call(name, path, **details), perform)

    def of_a_path(function, name):
        def replacement(path, *arguments, dir_fd=None, **options):
            folder = {} if dir_fd is None else {"dir_fd": dir_fd}
            return make(name, locate(path, dir_fd), lambda: real[function](path, *arguments, **folder, **options))

        return replacement

    def of_a_folder(function):
        return lambda path=".": make("list", locate(path), lambda: real[function](path))

    def of_two_paths(function):
        return lambda source, target: make(
            "rename", locate(source), lambda: real[function](source, target), target=Path(target)
        )

    def open_descriptor(path, flags, mode=0o777, *, dir_fd=None):
        found = locate(path, dir_fd)
        options = {} if dir_fd is None else {"dir_fd": dir_fd}
        name = "create" if flags & os.O_CREAT else "open"
        descriptor = make(name, found, lambda: real["open"](path, flags, mode, **options))
        if found is not None:
            opened[descriptor] = found
        return descriptor

    def close(descriptor):
        path = opened.pop(descriptor, None)
        return make("close", path, lambda: real["close"](descriptor))

    def fsync(descriptor):
        file = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        return make("sync", opened[file], lambda: None) if file in opened else None

    def flock(file, operation):
        return make("flock", locate(file.fileno()), lambda: real_flock(file, operation))

    class Raw(io.FileIO):
        """An open file whose reads and writes are counted as the system sees them, after all buffers."""

        def write(self, content):
            content = bytes(content)
            write = super().write
            return make("write", opened[self.fileno()], lambda part=content: write(part), content=content)

        def readall(self):
            return make("read", opened[self.fileno()], lambda: super(Raw, self).readall())

        def readinto(self, buffer):
            return make("read", opened[self.fileno()], lambda: super(Raw, self).readinto(buffer))

        def close(self):
            if not self.closed:
                path = opened.pop(self.fileno(), None)
                make("close", path, lambda: super(Raw, self).close())

    def open_file(file, mode):
        if not isinstance(file, int):
            file = open_descriptor(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        raw = Raw(file, mode)
        return io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)

    def open_path(file, *arguments, **options):
        path = None if isinstance(file, int) else locate(file)
        return make("open", path, lambda: real_open(file, *arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", open_file, raising=False)
        patch.setattr(io, "open", open_path)
        patch.setattr(fcntl, "flock", flock)
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "close", close)
        patch.setattr(os, "fsync", fsync)
        for function in ("stat", "lstat"):
            patch.setattr(os, function, of_a_path(function, "stat"))
        for function in ("mkdir", "unlink", "rmdir"):
            patch.setattr(os, function, of_a_path(function, function))
        for function in ("listdir", "scandir"):
            patch.setattr(os, function, of_a_folder(function))
        for function in ("rename", "replace"):
            patch.setattr(os, function, of_two_paths(function))
        yield


# Faults.


POSSIBLE = {
    ENOSPC: {"create", "write", "sync", "mkdir", "rename"},
    EIO: {"create", "write", "sync", "mkdir", "rename", "unlink", "rmdir", "open", "close", "read", "list", "stat"},
    EMFILE: {"create", "open", "list"},
}
"""Which calls the system answers with which error."""


@dataclass
class Failing:
    """Makes the call with the given number fail, of those that can with this error; if `lasting`, all after it too."""

    error: int
    number: int = 0
    lasting: bool = False
    done: int = 0
    failed: Call | None = None

    def __call__(self, call, perform):
        if call.name in POSSIBLE[self.error]:
            self.done += 1
            if self.done == self.number or (self.lasting and self.done > self.number > 0):
                self._fail(call, perform)
        return perform()

    def _fail(self, call, perform):
        self.failed = self.failed or call
        if call.name == "write":  # A disk that becomes full takes what still fits.
            perform(call.content[: len(call.content) // 2])
        elif call.name == "close":  # The system frees the descriptor all the same.
            perform()
        raise OSError(self.error, os.strerror(self.error))


@dataclass
class Deadly:
    """Kills the process at the call with the given number, of those that change something."""

    number: int
    done: int = 0

    def __call__(self, call, perform):
        self.done += call.changes
        if self.done == self.number and call.changes:
            if call.name == "write":
                perform(call.content[: len(call.content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return perform()


REFUSED, BROKEN = 3, 4
"""Exit codes of a child whose command raised an error of ours, or any other."""


def fork(work, *arguments):
    """Calls `work` in a child process and returns its id; the child ends with 0, `REFUSED` or `BROKEN`."""
    with warnings.catch_warnings():
        # Python warns of locks that threads of the parent may hold. The libraries' threads that it sees idle.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = BROKEN
    try:
        signal.alarm(60)
        work(*arguments)
        code = 0
    except FlaskmlError:
        code = REFUSED
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def end_of(child):
    """The exit code of a child, or the number of the signal that ended it, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(instance, name, step, disk=None):
    """Gives a command to a store whose every call is made by `step`."""
    with intercepted(instance, step):
        COMMANDS[name](ModelStore(instance, disk))


def kill(instance, name, number, disk=None):
    """Gives a command in a child that dies at the operation with that number; False if it ended before."""
    end = end_of(fork(run, instance, name, Deadly(number), disk))
    assert end in (0, -signal.SIGKILL)
    return end != 0


# The calls as the system itself sees them.


def trace(work, *arguments, options, log="/dev/null"):
    """Calls `work` in a child under strace and returns how the child ended. Skips the test where nobody may trace.

    The child is forked with all modules in memory, so that it makes the calls of `work` and few others.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = fork(_obey, theirs, work, *arguments)
        ours.recv(1)
        command = ["strace", "-f", "-y", "-o", str(log), *options, "-p", str(child)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            told = tracer.stderr.readline()
            if "attached" in told:
                ours.send(b"x")
                return end_of(child)
    os.kill(child, signal.SIGKILL)
    end_of(child)
    return pytest.skip(f"no process can be traced here: {told}")


def _obey(line, work, *arguments):
    """Waits until somebody traces this process, whom the system otherwise might not let."""
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
    line.send(b"x")
    line.recv(1)
    work(*arguments)


def traced_calls(log, root):
    """Each call in the log that concerns what lies under `root`: its name, its number among its like, and its line."""
    counts = Counter()
    for line in log.read_text().splitlines():
        if found := re.match(r"\d+ +(\w+)\(", line):
            counts[found[1]] += 1
            if str(root) in line:
                yield found[1], counts[found[1]], line


# Power cuts.


@dataclass
class Folder:
    """A directory: the entries that last, and the changes to them since it was last synced."""

    lasting: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)

    def entries(self, changes=None):
        """What is in it once the `changes` are made, by default all."""
        entries = dict(self.lasting)
        for change in self.pending if changes is None else changes:
            entries.update(change)
        return {name: node for name, node in entries.items() if node is not None}

    def sync(self):
        self.lasting, self.pending = self.entries(), []

    def outcomes(self):
        """Every content that it may have after a power cut: any of the pending changes are made, the others not."""
        for count in range(len(self.pending) + 1):
            for changes in combinations(self.pending, count):
                entries = self.entries(changes)
                for contents in product(*(list(node.outcomes()) for node in entries.values())):
                    yield frozenset(zip(entries, contents, strict=True))


@dataclass
class File:
    """A file: the content that lasts, and the one that a reader sees."""

    lasting: bytes = b""
    content: bytes = b""

    def sync(self):
        self.lasting = self.content

    def outcomes(self):
        """Every content that it may have after a power cut: all, none, half, or zeros in place of what was written."""
        if self.content == self.lasting:
            return [self.content]
        torn = self.content[: max(len(self.lasting), len(self.content) // 2)]
        zeros = self.lasting + bytes(len(self.content) - len(self.lasting))
        return list(dict.fromkeys([self.content, self.lasting, torn, zeros]))


class PowerCut:
    """Records what is done under `root` and knows everything that a power cut may leave of it.

    `skipped` is the number of a sync that is left out, counted from 1. `syncs` are the places in the code that synced.
    """

    def __init__(self, root, skipped=0):
        self.root = root
        self.tree = _lasting(content_of(root))
        self.skipped = skipped
        self.syncs = []
        self.states = {}
        self.acknowledged = False
        self._note()

    def __call__(self, call, perform):
        result = perform()
        # Lock files hold nothing, and are made anew where they are missing.
        if call.changes and not call.path.name.endswith(LOCK_FILE):
            self._apply(call)
            self._note()
        return result

    def acknowledge(self):
        """The command has returned: from now on a power cut may not undo it."""
        self.acknowledged = True
        self._note()

    def _apply(self, call):
        if call.name == "write":
            self._find(call.path).content += call.content
        elif call.name == "sync":
            self.syncs.append(_place(call.path))
            if len(self.syncs) != self.skipped:
                self._find(call.path).sync()
        else:
            self._find(call.path.parent).pending.append(self._change(call))

    def _change(self, call):
        """What the call does to the entries of a directory."""
        name = call.path.name
        if call.name == "rename":
            assert call.target.parent == call.path.parent
            return {name: None, call.target.name: self._find(call.path)}
        return {name: {"create": File, "mkdir": Folder}.get(call.name, lambda: None)()}

    def _find(self, path):
        node = self.tree
        for name in path.relative_to(self.root).parts:
            node = node.entries()[name]
        return node

    def _note(self):
        for content in self.tree.outcomes():
            self.states[content, self.acknowledged] = None


def _lasting(content):
    """The file or folder with that content, all of it lasting."""
    if isinstance(content, bytes):
        return File(content, content)
    return Folder({name: _lasting(entry) for name, entry in content})


def _place(path):
    """Where in the code a sync was asked for, and what it is of."""
    names = []
    frame = sys._getframe()
    while frame := frame.f_back:
        if Path(frame.f_code.co_filename).is_relative_to(CHECKOUT / "flaskml"):
            names.append(frame.f_code.co_qualname)
    what = "a folder" if path.is_dir() else "a staged file" if path.name.startswith(STAGING_PREFIX) else path.name
    return f"{' > '.join(reversed(names[:3]))}: {what}"


@contextmanager
def quickly(root):
    """Does what is done under `root` without waiting for the disk."""
    with intercepted(root, lambda call, perform: perform()):
        yield
