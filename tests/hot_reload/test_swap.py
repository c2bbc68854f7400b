"""Hot swaps under load: versions are activated, or rejected because they are broken, while clients send predictions."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from flaskml.store.disk import Disk
from flaskml.store.manifest import VersionFacts
from flaskml.store.model_store import ModelStore
from flaskml.store.signing import Signer
from flaskml.store.version_folder import VersionContents
from tests.support.checkout import CHECKOUT
from tests.support.load import Activation, Answer, Load, failed, mixed, record_activation, stale
from tests.support.server_processes import Server
from tests.support.stores import accept
from tests.support.two_versions import OFFSETS

pytestmark = pytest.mark.thorough


@pytest.fixture
def instance(two_versions, tmp_path):
    """A copy of an instance folder with two versions."""
    return Path(shutil.copytree(two_versions, tmp_path / "instance"))


def start(instance, *program, **variables):
    """Start a server on the instance folder, by default waitress-serve."""
    command = [sys.executable, *(program or ("-m", "waitress", "--listen=127.0.0.1:0", "wsgi:app"))]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance), **variables}
    return Server(command, cwd=CHECKOUT, env=variables)


def activate_over_http(server, version):
    status, answer = server.json("PUT", "/models/default/active", {"version": version})
    assert (status, answer["active"], answer["lagging"]) == (200, version, [])


def activate_from_a_shell(instance, version):
    command = [sys.executable, "-m", "flask", "models", "activate", "default", version, "--json"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    done = subprocess.run(command, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["active"], report["lagging"]) == (version, [])


@pytest.mark.parametrize(
    ("requests", "count"),
    [
        (2_000, 6),
        pytest.param(20_000, 50, marks=pytest.mark.gauntlet),
        pytest.param(200_000, 500, marks=pytest.mark.gauntlet),
    ],
)
def test_hot_swaps_under_load_mix_no_versions(serve, instance, requests, count):
    servers = [serve("waitress-serve"), serve("flask serve")]
    activations = [Activation("2", 0, 0)]
    with Load(server.port for server in servers) as load:
        for number in range(count):
            version = "2" if number % 2 else "1"
            with record_activation(version, activations):
                if number % 5 == 4:
                    activate_from_a_shell(instance, version)
                else:
                    activate_over_http(servers[number % 3 % 2], version)
            load.wait_for(requests * (number + 1) // count)
    assert len(load.answers) >= requests and len(activations) == count + 1
    assert {(answer.port, answer.version) for answer in load.answers if answer.status == 200} == {
        (server.port, version) for server in servers for version in OFFSETS
    }
    assert failed(load.answers) == [] == mixed(load.answers, OFFSETS)
    assert stale(load.answers, activations) == []


def answer_at(sent, version, *, received=None, prediction=None, status=200):
    prediction = 0.5 + OFFSETS[version] if prediction is None else prediction
    body = json.dumps({"prediction": prediction, "model": "default", "version": version})
    return Answer(1, sent, received or sent + 0.1, 0.5, status, body)


def test_the_checks_find_planted_faults():
    activations = [Activation("2", 0, 0), Activation("1", 10, 11), Activation("2", 20, 21)]
    good = [
        answer_at(5, "2"),
        answer_at(9, "1", received=10.5),  # One process has swapped before the others.
        answer_at(10.5, "2"),
        answer_at(10.5, "1"),
        answer_at(10.9, "2", received=15),  # It was sent before the acknowledgement.
        answer_at(11.5, "1"),
        answer_at(11.5, "2", received=20.5),
        answer_at(22, "2"),
    ]
    assert failed(good) == mixed(good, OFFSETS) == stale(good, activations) == []
    late = [answer_at(11.5, "2"), answer_at(21.1, "1"), answer_at(5, "1")]
    assert stale(good + late, activations) == late
    wrong = answer_at(5, "2", prediction=0.5)
    assert mixed([*good, wrong], OFFSETS) == [wrong]
    lost = answer_at(5, "2", status=0)
    assert failed([*good, lost]) == [lost]


LYING_SERVER = """
from flaskml.hot_reload.registry import Registry
from waitress.runner import run

def refresh(registry):
    return {name: registry.store.state(name).revision for name in registry.store.names()}

Registry.refresh = refresh
run(["waitress-serve", "--listen=127.0.0.1:0", "wsgi:app"])
"""
"""A server with a fault: it announces the active version in the roster, and keeps serving the old one."""


def test_a_process_that_announces_a_swap_without_swapping_is_detected(instance):
    server = start(instance, "-c", LYING_SERVER)
    activations = [Activation("2", 0, 0)]
    try:
        with Load([server.port], clients=1) as load:
            with record_activation("1", activations):
                activate_over_http(server, "1")
            load.wait_for(len(load.answers) + 10)
    finally:
        server.stop()
    assert failed(load.answers) == mixed(load.answers, OFFSETS) == []
    assert len(stale(load.answers, activations)) > 5


MODELS_SOURCE = """
import ctypes, math, os, sys, time

