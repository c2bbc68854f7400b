"""`flask models`, as a user types it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flaskml.cli.models import models
from flaskml.hot_reload.roster import Roster
from flaskml.inference.predictor import open_predictor
from flaskml.store.model_store import ModelStore, environment_key
from tests.support.checkout import CHECKOUT
from tests.support.stores import Canary, constant, load_active, put

pytestmark = pytest.mark.thorough

TABLE = pd.DataFrame(np.random.default_rng(3).random((40, 2)), columns=["a", "b"])
TARGET = TABLE["a"] * 2 - TABLE["b"]


@pytest.fixture
def flask_models(instance, monkeypatch):
    """Types `flask models ...` and returns its result, an exit code by default 0 checked."""
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)

    def invoke(*arguments, code=0, answer=None):
        result = CliRunner().invoke(models, [str(argument) for argument in arguments], input=answer)
        assert result.exit_code == code, result.output + repr(result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        return result

    return invoke


@pytest.fixture
def two(store, trials):
    """A second version of the default model, accepted and not active."""
    from flaskml.publishing.trial import TrialLimits, ensure_accepted

    put(store, constant(7))
    ensure_accepted(store, "default", "2", TrialLimits())
    return store


@pytest.fixture
def files(tmp_path):
    """A joblib file, and its sample with the target."""
    joblib.dump(make_pipeline(StandardScaler(), LinearRegression()).fit(TABLE, TARGET), tmp_path / "model.joblib")
    TABLE.assign(sold=TARGET).to_csv(tmp_path / "sample.csv", index=False)
    return tmp_path


def added(files, model="model.joblib", name="mine"):
    return ["add", files / model, "--data", files / "sample.csv", "--target", "sold", "--name", name]


@pytest.fixture
def canary(files):
    """A file that makes a folder when it is loaded, and that folder."""
    joblib.dump(Canary(str(files / "canary")), files / "canary.joblib")
    return files / "canary"


def test_list(flask_models, two):
    two.alias("default", "next", "2")
    told = flask_models("list").stdout.splitlines()
    assert [line.split() for line in told] == [
        ["default", "active", "1", "of", "2,", "next", "is", "2"],
        ["homes", "active", "1", "of", "1"],
    ]
    assert json.loads(flask_models("list", "--json").stdout) == [
        {"name": "default", "active": "1", "versions": ["1", "2"], "aliases": {"next": "2"}},
        {"name": "homes", "active": "1", "versions": ["1"], "aliases": {}},
    ]


def test_list_of_an_empty_store(flask_models, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(tmp_path / "empty"))
    assert flask_models("list").stdout == "No model yet. Train one: flask train\n"
    assert flask_models("list", "--json").stdout == "[]\n"
    assert flask_models("verify").exit_code == 0
    assert not (tmp_path / "empty").exists()


def test_list_shows_the_other_models_beside_a_damaged_one(flask_models, store):
    (store.root / "default/state.json").write_text("broken")
    told = json.loads(flask_models("list", "--json").stdout)
    assert "models/default/state.json" in told[0]["fault"] and told[1]["name"] == "homes"


def test_show_a_model(flask_models, two):
    two.activate("default", "2", "it is better")
    for options in ([], ["--json"]):
        shown = json.loads(flask_models("show", "default", *options).stdout)
        assert (shown["name"], shown["active"], shown["versions"]) == ("default", "2", ["1", "2"])
        history = [(entry["version"], entry["reason"]) for entry in shown["history"]]
        assert history == [("1", "trained on regression"), ("2", "it is better")]
        assert all(entry["at"] for entry in shown["history"])


def test_show_a_version(flask_models, store):
    for options in ([], ["--json"]):
        shown = json.loads(flask_models("show", "homes", "1", *options).stdout)
        assert (shown["model"], shown["version"], shown["target"]) == ("homes", "1", "sold")
        assert shown["verdicts"][environment_key()]["accepted"] is True
        assert "model.joblib" in shown["files"]


@pytest.mark.parametrize("answer", ["y\n", "yes\n"])
def test_adding_asks_first(flask_models, files, store, swift, answer):
    result = flask_models(*added(files), answer=answer)
    assert "Loading model.joblib runs whatever code its author put into it." in result.stderr
    assert result.stdout.splitlines() == [
        "mine version 1, active",
        "next: FLASKML_MODEL_NAME=mine waitress-serve wsgi:app",
    ]
    manifest = store.manifest("mine", "1")
    assert (manifest.estimator, manifest.data) == ("StandardScaler + LinearRegression", "sample.csv")
    assert manifest.schema_.names == ("a", "b") and manifest.score.value == pytest.approx(1)


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "perhaps\n"])
def test_without_a_yes_nothing_is_loaded(flask_models, files, store, canary, answer):
    result = flask_models(*added(files, "canary.joblib"), code=1, answer=answer)
    assert "Do you trust where it comes from?" in result.stderr and result.stdout == ""
    assert not canary.exists() and store.names() == ["default", "homes"]


def test_the_canary_sings_where_it_is_trusted(flask_models, files, canary):
    result = flask_models(*added(files, "canary.joblib"), "--trust", code=1)
    assert canary.exists() and "neither predicts nor transforms" in result.stderr


def test_adding_with_trust_asks_nothing(flask_models, files, store, swift):
    result = flask_models(*added(files), "--trust", "--json")
    assert json.loads(result.stdout) == {"model": "mine", "version": "1", "active": True}
    assert result.stderr == "" and store.state("mine").active == "1"


def test_the_question_does_not_disturb_json(flask_models, files, swift):
    assert json.loads(flask_models(*added(files), "--json", answer="y\n").stdout)["version"] == "1"


def test_adding_without_activating(flask_models, files, store, swift):
    result = flask_models(*added(files, name="default"), "--trust", "--no-activate", "--json")
    assert json.loads(result.stdout) == {"model": "default", "version": "2", "active": False}
    state = store.state("default")
    assert state.active == "1" and state.verdict("2", environment_key()).accepted
    assert "version 3, stored" in flask_models(*added(files, name="default"), "--trust", "--no-activate").stdout


def test_a_sample_may_have_its_columns_in_any_order_and_more_of_them(flask_models, files, store, swift):
    TABLE[["b", "a"]].assign(note="x").to_csv(files / "sample.csv", index=False)
    flask_models("add", files / "model.joblib", "--data", files / "sample.csv", "--name", "mine", "--trust")
    assert store.manifest("mine", "1").schema_.names == ("a", "b")


def test_what_was_learnt_is_shown_and_can_be_corrected(flask_models, files, store, swift):
    flask_models(*added(files), "--trust")
    shown = json.loads(flask_models("show", "mine", "--schema").stdout)
    assert [feature["name"] for feature in shown["features"]] == ["a", "b"] and shown["out_of_range"] == "warn"
    shown["out_of_range"] = "refuse"
    shown["features"][0]["maximum"] = 7.5
    (files / "schema.json").write_text(json.dumps(shown))
    flask_models(*added(files), "--trust", "--schema", files / "schema.json")
    assert json.loads(flask_models("show", "mine", "2", "--schema", "--json").stdout) == shown


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("a\n1\n", "sample.csv lacks columns that the estimator was fitted on: b."),
        ("a,b\n", "row"),
        ("a,a\n1,2\n", 'more than one column called "a"'),
        ("", "CSV"),
        ("a,b,sold\nx,y,1\n", "sample"),
        ("a,b\n1,2\n", 'no column "sold"'),
    ],
)
def test_samples_that_are_refused(flask_models, files, store, sample, said):
    (files / "sample.csv").write_text(sample)
    options = [] if "sold" not in sample + said else ["--target", "sold"]
    data = ["add", files / "model.joblib", "--data", files / "sample.csv", "--name", "mine", "--trust"]
    result = flask_models(*data, *options, code=1)
    assert said in result.stderr and result.stderr.startswith("Error: ") and "mine" not in store.names()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05."])
def test_a_joblib_file_that_is_none(flask_models, files, content):
    (files / "model.joblib").write_bytes(content)
    assert "model.joblib does not load here (" in flask_models(*added(files), "--trust", code=1).stderr


def test_a_class_beside_the_current_folder_is_found_by_the_installed_command(files, instance):
    """As the remedy for a class of a notebook says: it lies beside wsgi.py, where the server finds it too."""
    (files / "mymodel.py").write_text(
        "from sklearn.linear_model import LinearRegression\nclass Mine(LinearRegression):\n    pass\n"
    )
    make = (
        "import joblib, pandas as pd, mymodel\ntable = pd.read_csv('sample.csv')\n"
        "joblib.dump(mymodel.Mine().fit(table[['a', 'b']], table['sold']), 'model.joblib')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=files, check=True)
    command = [Path(sysconfig.get_path("scripts")) / "flask", "models", *map(str, added(files)), "--trust"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    done = subprocess.run(command, cwd=files, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = ModelStore(instance)
    assert store.manifest("mine", "1").estimator == "Mine"
    verdict = store.state("mine").verdict("1", environment_key())
    assert verdict.accepted and verdict.reason == "32 golden rows answered as in training."


def dump_skops(estimator, path):
    pytest.importorskip("skops")
    from skops import io

    io.dump(estimator, path)


class Own(LinearRegression):
    """A class that no list of trusted types has."""


def test_a_skops_file_is_loaded_without_a_question(flask_models, files, store, swift):
    dump_skops(make_pipeline(StandardScaler(), LinearRegression()).fit(TABLE, TARGET), files / "model.skops")
    result = flask_models(*added(files, "model.skops"), "--runtime", "sklearn", "--json")
    assert json.loads(result.stdout)["version"] == "1" and result.stderr == ""
    answers = load_active(store, "mine").estimator.predict(TABLE)
    np.testing.assert_allclose(answers, TARGET, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trust", [[], ["--trust"]])
@pytest.mark.parametrize("kind", ["class", "function"])
def test_a_skops_file_with_a_type_beyond_the_list_is_refused(flask_models, files, store, kind, trust):
    estimator = Own() if kind == "class" else make_pipeline(FunctionTransformer(os.getcwd), LinearRegression())
    dump_skops(estimator.fit(TABLE, TARGET) if kind == "class" else estimator, files / "model.skops")
    told = flask_models(*added(files, "model.skops"), *trust, code=1).stderr
    assert "model.skops is not taken" in told and ("Own" if kind == "class" else "getcwd") in told
    assert "mine" not in store.names()


@pytest.mark.parametrize("content", ["canary", "text", "empty", "zip of a canary"])
def test_what_is_only_called_skops_is_refused_and_never_unpickled(flask_models, files, canary, content):
    pytest.importorskip("skops")
    path = files / "model.skops"
    if content == "canary":
        shutil.copy(files / "canary.joblib", path)
    elif content == "zip of a canary":
        (files / "folder").mkdir()
        shutil.copy(files / "canary.joblib", files / "folder/schema.json")
        shutil.make_archive(str(files / "made"), "zip", files / "folder")
        shutil.move(files / "made.zip", path)
    else:
        path.write_text("" if content == "empty" else "no archive")
    for trust in ([], ["--trust"]):
        assert "model.skops is not taken (" in flask_models(*added(files, "model.skops"), *trust, code=1).stderr
    assert not canary.exists()


def onnx_file(files):
    """The estimator of the joblib file as a graph, made by somebody else."""
    skl2onnx = pytest.importorskip("skl2onnx")
    estimator = LinearRegression().fit(TABLE.to_numpy(), TARGET)
    graph = skl2onnx.to_onnx(estimator, TABLE.to_numpy(dtype=np.float32)[:1])
    (files / "model.onnx").write_bytes(graph.SerializeToString())
    return "model.onnx"


def test_a_graph_is_added_without_a_question(flask_models, files, store, swift):
    result = flask_models(*added(files, onnx_file(files)), "--json")
    assert json.loads(result.stdout) == {"model": "mine", "version": "1", "active": True} and result.stderr == ""
    manifest = store.manifest("mine", "1")
    assert (manifest.runtime, manifest.estimator, manifest.task) == ("onnx", "ONNX graph", "regression")
    assert manifest.schema_.names == ("a", "b")
    predictor = open_predictor(store.load("mine", "1"), max_rows=100)
    answers = predictor.predict(predictor.parser.parse_table(TABLE))
    np.testing.assert_allclose(answers, TARGET, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime", "sklearn"], "computed by the runtime onnx, not by sklearn"),
        (["--data", "README.md"], "README.md"),
    ],
)
def test_a_graph_that_is_not_added(flask_models, files, store, options, said):
    told = flask_models(*added(files, onnx_file(files)), *options, code=1).stderr
    assert said in told and "Traceback" not in told and "mine" not in store.names()


def test_what_is_only_called_onnx_is_refused(flask_models, files, store, canary):
    pytest.importorskip("onnx")
    shutil.copy(files / "canary.joblib", files / "model.onnx")
    told = flask_models(*added(files, "model.onnx"), code=1).stderr
    assert "It is no ONNX file" in told and not canary.exists() and "mine" not in store.names()


def test_a_graph_without_the_library_says_what_to_install(flask_models, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (files / "model.onnx").write_bytes(b"x")
    assert "pip install 'flaskml[fast]'" in flask_models(*added(files, "model.onnx"), code=1).stderr


def test_the_runtime_can_be_said_and_what_was_measured_is_shown(flask_models, files, store, swift):
    pytest.importorskip("skl2onnx")
    for version, options in enumerate((["--runtime", "sklearn"], ["--runtime", "onnx"], []), 1):
        flask_models(*added(files), "--trust", *options)
        shown = json.loads(flask_models("show", "mine", version).stdout)
        assert not options or shown["runtime"] == options[1]
        assert all(
            found["matches"] and found["note"] and found["one_row_microseconds"] > 0 for found in shown["measurements"]
        )
    assert [found["runtime"] for found in shown["measurements"]] == ["sklearn", "onnx"]
    assert (
        "predict.onnx" in store.manifest("mine", "2").files and "predict.onnx" not in store.manifest("mine", "1").files
    )


def test_a_damaged_graph_is_found(flask_models, files, store, swift):
    flask_models(*added(files, onnx_file(files)))
    path = store.root / "mine/1/predict.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert "mine 1: models/mine/1/predict.onnx: it holds" in flask_models("verify", code=1).stdout


def test_a_skops_file_without_the_library_says_what_to_install(flask_models, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops", None)
    (files / "model.skops").write_text("x")
    assert "pip install 'flaskml[skops]'" in flask_models(*added(files, "model.skops"), code=1).stderr


def test_activate(flask_models, two):
    assert flask_models("activate", "default", "2").stdout == "default version 2 is active\n"
    generation = two.state("default").generation
    told = json.loads(flask_models("activate", "default", "1", "--json").stdout)
    assert told == {"name": "default", "active": "1", "generation": generation + 1, "lagging": []}
    assert [entry.reason for entry in two.state("default").history][-2:] == ["flask models activate"] * 2


def test_rollback(flask_models, two):
    flask_models("activate", "default", "2")
    assert flask_models("rollback", "default").stdout == "default version 1 is active\n"
    assert json.loads(flask_models("rollback", "default", "--json").stdout)["active"] == "2"
    assert [entry.reason for entry in two.state("default").history][-2:] == ["rolled back"] * 2
    assert "No version of" in flask_models("rollback", "homes", code=1).stderr


def test_a_process_that_lags_is_named(flask_models, two, instance, monkeypatch):
    monkeypatch.setattr("flaskml.hot_reload.registry.ROSTER_TIMEOUT_SECONDS", 0.2)
    other = Roster(instance)
    other.enter()
    try:
        told = flask_models("activate", "default", "2").stdout
        assert told == f"default version 2 is active; not yet served by process {os.getpid()}\n"
        assert json.loads(flask_models("activate", "default", "1", "--json").stdout)["lagging"] == [os.getpid()]
    finally:
        other.leave()


def test_a_rejected_version_is_not_activated(flask_models, store, trials):
    put(store, constant(7))
    trials.rejected.add("2")
    for command in (["activate", "default", "2"], ["alias", "default", "next", "2"]):
        told = flask_models(*command, code=1).stderr
        assert 'Version 2 of "default" was rejected in its trial: said so by the test.' in told
    state = store.state("default")
    assert state.active == "1" and not state.aliases


def test_alias(flask_models, two):
    assert flask_models("alias", "default", "next", "2").exit_code == 0
    told = json.loads(flask_models("alias", "default", "next", "2", "--json").stdout)
    assert told["active"] == "1" and two.state("default").aliases == {"next": "2"}
    for alias in ("2", "../x", "A b"):
        assert "cannot be an alias" in flask_models("alias", "default", alias, "2", code=1).stderr


def test_taking_an_alias_away(flask_models, two):
    flask_models("alias", "default", "next", "2")
    for _ in range(2):
        told = json.loads(flask_models("alias", "default", "next", "--delete", "--json").stdout)
        assert told["active"] == "1" and two.state("default").aliases == {}
    flask_models("delete", "default", "2")
    assert two.versions("default") == ["1"]


def test_a_rejection_is_tried_once_more_when_asked_for(flask_models, two, trials):
    put(two, constant(9))
    trials.rejected.add("3")
    for _ in range(2):
        flask_models("activate", "default", "3", code=1)
    trials.rejected.clear()
    flask_models("activate", "default", "3")
    assert two.state("default").active == "3"


def test_a_rollback_passes_over_what_was_deleted(flask_models, two):
    put(two, constant(9))
    for version in ("2", "3", "2"):
        flask_models("activate", "default", version)
    flask_models("delete", "default", "3")
    assert json.loads(flask_models("rollback", "default", "--json").stdout)["active"] == "1"


def test_delete(flask_models, two):
    flask_models("alias", "default", "next", "2")
    for version in ("1", "2"):
        assert "is active or has an alias" in flask_models("delete", "default", version, code=1).stderr
    flask_models("alias", "default", "next", "1")
    assert flask_models("delete", "default", "2").stdout == "default version 2 is gone\n"
    assert two.versions("default") == ["1"]


def test_deleting_what_is_not_there_is_no_error(flask_models, two):
    flask_models("delete", "default", "2")
    told = flask_models("delete", "default", "2", "--json").stdout
    assert json.loads(told) == {"name": "default", "deleted": "2"}
    flask_models("delete", "default", "99")


def test_deleting_the_only_version_twice(flask_models, store):
    put(store, constant(7), "fresh")
    for _ in range(2):
        flask_models("delete", "fresh", "1")
    assert "fresh" not in store.names()


UNKNOWN = {
    "show": ["show", "hommes"],
    "show a version": ["show", "hommes", "1"],
    "activate": ["activate", "hommes", "1"],
    "rollback": ["rollback", "hommes"],
    "delete": ["delete", "hommes", "1"],
    "alias": ["alias", "hommes", "stable", "1"],
}


@pytest.mark.parametrize("command", UNKNOWN)
def test_an_unknown_model_is_an_error_with_the_nearest_name(flask_models, store, command):
    for options in ([], ["--json"]):
        result = flask_models(*UNKNOWN[command], *options, code=1)
        assert result.stderr.startswith('Error: There is no model "hommes"; did you mean "homes"?')
    assert sorted(path.name for path in store.root.iterdir()) == ["default", "homes"]


@pytest.mark.parametrize(
    "command",
    [["show", "homes", "7"], ["activate", "homes", "7"], ["alias", "homes", "stable", "7"], ["delete", "homes", "x"]],
)
def test_an_unknown_version_is_an_error(flask_models, command):
    assert 'Model "homes" has no version' in flask_models(*command, code=1).stderr


@pytest.mark.parametrize(
    "command",
    [
        ["show"],
        ["activate", "default"],
        ["rollback"],
        ["delete", "default"],
        ["alias", "default", "stable"],
        ["list", "more"],
        ["verify", "--all"],
        ["add"],
        ["add", "absent.joblib", "--data", "README.md", "--name", "x"],
        ["add", "README.md", "--name", "x"],
        ["add", "README.md", "--data", "README.md"],
        ["nothing"],
    ],
)
def test_wrong_use(flask_models, command):
    assert "Usage:" in flask_models(*command, code=2).stderr


def test_verify(flask_models, two):
    checked = [("default", "state"), ("default", "1"), ("default", "2"), ("homes", "state"), ("homes", "1")]
    assert flask_models("verify").stdout.splitlines() == [f"{name} {version}: ok" for name, version in checked]
    assert json.loads(flask_models("verify", "--json").stdout) == [
        {"name": name, "version": version, "fault": None} for name, version in checked
    ]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path):
    shutil.copy(path, path.parents[3] / "copy")
    path.unlink()
    path.symlink_to(path.parents[3] / "copy")


TAMPERED = {
    "model": ("1/model.joblib", flip, "models/homes/1/model.joblib: its SHA-256"),
    "manifest": ("1/manifest.json", flip, "models/homes/1/manifest.json: "),
    "golden rows": ("1/golden.json", flip, "models/homes/1/golden.json: its SHA-256"),
    "signature": ("1/manifest.sig", flip, "models/homes/1/manifest.json: its signature"),
    "file for a group": ("1/model.joblib", lambda path: path.chmod(0o660), "models/homes/1/model.joblib: others may"),
    "version for a group": ("1", lambda path: path.chmod(0o770), "models/homes/1: others may"),
    "model for a group": ("", lambda path: path.chmod(0o770), "models/homes: others may"),
    "link": ("1/model.joblib", link, "models/homes/1/model.joblib: it is neither"),
    "hard link": (
        "1/model.joblib",
        lambda path: os.link(path, path.parents[3] / "second"),
        "models/homes/1/model.joblib: it has a second name",
    ),
    "file gone": ("1/golden.json", Path.unlink, "models/homes/1/golden.json: it cannot be read"),
    "state": ("state.json", lambda path: path.write_text("{"), "models/homes/state.json: "),
    "state for a group": ("state.json", lambda path: path.chmod(0o660), "models/homes/state.json: others may"),
    "version under another number": ("1", lambda path: path.rename(path.parent / "2"), "models/homes/2/manifest.json"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_verify_names_what_was_tampered_with(flask_models, store, case):
    place, spoil, told = TAMPERED[case]
    spoil(store.root / "homes" / place)
    lines = flask_models("verify", code=1).stdout.splitlines()
    assert lines[:2] == ["default state: ok", "default 1: ok"]
    faulty = [line for line in lines if not line.endswith(": ok")]
    assert told in faulty[-1]
    assert len(faulty) == (2 if case == "version under another number" else 1)  # The state names the old number.
    rows = json.loads(flask_models("verify", "--json", code=1).stdout)
    faults = [row["fault"] for row in rows if row["fault"]]
    assert told in faults[-1] and len(faults) == len(faulty)
    assert not [row for row in rows if row["fault"] and row["name"] != "homes"]


def test_verify_tells_that_the_active_version_is_gone(flask_models, two, tmp_path):
    (two.root / "default/1").rename(tmp_path / "gone")
    lines = flask_models("verify", code=1).stdout.splitlines()
    assert lines[0].startswith("default state: ") and "version 1" in lines[0]


def test_verify_without_the_key(flask_models, instance):
    (instance / "signing.key").unlink()
    lines = flask_models("verify", code=1).stdout.splitlines()
    faulty = [line for line in lines if not line.endswith(": ok")]
    assert len(faulty) == 2 and all("its signature is not by signing.key" in line for line in faulty)
    assert not (instance / "signing.key").exists()


def test_verify_where_checks_only_warn(flask_models, store, monkeypatch, caplog):
    monkeypatch.setenv("FLASKML_STORE_CHECKS", "warn")
    (store.root / "homes/1").chmod(0o770)
    flask_models("verify")
    assert "models/homes/1: others may write to it" in caplog.text


def test_verify_loads_nothing(flask_models, store, tmp_path):
    put(store, Canary(str(tmp_path / "canary")))
    flask_models("verify")
    assert not (tmp_path / "canary").exists()


def test_no_command_tells_a_text_of_a_row(flask_models, store):
    golden = store.golden(store.manifest("homes", "1"))
    texts = {value for row in golden.rows for value in row if isinstance(value, str) and "case" in value}
    assert texts
    commands = [
        ["list"],
        ["show", "homes"],
        ["show", "homes", "1"],
        ["verify"],
        ["list", "--json"],
        ["verify", "--json"],
    ]
    told = "".join(flask_models(*command).output for command in commands)
    assert not [text for text in texts if text in told]
