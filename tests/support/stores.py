"""Stores for tests: estimators to store, trials without a child process, and a canary against unpickling."""

import os

from sklearn.dummy import DummyRegressor

from flaskml.publishing import trial
from flaskml.schema.features import Feature, Schema
from flaskml.settings import read_settings
from flaskml.store.disk import Disk
from flaskml.store.golden_rows import GoldenRows
from flaskml.store.manifest import VersionFacts
from flaskml.store.model_store import ModelStore, environment_key
from flaskml.store.state import TrialVerdict, utc_now
from flaskml.store.version_folder import VersionContents
from flaskml.training.trainer import BUILT_IN_SOURCE, TrainingSpec, run_training


def load_active(store, name):
    """Return the active version in memory, loaded as a server loads it. Raises `NoActiveVersion`."""
    active = store.state_or_empty(name).active
    if active is None:
        raise store.no_active_version(name)
    return store.load(name, active)


def ignore(_):
    """Ignore a progress message of a training run."""


def settings_for(path, **values):
    """Return the settings of an app with the instance folder `path`."""
    return read_settings({"INSTANCE_PATH": path, **values})


def train_into(path, source=BUILT_IN_SOURCE, **spec):
    """Train a model into an instance folder, with its trial. The default runtime is scikit-learn."""
    return run_training(TrainingSpec(**{"runtime": "sklearn", **spec}), settings_for(path), ignore, source)


def accept(store, name, version, *, active=True, mapped=False):
    """Store an accepting verdict for a version without a trial, which takes a second. Activate the version."""
    verdict = TrialVerdict(accepted=True, reason="the test decided so.", at=utc_now(), mapped=mapped)
    store.change(name, lambda state: state.with_verdict(version, environment_key(), verdict))
    if active:
        store.activate(name, version, "test")


def run_trial_in_process(store, name, version, _):
    """Run a trial in this process, without the seconds that the start of a child process takes."""
    return trial.replay_golden_rows(store, store.manifest(name, version), mapped=False)


def create_once(tmp_path_factory, worker_id, name, make):
    """Return an instance folder that `make` fills once for all processes of the test run. Tests must not change it."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    path = folder / name
    with Disk().lock(folder / f"{name}.lock"):
        if not path.exists():
            making = folder / f"{name}.{os.getpid()}"
            make(making)
            making.rename(path)
    return path


def stop(app):
    """Wait for the training jobs of the app and stop its watcher."""
    app.extensions["jobs"].wait()
    app.extensions["watcher"].stop()


FACTS = VersionFacts(
    task="regression",
    estimator="DummyRegressor",
    data="two rows",
    rows=2,
    schema_=Schema(features=(Feature(name="x", kind="float", minimum=0, maximum=1),), layout="array"),
)


GOLDEN = GoldenRows(rows=((0.0,), (1.0,)), answers=(7.0, 7.0))


def constant(value):
    """Return a fitted estimator that answers every row with `value`."""
    return DummyRegressor(strategy="constant", constant=float(value)).fit([[0.0]], [0.0])


def put(store, estimator, name="default", *, golden=GOLDEN):
    """Store an estimator of one numeric feature, without a trial and not active, and return its version."""
    return store.publish(name, FACTS, VersionContents(estimator, golden)).version


class Trials:
    """A double of the trial's child process: it rejects the versions in `rejected` and records each call in `asked`."""

    def __init__(self):
        self.asked = []
        self.rejected = set()

    def __call__(self, store, name, version, limits):
        self.asked.append((name, version))
        return TrialVerdict(accepted=version not in self.rejected, reason="the test decided so.", at=utc_now())


def canary_store(path):
    """Return a store whose active version is a `Canary`, and the path of the folder that unpickling it makes."""
    store, marker = ModelStore(path / "instance"), path / "canary"
    accept(store, "default", put(store, Canary(str(marker))))
    return store, marker


class Canary:
    """An estimator that makes the folder `path` when it is unpickled, as malicious code in a pickle would."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))