class Line:
    def __init__(self, size):
        self.size = size
        self.content = bytes(size)

    def predict(self, rows):
        return rows[:, 0] + 1000

class Picky(Line):
    def __init__(self, size, error):
        super().__init__(size)
        self.error = error

    def predict(self, rows):
        if ((rows > 450) & (rows < 550)).any():  # The middle of the range holds no golden row.
            raise self.error
        return super().predict(rows)

"""
"""The start of a module of broken models: a good model of a given size in bytes, and one that refuses some rows."""

LOADING = "def __setstate__(self, state):"
ANSWERING = "def predict(self, rows):"
SLOW, DEAD = "longer than 3 seconds", "its process died .exit code"

BROKEN = {
    "HangsLoading": (LOADING, "time.sleep(600)", SLOW),
    "TalksLoading": (LOADING, "while True: print('x' * 2**20)", SLOW),
    "LeavesLoading": (LOADING, "os._exit(0)", f"{DEAD} 0"),
    "ExitsLoading": (LOADING, "sys.exit(0)", f"{DEAD} 0"),
    "AbortsLoading": (LOADING, "os.abort()", f"{DEAD} -6"),
    "StraysLoading": (LOADING, "ctypes.string_at(0)", f"{DEAD} -11"),
    "RaisesLoading": (LOADING, "raise RuntimeError(state)", "does not load here .RuntimeError"),
    "GrowsLoading": (LOADING, "self.__dict__.update(state, held=bytearray(10 * state['size']))", "TRIAL_MEMORY"),
    "HangsAnswering": (ANSWERING, "time.sleep(600)", SLOW),
    "KilledAnswering": (ANSWERING, "os.kill(os.getpid(), 9)", f"{DEAD} -9"),
    "ExitsAnswering": (ANSWERING, "sys.exit(0)", f"{DEAD} 0"),
    "RaisesAnswering": (ANSWERING, "raise ValueError(rows.tolist())", "it raised ValueError"),
    "GrowsAnswering": (ANSWERING, "held = bytearray(10 * self.size); return super().predict(rows)", "TRIAL_MEMORY"),
    "AnswersOtherwise": (ANSWERING, "return super().predict(rows) + os.getpid()", "golden row 0 differently"),
    "AnswersFew": (ANSWERING, "return super().predict(rows)[1:]", "it raised [A-Z]"),
    "AnswersTexts": (ANSWERING, "return super().predict(rows).astype(str)", "golden row 0 differently"),
    "AnswersNothing": (ANSWERING, "return super().predict(rows) * math.nan", "golden row 0 differently"),
    "AnswersAloneOtherwise": (ANSWERING, "return rows[:, 0] + 999 + len(rows) // 32", "golden row 0 differently"),
    "IsNoModel": ("predict = property()", "", "has no method predict here"),
    "IsGone": ("", "", "does not load here .AttributeError"),
}
"""Classes of models that work only in the process that publishes them: the method that is broken, its body, and a
pattern of the verdict's reason."""


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def sign_elsewhere(file):
    foreign_signer = Signer(file.parents[3] / "other.key", Disk())
    file.write_bytes(foreign_signer.sign(file.with_name("manifest.json").read_bytes(), new_key=True))


def make_world_writable(file):
    file.chmod(0o666)


DAMAGED = {
    "a cut model": (cut, "model.joblib", r"holds [0-9,]+ bytes instead"),
    "a flipped bit": (flip, "model.joblib", "SHA-256 is not the one"),
    "a lost model": (Path.unlink, "model.joblib", "cannot be read"),
    "other golden rows": (flip, "golden.json", "SHA-256 is not the one"),
    "another manifest": (flip, "manifest.json", "signature does not match"),
    "a foreign key": (sign_elsewhere, "manifest.sig", "signature does not match"),
    "no signature": (Path.unlink, "manifest.sig", "cannot be read"),
    "a world-writable model": (make_world_writable, "model.joblib", "others may write"),
}
"""Damages to the files of a good version: the function, the file, and a pattern of the answer to the activation."""


MODEL_BYTES = 2**24
"""Bytes of every published model. Ten times as many exceed the limit of a trial, 2**26 and four times the file."""


@dataclass(frozen=True)
class TrialSite:
    """Two servers on one instance folder, and the models to publish. The second server's TRIAL_TIMEOUT is 3 seconds."""

    store: ModelStore
    servers: list[Server]
    models: ModuleType
    """The module of the good model and the broken ones. Other processes import it without `IsGone`."""

    def store_model(self, kind, *arguments):
        """Publish a model with the schema and the golden rows of version 2, and return its version."""
        manifest = self.store.manifest("default", "2")
        facts = VersionFacts(**{name: getattr(manifest, name) for name in VersionFacts.model_fields})
        model = getattr(self.models, kind)(MODEL_BYTES, *arguments)
        return self.store.publish("default", facts, VersionContents(model, self.store.golden_rows(manifest))).version

    def load(self):
        """Return clients that leave processor time to the trials."""
        return Load([server.port for server in self.servers], clients=2, pause=0.01)

    def assert_version_2_still_serves(self, answers, history):
        """Assert that version 2 answered every request, is active, and that no value of a row leaked."""
        assert failed(answers) == mixed(answers, OFFSETS) == []
        assert {answer.version for answer in answers} == {"2"}
        assert self.store.state("default").history == history
        golden = self.store.golden_rows(self.store.manifest("default", "2"))
        inner_rows = zip(golden.rows[1:-1], golden.answers[1:-1], strict=True)
        values = {repr(value) for row, answer in inner_rows for value in (*row, answer)}
        for server in self.servers:
            _, summary = server.json("GET", "/models/default")
            assert (summary["active"], summary["serving"]) == ("2", "2")
            visible = json.dumps(summary) + server.log
            assert len(values) == 60 and not [value for value in values if value in visible]
            assert peak_memory(server) < 2**29


