"""The trial of a version, with real child processes and with the `trials` double."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flaskml.errors import DamagedFile, VersionNotFound, VersionRejected
from flaskml.publishing import trial
from flaskml.publishing.trial import TrialLimits, ensure_accepted, run_trial
from flaskml.store.golden_rows import GoldenRows
from flaskml.store.model_store import ModelStore, environment_key
from flaskml.store.state import TrialVerdict, utc_now
from tests.support.stores import GOLDEN, accept, canary_store, constant, put

FAULTY_MODULE = '''
import os, signal, subprocess, sys, threading, time
import numpy as np

class AnswersSeven:
    """An estimator that answers 7 to every row; a subclass misbehaves before it answers."""

    def predict(self, table):
        self.misbehave()
        return np.full(len(table), 7.0)

    def misbehave(self):
        pass

class Printing(AnswersSeven):
    def misbehave(self):
        print('{"accepted": false}')
        os.write(1, b"noise")
        threading.Thread(target=time.sleep, args=(600,)).start()

class Crashing(AnswersSeven):
    def misbehave(self):
        os.kill(os.getpid(), signal.SIGSEGV)

class Exiting(AnswersSeven):
    def __setstate__(self, state):
        sys.exit(0)

    def __getstate__(self):
        return {"x": 1}

class Hanging(AnswersSeven):
    def misbehave(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)

class StartsProcess(AnswersSeven):
    def misbehave(self):
        with open(os.environ["CHILDREN"], "a") as file:
            print(subprocess.Popen(["sleep", "600"]).pid, file=file)

class Raising(AnswersSeven):
    def misbehave(self):
        raise KeyError("secret value")

class AllocatesMemory(AnswersSeven):
    def misbehave(self):
        np.ones(2**29)

class AllocatesMemoryToLoad(AnswersSeven):
    def __getstate__(self):
        return {"x": 1}

    def __setstate__(self, state):
        self.held = np.ones(2**29)

class DependsOnBatch(AnswersSeven):
    def predict(self, table):
        return np.full(len(table), 7.0 if len(table) > 1 else 8.0)
'''


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Yield a module of faulty estimators that a child process can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "faulty_estimators.py").write_text(FAULTY_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    import faulty_estimators

    yield faulty_estimators
    del sys.modules["faulty_estimators"]


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "instance")


def run_real_trial(store, estimator, *, golden=GOLDEN, **limits):
    """Return the verdict of a real child process on the estimator."""
    return run_trial(store, "default", put(store, estimator, golden=golden), TrialLimits(**limits))


def test_a_version_that_prints_and_leaves_a_thread_is_accepted(store, faulty):
    verdict = run_real_trial(store, faulty.Printing())
    assert verdict.accepted and verdict.reason == "2 golden rows answered as in training." and not verdict.mapped


def test_a_wrong_answer_is_recorded_with_its_row_and_both_answers(store, faulty):
    verdict = run_real_trial(store, faulty.DependsOnBatch())
    assert not verdict.accepted and (verdict.row, verdict.expected, verdict.answered) == (0, 7.0, 8.0)
    assert verdict.reason == "it answered golden row 0 differently alone than in a batch."


@pytest.mark.thorough
def test_a_crash_ends_only_the_child(store, faulty):
    verdict = run_real_trial(store, faulty.Crashing())
    assert not verdict.accepted and "its process died (exit code -11)" in verdict.reason


@pytest.mark.thorough
def test_a_version_that_exits_is_rejected(store, faulty):
    verdict = run_real_trial(store, faulty.Exiting())
    assert not verdict.accepted and "its process died (exit code 0)" in verdict.reason


@pytest.mark.thorough
def test_a_version_that_hangs_is_killed(store, faulty):
    verdict = run_real_trial(store, faulty.Hanging(), seconds=2.5)
    assert not verdict.accepted
    assert verdict.reason == "it took longer than 2.5 seconds (setting TRIAL_TIMEOUT)."


@pytest.mark.thorough
def test_processes_that_a_version_starts_end_with_its_trial(store, faulty, tmp_path, monkeypatch):
    monkeypatch.setenv("CHILDREN", str(tmp_path / "children"))
    assert run_real_trial(store, faulty.StartsProcess()).accepted
    started = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert started
    deadline = time.monotonic() + 10  # A killed process disappears a moment later.
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, started))


def is_running(pid):
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.thorough
def test_the_child_ends_in_time_without_its_parent(store, faulty):
    order = trial.trial_order(store, "default", put(store, faulty.Hanging()), TrialLimits(seconds=1))
    child = subprocess.run(
        [sys.executable, "-m", "flaskml.publishing.trial"], input=order.model_dump_json().encode(), timeout=60
    )
    assert child.returncode == -signal.SIGALRM


@pytest.mark.thorough
@pytest.mark.parametrize("estimator", ["AllocatesMemory", "AllocatesMemoryToLoad"])
def test_the_memory_of_a_trial_is_limited(store, faulty, estimator):
    verdict = run_real_trial(store, getattr(faulty, estimator)(), memory=2**28)
    assert not verdict.accepted and "TRIAL_MEMORY" in verdict.reason


def test_a_verdict_names_the_exception_without_its_message(store, faulty):
    manifest = store.manifest("default", put(store, faulty.Raising()))
    verdict = trial.replay_golden_rows(store, manifest, mapped=False)
    assert not verdict.accepted and "it raised KeyError" in verdict.reason and "secret" not in verdict.reason


@pytest.mark.thorough
def test_a_large_version_is_tried_memory_mapped(store):
    import numpy as np
    from sklearn.neighbors import KNeighborsRegressor

    rng = np.random.default_rng(0)
    rows = rng.random((70_000, 1))
    model = KNeighborsRegressor(1, algorithm="brute").fit(rows, rows[:, 0] * 2)
    golden = GoldenRows(
        rows=tuple((float(row),) for row in rows[:3, 0]), answers=tuple(2 * float(r) for r in rows[:3, 0])
    )
    version = put(store, model, golden=golden)
    ensure_accepted(store, "default", version, TrialLimits())
    assert store.state("default").verdict(version, environment_key()).mapped
    mapped = store.load("default", version).estimator._fit_X
    while not isinstance(mapped, np.memmap):
        mapped = mapped.base
    assert not mapped.flags.writeable


def test_the_verdict_is_stored(store, trials):
    version = put(store, constant(7))
    for _ in range(3):
        ensure_accepted(store, "default", version, TrialLimits())
    assert trials.asked == [("default", "1")]
    ensure_accepted(ModelStore(store.instance_path), "default", version, TrialLimits())
    assert trials.asked == [("default", "1")]


def test_a_rejection_is_stored_and_raised_each_time(store, trials):
    version = put(store, constant(7))
    trials.rejected.add(version)
    for _ in range(2):
        with pytest.raises(VersionRejected, match="the test decided so") as refused:
            ensure_accepted(store, "default", version, TrialLimits())
        assert refused.value.status == 409
    assert trials.asked == [("default", "1")] and store.state("default").active is None
    with pytest.raises(VersionRejected):
        store.activate("default", version, "all the same")


def test_a_version_without_a_trial_cannot_be_activated(store):
    with pytest.raises(VersionRejected, match="it has had no trial here"):
        store.activate("default", put(store, constant(7)), "too soon")


def test_a_new_environment_needs_a_new_trial(store, trials, monkeypatch):
    version = put(store, constant(7))
    accept(store, "default", version)
    for module in ("flaskml.store.model_store", "flaskml.publishing.trial"):
        monkeypatch.setattr(f"{module}.environment_key", lambda: "python 9.9.9")
    trials.rejected.add(version)
    with pytest.raises(VersionRejected):
        ensure_accepted(store, "default", version, TrialLimits())
    with pytest.raises(VersionRejected):
        store.activate("default", version, "as before")
    assert trials.asked == [("default", "1")]
    monkeypatch.undo()
    ensure_accepted(store, "default", version, TrialLimits())


def test_a_rejected_version_is_tried_again_after_a_limit_is_raised(store, monkeypatch):
    version = put(store, constant(7))
    asked = []

    def slow(store, name, version, limits):
        asked.append(limits.seconds)
        done = limits.seconds > 10
        return TrialVerdict(accepted=done, reason="it took longer (setting TRIAL_TIMEOUT).", at=utc_now())

    monkeypatch.setattr(trial, "run_trial", slow)
    with pytest.raises(VersionRejected, match="TRIAL_TIMEOUT"):
        ensure_accepted(store, "default", version, TrialLimits(seconds=1))
    ensure_accepted(store, "default", version, TrialLimits(seconds=100))
    assert asked == [1, 100]


def test_concurrent_trials_store_the_verdict(store, trials):
    version = put(store, constant(7))
    threads = [
        threading.Thread(target=ensure_accepted, args=(store, "default", version, TrialLimits())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.state("default").verdict(version, environment_key()).accepted


def test_an_unknown_version_is_not_tried(store, trials):
    put(store, constant(7))
    for version in ("2", "x", "../1"):
        with pytest.raises(VersionNotFound):
            ensure_accepted(store, "default", version, TrialLimits())
    assert not trials.asked


@pytest.mark.parametrize("change", ["model.joblib", "golden.json", "manifest.json", "manifest.sig", "key", "mode"])
def test_no_child_starts_for_a_tampered_version(tmp_path, trials, change):
    store, canary = canary_store(tmp_path)
    folder = store.root / "default/1"
    store.change("default", lambda state: state.model_copy(update={"verdicts": {}}))
    if change == "mode":
        (folder / "golden.json").chmod(0o666)
    elif change == "key":
        (store.instance_path / "signing.key").write_bytes(bytes(32))
    else:
        content = (folder / change).read_bytes()
        (folder / change).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(DamagedFile, match="models/default/1/"):
        ensure_accepted(ModelStore(store.instance_path), "default", "1", TrialLimits())
    assert not trials.asked and not canary.exists()


@pytest.mark.thorough
def test_the_child_does_not_unpickle_a_tampered_model(tmp_path):
    store, canary = canary_store(tmp_path)
    model = store.root / "default/1/model.joblib"
    model.write_bytes(model.read_bytes() + b" ")
    verdict = run_trial(store, "default", "1", TrialLimits())
    assert not verdict.accepted and "models/default/1/model.joblib: it holds" in verdict.reason
    assert not canary.exists()
