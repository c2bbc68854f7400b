"""Real stores, real apps and real servers for the tests."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flaskml import create_app
from flaskml.publishing import trial
from flaskml.runtimes import selection as candidates
from flaskml.settings import read_settings
from flaskml.store.disk import Disk
from flaskml.store.model_store import ModelStore, environment_key
from flaskml.store.state import TrialVerdict, utc_now
from flaskml.training.trainer import BUILT_IN_SOURCE, TrainingSource, TrainingSpec, run_training
from tests.support.servers import COMMANDS, client_over_socket, command_of

CHECKOUT = Path(__file__).resolve().parent.parent

# The suite's own switch: under it a skip is a failure. A server would refuse it as an unknown setting, and worker
# processes of the suite, which begin with what is left of the environment, must know it too.
CI = os.environ.pop("FLASKML_CI", os.environ.get("EVERY_TEST_MUST_RUN", "")) == "1"
if CI:
    os.environ["EVERY_TEST_MUST_RUN"] = "1"

for name in [name for name in os.environ if name.startswith("FLASKML_")]:
    del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything must run: {report.longrepr}"
    return report


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes long, unless it is asked for by its marker; the full counts only by theirs."""
    if config.option.markexpr:
        left_out = {"gauntlet"} - set(re.findall(r"\w+", config.option.markexpr))
    else:
        left_out = {"gauntlet", "brief"} if CI else {"gauntlet", "thorough"}
    items[:] = [item for item in items if not left_out & {mark.name for mark in item.iter_markers()}]


def pytest_generate_tests(metafunc):
    """Runs what is said to be a contract on both servers, or on those that the marker names."""
    contract = metafunc.definition.get_closest_marker("contract")
    if contract and "server_name" in metafunc.fixturenames:
        metafunc.parametrize("server_name", contract.args or COMMANDS, indirect=True)


@pytest.fixture
def server_name(request):
    """The server that the test is about; None if it is about none, and the test client calls the app itself."""
    return getattr(request, "param", None)


@pytest.fixture(autouse=True)
def no_thread_left():
    """No thread that a test starts outlives it."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(10)
    assert not [thread for thread in left if thread.is_alive()]


def mixed_table(rows=300, seed=1):
    """A table with numbers, a text, categories, booleans and gaps, whose target follows from them."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, rows).round(1)
    city = rng.choice(["Oslo", "Rome", "São Paulo"], rows)
    table = pd.DataFrame(
        {
            "age": age,
            "rooms": rng.integers(1, 9, rows),
            "home city": city,
            "member": rng.random(rows) > 0.5,
            "note": [f"{word} case {number}" for number, word in enumerate(rng.choice(["good", "bad"], rows))],
            "empty": None,
            "sold": np.where(age + 5 * (city == "Rome") > 41, "yes", "no"),
        }
    )
    table.loc[::7, "age"] = np.nan
    table.loc[::11, "home city"] = None
    table.loc[::13, "note"] = None
    table.loc[::50, "sold"] = None
    return table


@pytest.fixture(scope="session")
def mixed_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "homes.csv"
    mixed_table().to_csv(path, index=False)
    return path


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


@pytest.fixture
def swift(monkeypatch):
    """Publishing without what takes seconds: trials are held here, which runtime is fastest is not known for sure."""
    monkeypatch.setattr(trial, "run_trial", replayed)
    monkeypatch.setattr(candidates, "MAX_TIMED_CALLS", candidates.CALLS_PER_TURN)


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


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id, mixed_csv):
    """An instance folder with a `default` model of one number and a `homes` model of a mixed table."""

    def make(path):
        train_into(path)
        train_into(path, source=TrainingSource(mixed_csv, "homes.csv"), data=None, name="homes", target="sold")

    return made_once(tmp_path_factory, worker_id, "trained", make)


@pytest.fixture
def instance(trained, tmp_path):
    """A copy of the trained instance folder that the test may change."""
    return Path(shutil.copytree(trained, tmp_path / "instance"))


@pytest.fixture
def store(instance):
    return ModelStore(instance)


@pytest.fixture
def make_app(instance, server_name):
    apps = []
    with ExitStack() as running:

        def build(**config):
            app = create_app({"INSTANCE_PATH": instance, **config})
            if server_name is not None:
                app.test_client_class = client_over_socket(server_name, running)
            apps.append(app)
            return app

        yield build
    for app in apps:
        stop(app)


def stop(app):
    """Ends what the app does in the background."""
    app.extensions["jobs"].wait()
    app.extensions["watcher"].stop()


@pytest.fixture
def app(make_app):
    return make_app()


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def homes(make_app):
    """A client of an app that serves the mixed table."""
    return make_app(MODEL_NAME="homes").test_client()


HOME = {"age": 33.5, "rooms": 4, "home city": "Rome", "member": True, "note": "good case"}


@pytest.fixture
def home():
    """A row that the `homes` model takes."""
    return dict(HOME)


class Server:
    """A server process on a free loopback port, and requests to it."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
        self._lines = []
        self.port = self._wait_for_port()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _wait_for_port(self):
        for line in self.process.stderr:
            self._lines.append(line)
            if match := re.search(r"on http://127\.0\.0\.1:(\d+)", line):
                return int(match[1])
        raise AssertionError(f"the server did not start:\n{self.log}")

    def _read_log(self):
        for line in self.process.stderr:
            self._lines.append(line)

    @property
    def log(self):
        """What the server has written so far."""
        return "".join(self._lines)

    def request(self, method, path, body=None, headers=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, value=None, **headers):
        body = None if value is None else json.dumps(value)
        status, _, content = self.request(method, path, body, {"Content-Type": "application/json", **headers})
        return status, json.loads(content)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self._reader.join(30)
        self.process.stderr.close()


def start_server(instance, name, *options, cwd=CHECKOUT, **environment):
    """A server from the checkout on an instance folder."""
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance), **environment}
    return Server((*command_of(name), *options), cwd=cwd, env=variables)


@contextmanager
def server_of_a_copy(instance, folder, name="waitress-serve", **environment):
    """A server of what is in an instance folder, for all who only ask, so that none of them needs its own."""
    server = start_server(shutil.copytree(instance, folder / "instance"), name, **environment)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def serve(instance, server_name):
    """Starts a server from the checkout on the test's instance folder: `waitress-serve` unless told otherwise."""
    servers = []

    def start(name=server_name or "waitress-serve", *options, **how):
        servers.append(start_server(instance, name, *options, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def run_python(code, *arguments, **environment):
    """Runs code in a fresh interpreter and returns what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=CHECKOUT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