def peak_memory(server):
    """Return the peak resident memory of the server process in bytes."""
    status = Path(f"/proc/{server.serving_pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("modules")
    kinds = [(name, head, body) for name, (head, body, _) in BROKEN.items() if head]
    classes = [f"class {name}(Line):\n    {head}\n        {body}\n" for name, head, body in kinds]
    (path / "published_models.py").write_text(MODELS_SOURCE + "\n".join(classes))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        module = importlib.import_module("published_models")
        module.IsGone = type("IsGone", (module.Line,), {"__module__": module.__name__})
        yield module


@pytest.fixture(scope="module")
def trial_site(two_versions, models, tmp_path_factory):
    instance = shutil.copytree(two_versions, tmp_path_factory.mktemp("trial_site") / "instance")
    variables = {"PYTHONPATH": str(Path(models.__file__).parent), "FLASKML_TRIAL_MEMORY": str(2**26)}
    with ExitStack() as running:
        servers = []
        for limits in ({}, {"FLASKML_TRIAL_TIMEOUT": "3"}):
            servers.append(start(instance, **variables, **limits))
            running.callback(servers[-1].stop)
        yield TrialSite(ModelStore(instance), servers, models)


def test_the_base_class_of_the_broken_models_is_accepted(trial_site):
    version = trial_site.store_model("Line")
    for activated in (version, "2"):
        activate_over_http(trial_site.servers[0], activated)
        for server in trial_site.servers:
            answer = server.json("POST", "/predict", {"x0": 0.5})[1]
            assert answer == {"prediction": pytest.approx(1000.5), "model": "default", "version": activated}


@pytest.mark.parametrize(
    "kinds",
    [
        ["AbortsLoading", "AnswersOtherwise"],
        pytest.param(list(BROKEN), marks=pytest.mark.gauntlet),
    ],
    ids=["some", "all"],
)
def test_broken_models_are_rejected_under_load(trial_site, kinds):
    history, outcomes = trial_site.store.state("default").history, {}
    with trial_site.load() as load:
        for kind in kinds:
            version = trial_site.store_model(kind)
            server = trial_site.servers[BROKEN[kind][2] is SLOW]
            status, answer = server.json("PUT", "/models/default/active", {"version": version})
            _, summary = trial_site.servers[0].json("GET", "/models/default")
            (verdict,) = summary["verdicts"][version].values()
            outcomes[kind] = (status, verdict["accepted"], verdict["reason"], answer.get("detail", ""))
        load.wait_for(len(load.answers) + 100)
    for kind, (status, accepted, reason, detail) in outcomes.items():
        assert (status, accepted) == (409, False) and re.search(BROKEN[kind][2], reason), (kind, outcomes[kind])
        assert reason in detail
    trial_site.assert_version_2_still_serves(load.answers, history)


@pytest.mark.parametrize("had_trial", [False, True], ids=["no trial", "accepted before"])
def test_damaged_versions_are_refused_under_load(trial_site, had_trial):
    history, outcomes = trial_site.store.state("default").history, {}
    with trial_site.load() as load:
        for kind, (damage, file, _) in DAMAGED.items():
            version = trial_site.store_model("Line")
            if had_trial:
                accept(trial_site.store, "default", version, active=False, mapped=True)
            damage(trial_site.store.folder("default", version) / file)
            outcomes[kind] = trial_site.servers[0].json("PUT", "/models/default/active", {"version": version})
        load.wait_for(len(load.answers) + 100)
    for kind, (status, answer) in outcomes.items():
        assert status in (409, 503) and re.search(DAMAGED[kind][2], answer["detail"]), (kind, answer)
    trial_site.assert_version_2_still_serves(load.answers, history)


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_a_model_that_refuses_the_warm_up_rows_is_served(trial_site, error):
    """A failed warm-up must not keep a model from serving that has answered its golden rows."""
    version = trial_site.store_model("Picky", error)
    with trial_site.load() as load:
        for activated in (version, "2"):
            activate_over_http(trial_site.servers[0], activated)
            load.wait_for(len(load.answers) + 20)
    assert failed(load.answers) == mixed(load.answers, {version: 1000, **OFFSETS}) == []
    assert {answer.version for answer in load.answers} == {"2", version}
