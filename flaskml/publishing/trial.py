"""The trial of a version: a child process loads it and replays its golden rows before the version may serve.

The child may crash, hang, exhaust its memory or answer wrongly: the parent survives and gets a verdict.
`python -m flaskml.publishing.trial` is the child. It reads one `TrialOrder` from standard input and writes one
`TrialVerdict` to standard output.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flaskml.child_process import start_child
from flaskml.codecs.answers import json_answers
from flaskml.errors import FlaskmlError, VersionRejected
from flaskml.inference.predictor import open_predictor
from flaskml.store.manifest import Manifest, environment_key
from flaskml.store.model_store import ModelStore
from flaskml.store.state import ModelState, TrialVerdict, utc_now
from flaskml.store.version_folder import is_mappable

MEMORY_BYTES_PER_FILE_BYTE = 4
"""Memory that a model may take for each byte of its files: read, unpickled, and copied once by its compiled code."""


class TrialLimits(BaseModel):
    """Limits of a trial."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    seconds: float = 60
    memory: int = 2 * 1024**3
    """Bytes beyond those that the imported libraries and the model take."""


class TrialOrder(BaseModel):
    """The version that the child tries, and the settings to open the store with."""

    model_config = ConfigDict(frozen=True)

    instance_path: Path
    key_file: Path
    strict: bool
    name: str
    version: str
    limits: TrialLimits


def ensure_accepted(
    store: ModelStore, name: str, version: str, limits: TrialLimits, *, retry_rejected: bool = False
) -> None:
    """Return if the version is accepted in this environment; run its trial first if it has no verdict here.

    A rejected version is tried again if the limits have changed, or with `retry_rejected`.
    The verdict is stored in the state of the model, unless the store is read-only. Raises `VersionRejected`, or
    `VersionNotFound` or `DamagedFile` for a version that cannot be tried.
    """
    store.folder(name, version)
    current_limits = limits.model_dump()
    state = store.state(name)
    verdict = state.verdict(version, environment_key())
    if verdict is None or (not verdict.accepted and (retry_rejected or verdict.limits not in (None, current_limits))):
        store.check(name, version)
        verdict = run_trial(store, name, version, limits).model_copy(update={"limits": current_limits})
        if not verdict.transient:
            with contextlib.suppress(FlaskmlError):  # A read-only store is served too; its trials run at each start.
                store.change(name, lambda state: state.with_verdict(version, environment_key(), verdict))
    if not verdict.accepted:
        raise VersionRejected(name, version, verdict.reason, is_active=state.active == version)


def activate_version(
    store: ModelStore, name: str, version: str, reason: str, limits: TrialLimits, *, unless_newer: bool = False
) -> ModelState:
    """Make a version active after its trial; a rejected version is tried again.

    `unless_newer` and the errors are those of `ModelStore.activate`.
    """
    ensure_accepted(store, name, version, limits, retry_rejected=True)
    return store.activate(name, version, reason, unless_newer=unless_newer)


def roll_back_version(store: ModelStore, name: str, limits: TrialLimits) -> ModelState:
    """Activate the version that was active before the last activation. Raises `NothingToRollBackTo`."""
    previous = store.state(name).previous(name, store.versions(name))
    return activate_version(store, name, previous, "rolled back", limits)


def run_trial(store: ModelStore, name: str, version: str, limits: TrialLimits) -> TrialVerdict:
    """Run the trial of the version in a child process and return the verdict."""
    order = trial_order(store, name, version, limits)
    command = [sys.executable, "-m", "flaskml.publishing.trial"]
    try:
        # The child's standard error is discarded: it may hold values of rows, in any amount.
        with start_child(command, threads=1, stderr=subprocess.DEVNULL) as child:
            answer, _ = child.communicate(order.model_dump_json().encode(), timeout=limits.seconds)
    except subprocess.TimeoutExpired:
        return _rejected(f"it took longer than {limits.seconds:g} seconds (setting TRIAL_TIMEOUT).")
    if child.returncode != 0 or not answer:
        died = f"its process died (exit code {child.returncode})"
        return _rejected(f"{died}; it may need more memory (setting TRIAL_MEMORY).")
    try:
        return TrialVerdict.model_validate_json(answer)
    except ValidationError:
        return _rejected("its process wrote something other than a verdict.")


