"""Real stores, real apps and real servers for the tests."""

import os
import re
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask import Flask
from jinja2 import BytecodeCache

from flaskml import create_app
from flaskml.publishing import trial
from flaskml.runtimes import selection
from flaskml.store.model_store import ModelStore
from flaskml.training.trainer import TrainingSource
from tests.support.in_process_servers import COMMANDS, client_over_socket
from tests.support.server_processes import start_server
from tests.support.stores import Trials, create_once, run_trial_in_process, stop, train_into
from tests.support.tables import HOME, mixed_table
from tests.support.two_versions import publish_two_versions

# FLASKML_CI makes a skipped test a failure. It is removed from the environment, because a server refuses unknown
# FLASKML_ settings, and passed to the worker processes of the suite under another name.
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
        report.longrepr = f"skipped, although FLASKML_CI forbids it: {report.longrepr}"
    return report


def pytest_collection_modifyitems(config, items):
    """Deselect slow tests unless `-m` names their marker. Full counts run only with `-m gauntlet`."""
    if config.option.markexpr:
        deselected = {"gauntlet"} - set(re.findall(r"\w+", config.option.markexpr))
    else:
        deselected = {"gauntlet", "brief"} if CI else {"gauntlet", "thorough"}
    items[:] = [item for item in items if not deselected & {mark.name for mark in item.iter_markers()}]


def pytest_generate_tests(metafunc):
    """Run contract tests on both servers, or on those that the marker names."""
    contract = metafunc.definition.get_closest_marker("contract")
    if contract and "server_name" in metafunc.fixturenames:
        metafunc.parametrize("server_name", contract.args or COMMANDS, indirect=True)


@pytest.fixture
def server_name(request):
    """The server of a contract test; None if the test client calls the app directly."""
    return getattr(request, "param", None)


@pytest.fixture(autouse=True)
def no_thread_left():
    """Fail a test that leaves a thread running."""
    before = set(threading.enumerate())
    yield
    new_threads = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new_threads:
        thread.join(10)
    assert not [thread for thread in new_threads if thread.is_alive()]


class CompiledTemplates(BytecodeCache):
    """A cache of compiled templates for all apps of a process: compiling them takes most of the time of the factory."""

    def __init__(self):
        self.compiled = {}

    def load_bytecode(self, bucket):
        if bucket.key in self.compiled:
            bucket.bytecode_from_string(self.compiled[bucket.key])

    def dump_bytecode(self, bucket):
        self.compiled[bucket.key] = bucket.bytecode_to_string()


@pytest.fixture(scope="session", autouse=True)
def compiled_templates():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flask, "jinja_options", {"bytecode_cache": CompiledTemplates()})
        yield


@pytest.fixture(scope="session")
def mixed_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "homes.csv"
    mixed_table().to_csv(path, index=False)
    return path


@pytest.fixture
def swift(monkeypatch):
    """Fast publishing: trials run in this process, and few calls are timed, so the fastest runtime may be missed."""
    monkeypatch.setattr(trial, "run_trial", run_trial_in_process)
    monkeypatch.setattr(selection, "MAX_TIMED_CALLS", selection.CALLS_PER_TURN)


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory, worker_id):
    """An instance folder with two versions that answer every row differently."""
    return create_once(tmp_path_factory, worker_id, "two-versions", publish_two_versions)


@pytest.fixture
def trials(monkeypatch):
    trials = Trials()
    monkeypatch.setattr(trial, "run_trial", trials)
    return trials


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id, mixed_csv):
    """An instance folder with a `default` model of one number and a `homes` model of a mixed table."""

    def make(path):
        train_into(path)
        train_into(path, source=TrainingSource(mixed_csv, "homes.csv"), data=None, name="homes", target="sold")

    return create_once(tmp_path_factory, worker_id, "trained", make)


@pytest.fixture
def instance(trained, tmp_path):
    """A copy of the trained instance folder, which the test may change."""
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


@pytest.fixture
def home():
    """A valid row of the `homes` model."""
    return dict(HOME)


@pytest.fixture
def serve(instance, server_name):
    """Return a function that starts a server on the test's instance folder, by default `waitress-serve`."""
    servers = []

    def start(name=server_name or "waitress-serve", *options, **how):
        servers.append(start_server(instance, name, *options, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
