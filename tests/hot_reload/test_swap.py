"""Versions that change, or are broken, while clients ask without a pause."""

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
from tests.support.load import Activation, Answer, Load, activating, failed, mixed, stale
from tests.support.server_processes import Server
from tests.support.stores import accept
from tests.support.two_versions import OFFSETS

pytestmark = pytest.mark.thorough


@pytest.fixture
def instance(two_versions, tmp_path):
    """A copy of an instance folder with two versions."""
    return Path(shutil.copytree(two_versions, tmp_path / "instance"))


def start(instance, *program, **variables):
    """A server on the instance folder: waitress-serve unless told otherwise."""
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
    told = json.loads(done.stdout)
    assert (told["active"], told["lagging"]) == (version, [])


@pytest.mark.parametrize(
    ("requests", "count"),
    [
        (3_000, 10),
        pytest.param(20_000, 50, marks=pytest.mark.gauntlet),
        pytest.param(200_000, 500, marks=pytest.mark.gauntlet),
    ],
)
def test_swaps_under_load(serve, instance, requests, count):
    servers = [serve("waitress-serve"), serve("flask serve")]
    activations = [Activation("2", 0, 0)]
    with Load(server.port for server in servers) as load:
        for number in range(count):
            version = "2" if number % 2 else "1"
            with activating(version, activations):
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


def test_the_checks_find_what_they_look_for():
    activations = [Activation("2", 0, 0), Activation("1", 10, 11), Activation("2", 20, 21)]
    good = [
        answer_at(5, "2"),
        answer_at(9, "1", received=10.5),  # The process has it before all have.
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


LYING = """
from flaskml.hot_reload.registry import Registry
from waitress.runner import run

def refresh(registry):
    return {name: registry.store.state(name).revision for name in registry.store.names()}

Registry.refresh = refresh
run(["waitress-serve", "--listen=127.0.0.1:0", "wsgi:app"])
"""
"""A server that tells the roster that it serves what is active, and goes on with what it has."""


def test_a_process_that_only_says_that_it_swapped_is_found(instance):
    server = start(instance, "-c", LYING)
    activations = [Activation("2", 0, 0)]
    try:
        with Load([server.port], clients=1) as load:
            with activating("1", activations):
                activate_over_http(server, "1")
            load.wait_for(len(load.answers) + 10)
    finally:
        server.stop()
    assert failed(load.answers) == mixed(load.answers, OFFSETS) == []
    assert len(stale(load.answers, activations)) > 5


LINE = """
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
        if ((rows > 450) & (rows < 550)).any():  # In the middle of the range, where no golden row is.
            raise self.error
        return super().predict(rows)

"""
"""A good model that is as large as it is told to be, and the start of a module of broken ones."""


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
    "AnswersOtherwise": (ANSWERING, "return super().predict(rows) + os.getpid()", "golden row 0 otherwise"),
    "AnswersFew": (ANSWERING, "return super().predict(rows)[1:]", "it raised [A-Z]"),
    "AnswersTexts": (ANSWERING, "return super().predict(rows).astype(str)", "golden row 0 otherwise"),
    "AnswersNothing": (ANSWERING, "return super().predict(rows) * math.nan", "golden row 0 otherwise"),
    "AnswersAloneOtherwise": (ANSWERING, "return rows[:, 0] + 999 + len(rows) // 32", "golden row 0 otherwise"),
    "IsNoModel": ("predict = property()", "", "has no predict here"),
    "IsGone": ("", "", "does not load here .AttributeError"),
}
"""Classes of models that are broken everywhere but where they are published: what they do when they are loaded or asked
for answers, and what the verdict says."""


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def sign_elsewhere(file):
    stranger = Signer(file.parents[3] / "other.key", Disk())
    file.write_bytes(stranger.sign(file.with_name("manifest.json").read_bytes(), new_key=True))


def open_to_all(file):
    file.chmod(0o666)


DAMAGED = {
    "a cut model": (cut, "model.joblib", r"holds [0-9,]+ bytes instead"),
    "a flipped bit": (flip, "model.joblib", "SHA-256 is not the one"),
    "a lost model": (Path.unlink, "model.joblib", "cannot be read"),
    "other golden rows": (flip, "golden.json", "SHA-256 is not the one"),
    "another manifest": (flip, "manifest.json", "signature is not by"),
    "a foreign key": (sign_elsewhere, "manifest.sig", "signature is not by"),
    "no signature": (Path.unlink, "manifest.sig", "cannot be read"),
    "a model for all to write": (open_to_all, "model.joblib", "others may write"),
}
"""What befalls the files of a good version, and what the answer to its activation says."""


SIZE = 2**24
"""Bytes of every candidate; ten times as many are more than the least TRIAL_MEMORY and four times the file allow."""