def trial_order(store: ModelStore, name: str, version: str, limits: TrialLimits) -> TrialOrder:
    """Return the order for the child that tries the version."""
    return TrialOrder(
        instance_path=store.instance_path,
        key_file=store.version_folders.signer.path,
        strict=store.version_folders.permissions.strict,
        name=name,
        version=version,
        limits=limits,
    )


def _rejected(reason: str) -> TrialVerdict:
    return TrialVerdict(accepted=False, reason=reason, at=utc_now())


def _main() -> None:
    """Read the order, try the version and write the verdict."""
    order = TrialOrder.model_validate_json(sys.stdin.buffer.read())
    verdict_output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Text that a model prints must not mix with the verdict.
    store = ModelStore(order.instance_path, key_file=order.key_file, strict=order.strict)
    verdict = _try(store, order)
    with verdict_output:
        verdict_output.write(verdict.model_dump_json().encode())
    os._exit(0)  # A model may have started threads that never end.


def _try(store: ModelStore, order: TrialOrder) -> TrialVerdict:
    try:
        manifest = store.manifest(order.name, order.version)
        _limit_resources(order.limits, sum(record.size for record in manifest.files.values()))
        if is_mappable(manifest) and (verdict := replay_golden_rows(store, manifest, mapped=True)).accepted:
            return verdict
        return replay_golden_rows(store, manifest, mapped=False)
    except MemoryError:
        return _rejected("it needs more memory than a trial may take (setting TRIAL_MEMORY).")
    except FlaskmlError as error:
        is_module_missing = isinstance(error.__cause__, ImportError)  # It may be installed before the next trial.
        return _rejected(error.detail).model_copy(update={"transient": is_module_missing})


def replay_golden_rows(store: ModelStore, manifest: Manifest, *, mapped: bool) -> TrialVerdict:
    """Load the version in this process, replay its golden rows and return the verdict.

    With `mapped`, the arrays of the model are memory-mapped from its file. Raises `MemoryError` or `FlaskmlError`.
    """
    golden = store.golden_rows(manifest)
    loaded, method = store.load(manifest.model, manifest.version, mapped=mapped), manifest.methods[0]
    try:
        predictor = open_predictor(loaded, max_rows=len(golden.rows))
        build, compute = predictor.parser.table_builder.build, predictor.batcher.compute
        mismatch = golden.replay(build, lambda table: json_answers(compute(table, method), method))
    except (MemoryError, FlaskmlError):
        raise
    except Exception as error:  # A model may raise anything, and is rejected for it.
        return _rejected(f"it raised {type(error).__name__} instead of answering its golden rows.")
    if mismatch is None:
        reason = f"{len(golden.rows)} golden rows answered as in training."
        return TrialVerdict(accepted=True, reason=reason, at=utc_now(), mapped=mapped)
    comparison = "differently alone than in a batch" if mismatch.is_alone else "differently than in training"
    reason = f"it answered golden row {mismatch.row} {comparison}."
    return TrialVerdict(accepted=False, reason=reason, at=utc_now(), **mismatch.model_dump(exclude={"is_alone"}))


def _limit_resources(limits: TrialLimits, file_bytes: int) -> None:
    """Limit the time and the memory of this process, on systems that support it."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(limits.seconds) + 1)  # The child ends even if its parent has died.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        import sklearn.utils  # noqa: F401 - imported first, so that its memory does not count as the model's

        current_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit_bytes = current_bytes + limits.memory + MEMORY_BYTES_PER_FILE_BYTE * file_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _main()
