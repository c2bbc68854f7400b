"""The trial of a version: a child process loads it and replays its golden rows before it may serve.

Whatever the version does to the child, crash, hang, eat memory or answer wrongly, the parent goes on and has a verdict.
`python -m flaskml.publishing.trial` is the child; it reads one `TrialOrder` from
standard input and writes one `TrialVerdict`.
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

MEMORY_PER_MODEL_SIZE = 4
"""How many times the size of its file a model may take: read, unpickled, and copied once by its own compiled parts."""


class TrialLimits(BaseModel):
    """What a trial may take: seconds, and bytes beside what the libraries and the model hold."""

    model_config = ConfigDict(frozen=True)

    seconds: float = 60
    memory: int = 2 * 1024**3


class TrialOrder(BaseModel):
    """What the child is to try."""

    model_config = ConfigDict(frozen=True)

    instance_path: Path
    key_file: Path
    strict: bool
    name: str
    version: str
    limits: TrialLimits


def ensure_accepted(store: ModelStore, name: str, version: str, limits: TrialLimits, *, again: bool = False) -> None:
    """Returns if the version has been accepted in this environment, after a trial if it has had none here.

    A rejected version is tried once more if limits have changed, or if somebody asks `again`.
    The verdict is kept with the state of the model, where that can be written. Raises `VersionRejected`, and
    `VersionNotFound` or `DamagedFile` for what cannot even be tried.
    """
    store.folder(name, version)
    allowed = limits.model_dump()
    verdict = store.state(name).verdict(version, environment_key())
    if verdict is None or (not verdict.accepted and (again or verdict.limits not in (None, allowed))):
        store.check(name, version)
        verdict = run_trial(store, name, version, limits).model_copy(update={"limits": allowed})
        if not verdict.transient:
            with contextlib.suppress(FlaskmlError):  # A store that is read-only is served, and tried at each start.
                store.change(name, lambda state: state.judge(version, environment_key(), verdict))
    if not verdict.accepted:
        raise VersionRejected(name, version, verdict.reason)


def activate_version(
    store: ModelStore, name: str, version: str, reason: str, limits: TrialLimits, *, unless_newer: bool = False
) -> ModelState:
    """Makes a version the active one, after its trial. `unless_newer` and all that is raised are as in `ModelStore`."""
    ensure_accepted(store, name, version, limits, again=True)
    return store.activate(name, version, reason, unless_newer=unless_newer)


def roll_back_version(store: ModelStore, name: str, limits: TrialLimits) -> ModelState:
    """Makes the version active again that was so before the last activation. Raises `NothingToRollBackTo`."""
    return activate_version(store, name, store.state(name).previous(name, store.versions(name)), "rolled back", limits)


def run_trial(store: ModelStore, name: str, version: str, limits: TrialLimits) -> TrialVerdict:
    """Tries the version in a child process."""
    order = trial_order(store, name, version, limits)
    command = [sys.executable, "-m", "flaskml.publishing.trial"]
    try:
        # What it writes as its errors may hold values of rows, and there may be any amount of it.
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
        return _rejected("its process wrote something else than a verdict.")


def trial_order(store: ModelStore, name: str, version: str, limits: TrialLimits) -> TrialOrder:
    """What the child is to try, and by which rules it opens the store."""
    return TrialOrder(
        instance_path=store.instance_path,
        key_file=store.archive.signer.path,
        strict=store.archive.custody.strict,
        name=name,
        version=version,
        limits=limits,
    )


def _rejected(reason: str) -> TrialVerdict:
    return TrialVerdict(accepted=False, reason=reason, at=utc_now())


def _main() -> None:
    """Tries what was ordered and writes the verdict."""
    order = TrialOrder.model_validate_json(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What a model prints is not a verdict.
    store = ModelStore(order.instance_path, key_file=order.key_file, strict=order.strict)
    verdict = _try(store, order)
    with answers:
        answers.write(verdict.model_dump_json().encode())
    os._exit(0)  # A model may have left threads that never end.


def _try(store: ModelStore, order: TrialOrder) -> TrialVerdict:
    try:
        manifest = store.manifest(order.name, order.version)
        _limit(order.limits, sum(record.size for record in manifest.files.values()))
        if is_mappable(manifest) and (verdict := _replay(store, manifest, mapped=True)).accepted:
            return verdict
        return _replay(store, manifest, mapped=False)
    except MemoryError:
        return _rejected("it needs more memory than a trial may take (setting TRIAL_MEMORY).")
    except FlaskmlError as error:
        missing = isinstance(error.__cause__, ImportError)  # What is missing can be installed.
        return _rejected(error.detail).model_copy(update={"transient": missing})


def _replay(store: ModelStore, manifest: Manifest, *, mapped: bool) -> TrialVerdict:
    golden = store.golden(manifest)
    bundle, method = store.load(manifest.model, manifest.version, mapped=mapped), manifest.methods[0]
    try:
        compute = open_predictor(bundle, max_rows=len(golden.rows)).batcher.compute
        difference = golden.replay(manifest.schema_, lambda table: json_answers(compute(table, method), method))
    except (MemoryError, FlaskmlError):
        raise
    except Exception as error:  # A model may raise anything; that it did is the verdict.
        return _rejected(f"it raised {type(error).__name__} where it should have answered its golden rows.")
    if difference is None:
        reason = f"{len(golden.rows)} golden rows answered as in training."
        return TrialVerdict(accepted=True, reason=reason, at=utc_now(), mapped=mapped)
    otherwise = "alone otherwise than among others" if difference.alone else "otherwise than in training"
    reason = f"it answered golden row {difference.row} {otherwise}."
    return TrialVerdict(accepted=False, reason=reason, at=utc_now(), **difference.model_dump(exclude={"alone"}))


def _limit(limits: TrialLimits, size: int) -> None:
    """Bounds the time and the memory of this process, where the system can."""
    if hasattr(signal, "alarm"):
        signal.alarm(math.ceil(limits.seconds) + 1)  # It ends even if who started it has died before.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        import sklearn.utils  # noqa: F401 - what the libraries map counts as theirs, not as the model's

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        allowed = held + limits.memory + MEMORY_PER_MODEL_SIZE * size
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _main()
