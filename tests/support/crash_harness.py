"""Fault injection for the store: every system call of a store can fail, kill its process, or be recorded.

The faults are injected below `Disk`, into the functions of Python that make system calls. So the code under test is the
product's own, and the harness counts the calls that the operating system sees. Intercepted fsync calls are not
executed, because a test cannot observe their effect. `PowerCut` computes what the disk may hold without them.
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
from flaskml.schema.tables import SchemaTableBuilder
from flaskml.store import disk as disk_module
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


# Commands: each one is a change of a store that the tests interrupt.


def publish(store, value=0.0):
    """Publish an estimator that always answers `value`, with matching golden rows."""
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


def record_verdict(store):
    return accept(store, NAME, "4", active=False)


def delete(store):
    return store.delete(NAME, "4")


def clean(store):
    return store.clean(NAME, 1)


COMMANDS = {
    command.__name__: command for command in (publish, activate, rollback, alias, record_verdict, delete, clean)
}


def make_store(instance):
    """Return a store with four versions: 3 is active, 2 was active before and has an alias, 1 and 4 never were."""
    store = ModelStore(instance)
    for value in (1.0, 2.0, 3.0, 4.0):
        version = publish(store, value).version
        accept(store, NAME, version, active=version in "23")
    store.alias(NAME, "stable", "2")
    return store


def read_tree(path):
    """Return the content of a file, or of a folder as a set of (name, content) pairs without lock files."""
    if path.is_file():
        return path.read_bytes()
    return frozenset((entry.name, read_tree(entry)) for entry in path.iterdir() if not entry.name.endswith(LOCK_FILE))


def write_tree(content, path):
    """Replace the folder `path` by one with the given content, in the form that `read_tree` returns. Return `path`."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    for name, entry in content:
        if isinstance(entry, bytes):
            with open(os.open(path / name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(entry)
        else:
            write_tree(entry, path / name)
    return path


# Inspection: the observable contents of a store.


@dataclass(frozen=True)
class StoreContents:
    """The state and the versions of the model under an instance folder."""

    state: ModelState = EMPTY_STATE
    versions: frozenset = frozenset()

    @property
    def highest(self):
        """The largest version number that is known to be assigned."""
        return max([self.state.highest, *map(int, self.versions)])


_inspected = {}


def inspect_store(instance):
    """Return the contents of the store, as a new `ModelStore` reads them.

    Raises AssertionError or FlaskmlError unless every version verifies, loads and answers its golden rows, and every
    version that the state names exists. The result is cached by the bytes of the store, because most faults leave the
    bytes from before the command or those from after it.
    """
    if not instance.is_dir():
        return StoreContents()
    finished = [
        path for path in (instance / "models").rglob("*") if not str(path.relative_to(instance)).count(STAGING_PREFIX)
    ]
    key = without_staging(read_tree(instance)), frozenset((path.lstat().st_mode, path.name) for path in finished)
    if key not in _inspected:
        _inspected[key] = _inspect(instance)
    return _inspected[key]


def without_staging(content):
    """Return a folder's content without staging files and directories."""
    return frozenset(
        (name, entry if isinstance(entry, bytes) else without_staging(entry))
        for name, entry in content
        if not name.startswith(STAGING_PREFIX)
    )


def _inspect(instance):
    store = ModelStore(instance)
    if NAME not in store.names():
        return StoreContents()
    state, versions = store.state(NAME), store.versions(NAME)
    assert state.served() <= set(versions), f"the state serves {sorted(state.served())}, the store has {versions}"
    for version in versions:
        manifest = store.check(NAME, version)
        predict = store.load(NAME, version).estimator.predict
        assert store.golden_rows(manifest).replay(SchemaTableBuilder(manifest.schema_).build, predict) is None
    if state.active is not None:
        assert load_active(store, NAME).manifest.version == state.active
    return StoreContents(state, frozenset(versions))


def is_between(contents, before, after):
    """Return whether a command that changes a store from `before` to `after` may leave `contents` when interrupted."""
    generations = range(before.state.generation, after.state.generation + 1)
    has_versions = before.versions & after.versions <= contents.versions <= before.versions | after.versions
    return contents.state.generation in generations and has_versions


def leftovers(instance):
    """Return the names of the staging files and directories under the instance folder."""
    return sorted(path.name for path in instance.rglob(f"{STAGING_PREFIX}*"))


# Interception of system calls.


@dataclass(frozen=True)
class Call:
    """One system call: its name, its path, the target of a rename, and the bytes of a write."""

    name: str
    path: Path
    target: Path | None = None
    content: bytes = b""

    @property
    def is_change(self):
        """True if the call can change the disk. A kill at any other call has the effect of a kill at the next one."""
        return self.name not in ("stat", "list", "open", "read", "close", "flock")


@contextmanager
def intercepted(root, step):
    """Pass every system call on a path under `root` to `step(call, perform)`, which performs it or injects a fault."""
    real = {name: getattr(os, name) for name in ("open", "close", "listdir", "scandir", "stat", "lstat", "mkdir")}
    real |= {name: getattr(os, name) for name in ("rename", "replace", "unlink", "rmdir")}
    real_flock, real_open = fcntl.flock, io.open
    opened = {}  # file descriptor -> path

    def locate(path, folder=None):
        """Return the full path if it is under `root`, else None. `folder` is a directory's descriptor (shutil)."""
        if isinstance(path, int):
            return opened.get(path)
        path = Path(opened[folder], path) if folder in opened else Path(path)
        return path if path.is_relative_to(root) else None

    def dispatch(name, path, perform, **details):
        return perform() if path is None else step(Call(name, path, **details), perform)

    def wrap_path_function(function, name):
        def replacement(path, *arguments, dir_fd=None, **options):
            folder = {} if dir_fd is None else {"dir_fd": dir_fd}
            return dispatch(name, locate(path, dir_fd), lambda: real[function](path, *arguments, **folder, **options))

        return replacement

    def wrap_folder_function(function):
        return lambda path=".": dispatch("list", locate(path), lambda: real[function](path))

    def wrap_rename(function):
        return lambda source, target: dispatch(
            "rename", locate(source), lambda: real[function](source, target), target=Path(target)
        )

    def open_descriptor(path, flags, mode=0o777, *, dir_fd=None):
        full_path = locate(path, dir_fd)
        options = {} if dir_fd is None else {"dir_fd": dir_fd}
        name = "create" if flags & os.O_CREAT else "open"
        descriptor = dispatch(name, full_path, lambda: real["open"](path, flags, mode, **options))
        if full_path is not None:
            opened[descriptor] = full_path
        return descriptor

    def close(descriptor):
        path = opened.pop(descriptor, None)
        return dispatch("close", path, lambda: real["close"](descriptor))

    def fsync(descriptor):
        file = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        return dispatch("sync", opened[file], lambda: None) if file in opened else None

    def flock(file, operation):
        return dispatch("flock", locate(file.fileno()), lambda: real_flock(file, operation))

    class InterceptedFile(io.FileIO):
        """An open file whose reads and writes are intercepted below all buffers, as the operating system sees them."""

        def write(self, content):
            content = bytes(content)
            write = super().write
            return dispatch("write", opened[self.fileno()], lambda part=content: write(part), content=content)

        def readall(self):
            return dispatch("read", opened[self.fileno()], lambda: super(InterceptedFile, self).readall())

        def readinto(self, buffer):
            return dispatch("read", opened[self.fileno()], lambda: super(InterceptedFile, self).readinto(buffer))

        def close(self):
            if not self.closed:
                path = opened.pop(self.fileno(), None)
                dispatch("close", path, lambda: super(InterceptedFile, self).close())

    def open_file(file, mode):
        if not isinstance(file, int):
            file = open_descriptor(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        raw = InterceptedFile(file, mode)
        return io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)

    def open_path(file, *arguments, **options):
        path = None if isinstance(file, int) else locate(file)
        return dispatch("open", path, lambda: real_open(file, *arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_module, "open", open_file, raising=False)
        patch.setattr(io, "open", open_path)
        patch.setattr(fcntl, "flock", flock)
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "close", close)
        patch.setattr(os, "fsync", fsync)
        for function in ("stat", "lstat"):
            patch.setattr(os, function, wrap_path_function(function, "stat"))
        for function in ("mkdir", "unlink", "rmdir"):
            patch.setattr(os, function, wrap_path_function(function, function))
        for function in ("listdir", "scandir"):
            patch.setattr(os, function, wrap_folder_function(function))
        for function in ("rename", "replace"):
            patch.setattr(os, function, wrap_rename(function))
        yield


# Faults.

CALLS_THAT_RAISE = {
    ENOSPC: {"create", "write", "sync", "mkdir", "rename"},
    EIO: {"create", "write", "sync", "mkdir", "rename", "unlink", "rmdir", "open", "close", "read", "list", "stat"},
    EMFILE: {"create", "open", "list"},
}
"""The system calls that can fail with each error."""


@dataclass
class FailingCall:
    """A step that makes the call `number` fail, counted over the calls that can raise `error`.

    If `lasting`, all later ones fail too.
    """

    error: int
    number: int = 0
    lasting: bool = False
    count: int = 0
    failed: Call | None = None

    def __call__(self, call, perform):
        if call.name in CALLS_THAT_RAISE[self.error]:
            self.count += 1
            if self.count == self.number or (self.lasting and self.count > self.number > 0):
                self._fail(call, perform)
        return perform()

    def _fail(self, call, perform):
        self.failed = self.failed or call
        if call.name == "write":  # A disk that becomes full stores the bytes that still fit.
            perform(call.content[: len(call.content) // 2])
        elif call.name == "close":  # A close that fails still frees the descriptor.
            perform()
        raise OSError(self.error, os.strerror(self.error))


@dataclass
class KillingCall:
    """A step that kills the process (SIGKILL) at the call `number`, counted over the calls that change the disk."""

    number: int
    count: int = 0

    def __call__(self, call, perform):
        self.count += call.is_change
        if self.count == self.number and call.is_change:
            if call.name == "write":
                perform(call.content[: len(call.content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return perform()


EXIT_FLASKML_ERROR, EXIT_OTHER_ERROR = 3, 4
"""Exit codes of a child whose function raised a `FlaskmlError`, or any other exception."""


def fork(function, *arguments):
    """Call `function` in a child process and return the process id. The child exits with 0 or an `EXIT_` code."""
    with warnings.catch_warnings():
        # Python warns of deadlocks, because threads of the parent may hold locks. Here these threads are idle.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = EXIT_OTHER_ERROR
    try:
        signal.alarm(60)
        function(*arguments)
        code = 0
    except FlaskmlError:
        code = EXIT_FLASKML_ERROR
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def wait_for_child(child):
    """Wait for a child and return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_command(instance, name, step, disk=None):
    """Run a command on a store and pass each of its system calls to `step`."""
    with intercepted(instance, step):
        COMMANDS[name](ModelStore(instance, disk))


def run_and_kill(instance, name, number, disk=None):
    """Run a command in a child that is killed at the call `number`. Return False if the command ended before it."""
    code = wait_for_child(fork(run_command, instance, name, KillingCall(number), disk))
    assert code in (0, -signal.SIGKILL)
    return code != 0


# Faults that strace injects into the system calls themselves.


def run_under_strace(function, *arguments, options, log="/dev/null"):
    """Call `function` in a child under strace and return its exit code. Skip the test if tracing is forbidden.

    The child is forked with all modules in memory, so that few of its system calls are not those of `function`.
    """
    parent_socket, child_socket = socket.socketpair()
    with parent_socket, child_socket:
        child = fork(_run_when_traced, child_socket, function, *arguments)
        parent_socket.recv(1)
        command = ["strace", "-f", "-y", "-o", str(log), *options, "-p", str(child)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            message = tracer.stderr.readline()
            if "attached" in message:
                parent_socket.send(b"x")
                return wait_for_child(child)
    os.kill(child, signal.SIGKILL)
    wait_for_child(child)
    return pytest.skip(f"no process can be traced here: {message}")


def _run_when_traced(connection, function, *arguments):
    """Allow any process to trace this one, wait until strace is attached, and call the function."""
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
    connection.send(b"x")
    connection.recv(1)
    function(*arguments)


def traced_calls(log, root):
    """Yield (name, number, line) of each call in an strace log on a path under `root`; `number` counts by name."""
    counts = Counter()
    for line in log.read_text().splitlines():
        if match := re.match(r"\d+ +(\w+)\(", line):
            counts[match[1]] += 1
            if str(root) in line:
                yield match[1], counts[match[1]], line


# Power cuts.


@dataclass
class Folder:
    """A model of a directory: the durable entries, and the pending changes since its last fsync."""

    durable: dict = field(default_factory=dict)
    pending: list = field(default_factory=list)

    def entries(self, changes=None):
        """Return the entries after the `changes`, by default after all pending changes."""
        entries = dict(self.durable)
        for change in self.pending if changes is None else changes:
            entries.update(change)
        return {name: node for name, node in entries.items() if node is not None}

    def sync(self):
        self.durable, self.pending = self.entries(), []

    def outcomes(self):
        """Yield every content that is possible after a power cut: each pending change may be lost."""
        for count in range(len(self.pending) + 1):
            for changes in combinations(self.pending, count):
                entries = self.entries(changes)
                for contents in product(*(list(node.outcomes()) for node in entries.values())):
                    yield frozenset(zip(entries, contents, strict=True))


@dataclass
class File:
    """A model of a file: the durable content, and the content that a reader sees before a power cut."""

    durable: bytes = b""
    content: bytes = b""

    def sync(self):
        self.durable = self.content

    def outcomes(self):
        """Return every content that is possible after a power cut: all, none or half of the write, or zeros."""
        if self.content == self.durable:
            return [self.content]
        half = self.content[: max(len(self.durable), len(self.content) // 2)]
        zeros = self.durable + bytes(len(self.content) - len(self.durable))
        return list(dict.fromkeys([self.content, self.durable, half, zeros]))


class PowerCut:
    """A step that records the calls under `root` and computes all contents that a power cut may leave.

    `skipped` is the number of an fsync that is left out, counted from 1. `syncs` names the places in the code that call
    fsync. The keys of `states` are pairs: a content, and whether the command had returned before the power cut.
    """

    def __init__(self, root, skipped=0):
        self.root = root
        self.tree = _durable_tree(read_tree(root))
        self.skipped = skipped
        self.syncs = []
        self.states = {}
        self.acknowledged = False
        self._record_states()

    def __call__(self, call, perform):
        result = perform()
        # Lock files are empty, and are created again if they are missing.
        if call.is_change and not call.path.name.endswith(LOCK_FILE):
            self._apply(call)
            self._record_states()
        return result

    def acknowledge(self):
        """Record that the command has returned. A power cut after that must not undo it."""
        self.acknowledged = True
        self._record_states()

    def _apply(self, call):
        if call.name == "write":
            self._find(call.path).content += call.content
        elif call.name == "sync":
            self.syncs.append(_describe_sync(call.path))
            if len(self.syncs) != self.skipped:
                self._find(call.path).sync()
        else:
            self._find(call.path.parent).pending.append(self._change(call))

    def _change(self, call):
        """Return the change of directory entries that the call makes; None stands for a removed entry."""
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

    def _record_states(self):
        for content in self.tree.outcomes():
            self.states[content, self.acknowledged] = None


def _durable_tree(content):
    """Return the `File` or `Folder` with that content, all of it durable."""
    if isinstance(content, bytes):
        return File(content, content)
    return Folder({name: _durable_tree(entry) for name, entry in content})


def _describe_sync(path):
    """Return the place in the code that called fsync (up to three functions), and the kind of file."""
    names = []
    frame = sys._getframe()
    while frame := frame.f_back:
        if Path(frame.f_code.co_filename).is_relative_to(CHECKOUT / "flaskml"):
            names.append(frame.f_code.co_qualname)
    kind = "a folder" if path.is_dir() else "a staged file" if path.name.startswith(STAGING_PREFIX) else path.name
    return f"{' > '.join(reversed(names[:3]))}: {kind}"


@contextmanager
def without_fsync(root):
    """Run the block without fsync on paths under `root`, to save time."""
    with intercepted(root, lambda call, perform: perform()):
        yield
