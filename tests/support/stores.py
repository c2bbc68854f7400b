"""What tests do with stores."""

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
    """Return the active version in memory, as a server would load it."""
    active = store.state_or_unused(name).active
    if active is None:
        raise store.nothing_active(name)
    return store.load(name, active)


def ignore(_):
    """A report that nobody reads."""


def settings_for(path, **values):
    return read_settings({"INSTANCE_PATH": path, **values})


def train_into(path, source=BUILT_IN_SOURCE, **spec):
    """A whole training run into an instance folder, trial included; unless said otherwise, by the estimator itself."""
    return run_training(TrainingSpec(**{"runtime": "sklearn", **spec}), settings_for(path), ignore, source)


def accept(store, name, version, *, active=True, mapped=False):
    """Records that a version was tried, without the second that a trial takes, and makes it active."""
    verdict = TrialVerdict(accepted=True, reason="said so by the test.", at=utc_now(), mapped=mapped)
    store.change(name, lambda state: state.judge(version, environment_key(), verdict))
    if active:
        store.activate(name, version, "test")


def replayed(store, name, version, _):
    """A trial in this process, without the seconds that a child takes to start."""
    return trial._replay(store, store.manifest(name, version), mapped=False)


def made_once(tmp_path_factory, worker_id, name, make):
    """An instance folder that one process of the run fills with `make`, for those beside it too: nobody changes it."""
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
    """Ends what the app does in the background."""
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
    """An estimator that answers every row alike."""
    return DummyRegressor(strategy="constant", constant=float(value)).fit([[0.0]], [0.0])


def put(store, estimator, name="default", *, golden=GOLDEN):
    """Stores an estimator of one number, not tried and not active, and returns its version."""
    return store.publish(name, FACTS, VersionContents(estimator, golden)).version


class Trials:
    """Stands in for the child process: says what it is told to, and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.rejected = set()

    def __call__(self, store, name, version, limits):
        self.asked.append((name, version))
        return TrialVerdict(accepted=version not in self.rejected, reason="said so by the test.", at=utc_now())


def canary_store(path):
    """A store whose active version makes a folder when it is unpickled, and that folder."""
    store, nest = ModelStore(path / "instance"), path / "canary"
    accept(store, "default", put(store, Canary(str(nest))))
    return store, nest


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))