@dataclass(frozen=True)
class Offering:
    """Two servers on one instance folder, the second of which waits only three seconds for a trial, and what offers
    models to them.
    """

    store: ModelStore
    servers: list[Server]
    models: ModuleType
    """A good model and the broken ones; the module that other processes import lacks `IsGone`."""

    def store_model(self, kind, *arguments):
        """Stores a model as a version that claims to be version 2: with its features, and answers to golden rows."""
        manifest = self.store.manifest("default", "2")
        facts = VersionFacts(**{name: getattr(manifest, name) for name in VersionFacts.model_fields})
        model = getattr(self.models, kind)(SIZE, *arguments)
        return self.store.publish("default", facts, VersionContents(model, self.store.golden(manifest))).version

    def load(self):
        """Clients that leave the trials some room."""
        return Load([server.port for server in self.servers], clients=2, pause=0.01)

    def assert_nothing_happened(self, answers, history):
        """Version 2 answered all that was asked, goes on answering, and nobody has told a value of a row."""
        assert failed(answers) == mixed(answers, OFFSETS) == []
        assert {answer.version for answer in answers} == {"2"}
        assert self.store.state("default").history == history
        golden = self.store.golden(self.store.manifest("default", "2"))
        told = zip(golden.rows[1:-1], golden.answers[1:-1], strict=True)
        values = {repr(value) for row, answer in told for value in (*row, answer)}
        for server in self.servers:
            _, shown = server.json("GET", "/models/default")
            assert (shown["active"], shown["serving"]) == ("2", "2")
            told = json.dumps(shown) + server.log
            assert len(values) == 60 and not [value for value in values if value in told]
            assert peak_memory(server) < 2**29


def peak_memory(server):
    """Bytes that the server process has ever held at once."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("modules")
    kinds = [(name, head, does) for name, (head, does, _) in BROKEN.items() if head]
    classes = [f"class {name}(Line):\n    {head}\n        {does}\n" for name, head, does in kinds]
    (path / "models_offered.py").write_text(LINE + "\n".join(classes))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path))
        module = importlib.import_module("models_offered")
        module.IsGone = type("IsGone", (module.Line,), {"__module__": module.__name__})
        yield module


@pytest.fixture(scope="module")
def offering(two_versions, models, tmp_path_factory):
    instance = shutil.copytree(two_versions, tmp_path_factory.mktemp("offering") / "instance")
    variables = {"PYTHONPATH": str(Path(models.__file__).parent), "FLASKML_TRIAL_MEMORY": str(2**26)}
    with ExitStack() as running:
        servers = []
        for limits in ({}, {"FLASKML_TRIAL_TIMEOUT": "3"}):
            servers.append(start(instance, **variables, **limits))
            running.callback(servers[-1].stop)
        yield Offering(ModelStore(instance), servers, models)


def test_the_model_that_the_broken_ones_are_made_of_is_good(offering):
    version = offering.store_model("Line")
    for activated in (version, "2"):
        activate_over_http(offering.servers[0], activated)
        for server in offering.servers:
            answer = server.json("POST", "/predict", {"x0": 0.5})[1]
            assert answer == {"prediction": pytest.approx(1000.5), "model": "default", "version": activated}


@pytest.mark.parametrize(
    "kinds",
    [
        ["HangsLoading", "AbortsLoading", "GrowsAnswering", "AnswersOtherwise"],
        pytest.param(list(BROKEN), marks=pytest.mark.gauntlet),
    ],
    ids=["some", "all"],
)
def test_broken_models_offered_under_load(offering, kinds):
    history, told = offering.store.state("default").history, {}
    with offering.load() as load:
        for kind in kinds:
            version = offering.store_model(kind)
            server = offering.servers[BROKEN[kind][2] is SLOW]
            status, answer = server.json("PUT", "/models/default/active", {"version": version})
            _, shown = offering.servers[0].json("GET", "/models/default")
            (verdict,) = shown["verdicts"][version].values()
            told[kind] = (status, verdict["accepted"], verdict["reason"], answer.get("detail", ""))
        load.wait_for(len(load.answers) + 100)
    for kind, (status, accepted, reason, detail) in told.items():
        assert (status, accepted) == (409, False) and re.search(BROKEN[kind][2], reason), (kind, told[kind])
        assert reason in detail
    offering.assert_nothing_happened(load.answers, history)


@pytest.mark.parametrize("tried", [False, True], ids=["never tried", "accepted before"])
def test_damaged_versions_offered_under_load(offering, tried):
    history, told = offering.store.state("default").history, {}
    with offering.load() as load:
        for kind, (damage, file, _) in DAMAGED.items():
            version = offering.store_model("Line")
            if tried:
                accept(offering.store, "default", version, active=False, mapped=True)
            damage(offering.store.folder("default", version) / file)
            told[kind] = offering.servers[0].json("PUT", "/models/default/active", {"version": version})
        load.wait_for(len(load.answers) + 100)
    for kind, (status, answer) in told.items():
        assert status in (409, 503) and re.search(DAMAGED[kind][2], answer["detail"]), (kind, answer)
    offering.assert_nothing_happened(load.answers, history)


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_a_model_that_cannot_answer_a_row_that_is_made_up(offering, error):
    """Its golden rows let it serve; the row that each process warms it with must not be the end of that."""
    version = offering.store_model("Picky", error)
    with offering.load() as load:
        for activated in (version, "2"):
            activate_over_http(offering.servers[0], activated)
            load.wait_for(len(load.answers) + 20)
    assert failed(load.answers) == mixed(load.answers, {version: 1000, **OFFSETS}) == []
    assert {answer.version for answer in load.answers} == {"2", version}
