"""`flask models`: every command, in process."""

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

TABLE = pd.DataFrame(np.random.default_rng(3).random((40, 2)), columns=["a", "b"])
TARGET = TABLE["a"] * 2 - TABLE["b"]


@pytest.fixture
def flask_models(instance, monkeypatch):
    """Run `flask models` with arguments, check the exit code and return the result."""
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)

    def invoke(*arguments, code=0, typed=None):
        result = CliRunner().invoke(models, [str(argument) for argument in arguments], input=typed)
        assert result.exit_code == code, result.output + repr(result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        return result

    return invoke


@pytest.fixture
def two_versions_store(store, trials):
    """Store a second version of the default model, accepted and not active, and return the store."""
    from flaskml.publishing.trial import TrialLimits, ensure_accepted

    put(store, constant(7))
    ensure_accepted(store, "default", "2", TrialLimits())
    return store


@pytest.fixture
def files(tmp_path):
    """Return a folder with a joblib file and a CSV sample that includes the target."""
    joblib.dump(make_pipeline(StandardScaler(), LinearRegression()).fit(TABLE, TARGET), tmp_path / "model.joblib")
    TABLE.assign(sold=TARGET).to_csv(tmp_path / "sample.csv", index=False)
    return tmp_path


def add_arguments(files, model="model.joblib", name="mine"):
    return ["add", files / model, "--data", files / "sample.csv", "--target", "sold", "--name", name]


@pytest.fixture
def canary(files):
    """Write `canary.joblib` and return the folder that loading it creates."""
    joblib.dump(Canary(str(files / "canary")), files / "canary.joblib")
    return files / "canary"


def test_list_prints_active_versions_and_aliases(flask_models, two_versions_store):
    two_versions_store.alias("default", "next", "2")
    lines = flask_models("list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["default", "active:", "1,", "versions:", "2,", "aliases:", "next=2"],
        ["homes", "active:", "1,", "versions:", "1"],
    ]
    assert json.loads(flask_models("list", "--json").stdout) == [
        {"name": "default", "active": "1", "versions": ["1", "2"], "aliases": {"next": "2"}},
        {"name": "homes", "active": "1", "versions": ["1"], "aliases": {}},
    ]


def test_an_empty_store_lists_no_model(flask_models, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(tmp_path / "empty"))
    assert flask_models("list").stdout == "No model yet. Train one: flask train\n"
    assert flask_models("list", "--json").stdout == "[]\n"
    assert flask_models("verify").stdout == "No model to verify.\n"
    assert flask_models("verify", "--json").stdout == "[]\n"
    assert not (tmp_path / "empty").exists()


def test_list_shows_the_fault_of_a_damaged_model_and_all_others(flask_models, store):
    (store.root / "default/state.json").write_text("broken")
    rows = json.loads(flask_models("list", "--json").stdout)
    assert "models/default/state.json" in rows[0]["fault"] and rows[1]["name"] == "homes"


def test_show_prints_the_history(flask_models, two_versions_store):
    two_versions_store.activate("default", "2", "it is better")
    for options in ([], ["--json"]):
        shown = json.loads(flask_models("show", "default", *options).stdout)
        assert (shown["name"], shown["active"], shown["versions"]) == ("default", "2", ["1", "2"])
        history = [(entry["version"], entry["reason"]) for entry in shown["history"]]
        assert history == [("1", "trained on regression"), ("2", "it is better")]
        assert all(entry["at"] for entry in shown["history"])


def test_show_prints_the_manifest(flask_models, store):
    for options in ([], ["--json"]):
        shown = json.loads(flask_models("show", "homes", "1", *options).stdout)
        assert (shown["model"], shown["version"], shown["target"]) == ("homes", "1", "sold")
        assert shown["verdicts"][environment_key()]["accepted"] is True
        assert "model.joblib" in shown["files"]


@pytest.mark.parametrize("typed", ["y\n", "yes\n"])
def test_add_asks_before_it_loads_a_joblib_file(flask_models, files, store, swift, typed):
    result = flask_models(*add_arguments(files), typed=typed)
    assert "Loading model.joblib runs any code that its author put into it." in result.stderr
    assert result.stdout.splitlines() == [
        "mine version 1, active",
        "next: FLASKML_MODEL_NAME=mine waitress-serve wsgi:app",
    ]
    manifest = store.manifest("mine", "1")
    assert (manifest.estimator, manifest.data) == ("StandardScaler + LinearRegression", "sample.csv")
    assert manifest.schema_.names == ("a", "b") and manifest.score.value == pytest.approx(1)


@pytest.mark.parametrize("typed", ["n\n", "\n", "", "perhaps\n"])
def test_without_confirmation_add_loads_nothing(flask_models, files, store, canary, typed):
    result = flask_models(*add_arguments(files, "canary.joblib"), code=1, typed=typed)
    assert "Do you trust its source?" in result.stderr and result.stdout == ""
    assert not canary.exists() and store.names() == ["default", "homes"]


def test_a_trusted_joblib_file_runs_its_code(flask_models, files, canary):
    result = flask_models(*add_arguments(files, "canary.joblib"), "--trust", code=1)
    assert canary.exists() and "neither predicts nor transforms" in result.stderr


def test_add_with_trust_asks_nothing(flask_models, files, store, swift):
    result = flask_models(*add_arguments(files), "--trust", "--json")
    assert json.loads(result.stdout) == {"model": "mine", "version": "1", "active": True}
    assert result.stderr == "" and store.state("mine").active == "1"


def test_the_question_is_not_part_of_json_output(flask_models, files, swift):
    assert json.loads(flask_models(*add_arguments(files), "--json", typed="y\n").stdout)["version"] == "1"


def test_no_activate_keeps_the_active_version(flask_models, files, store, swift):
    result = flask_models(*add_arguments(files, name="default"), "--trust", "--no-activate", "--json")
    assert json.loads(result.stdout) == {"model": "default", "version": "2", "active": False}
    state = store.state("default")
    assert state.active == "1" and state.verdict("2", environment_key()).accepted
    stdout = flask_models(*add_arguments(files, name="default"), "--trust", "--no-activate").stdout
    assert stdout == "default version 3, stored\nnext: flask models activate default 3\n"


def test_a_sample_may_have_other_columns_in_any_order(flask_models, files, store, swift):
    TABLE[["b", "a"]].assign(note="x").to_csv(files / "sample.csv", index=False)
    flask_models("add", files / "model.joblib", "--data", files / "sample.csv", "--name", "mine", "--trust")
    assert store.manifest("mine", "1").schema_.names == ("a", "b")


def test_a_shown_schema_can_be_corrected(flask_models, files, store, swift):
    flask_models(*add_arguments(files), "--trust")
    shown = json.loads(flask_models("show", "mine", "--schema").stdout)
    assert [feature["name"] for feature in shown["features"]] == ["a", "b"] and shown["out_of_range"] == "warn"
    shown["out_of_range"] = "refuse"
    shown["features"][0]["maximum"] = 7.5
    (files / "schema.json").write_text(json.dumps(shown))
    flask_models(*add_arguments(files), "--trust", "--schema", files / "schema.json")
    assert json.loads(flask_models("show", "mine", "2", "--schema", "--json").stdout) == shown


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("a\n1\n", "sample.csv lacks columns that the estimator was fitted on: b."),
        ("a,b\n", "row"),
        ("a,a\n1,2\n", 'more than one column called "a"'),
        ("", "CSV"),
        ("a,b,sold\nx,y,1\n", "sample"),
        ("a,b\n1,2\n", 'no column "sold"'),
    ],
)
def test_an_unsuitable_sample_is_refused(flask_models, files, store, sample, message):
    (files / "sample.csv").write_text(sample)
    options = [] if "sold" not in sample + message else ["--target", "sold"]
    data = ["add", files / "model.joblib", "--data", files / "sample.csv", "--name", "mine", "--trust"]
    result = flask_models(*data, *options, code=1)
    assert message in result.stderr and result.stderr.startswith("Error: ") and "mine" not in store.names()


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05."])
def test_an_invalid_joblib_file_is_refused(flask_models, files, content):
    (files / "model.joblib").write_bytes(content)
    assert "model.joblib does not load here (" in flask_models(*add_arguments(files), "--trust", code=1).stderr


@pytest.mark.thorough
def test_the_installed_command_imports_a_class_from_the_current_folder(files, instance):
    # The message for a class of a notebook suggests a module beside wsgi.py, which the server finds too.
    (files / "mymodel.py").write_text(
        "from sklearn.linear_model import LinearRegression\nclass Mine(LinearRegression):\n    pass\n"
    )
    make = (
        "import joblib, pandas as pd, mymodel\ntable = pd.read_csv('sample.csv')\n"
        "joblib.dump(mymodel.Mine().fit(table[['a', 'b']], table['sold']), 'model.joblib')"
    )
    subprocess.run([sys.executable, "-c", make], cwd=files, check=True)
    command = [Path(sysconfig.get_path("scripts")) / "flask", "models", *map(str, add_arguments(files)), "--trust"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    result = subprocess.run(command, cwd=files, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    store = ModelStore(instance)
    assert store.manifest("mine", "1").estimator == "Mine"
    verdict = store.state("mine").verdict("1", environment_key())
    assert verdict.accepted and verdict.reason == "32 golden rows answered as in training."


def dump_skops(estimator, path):
    pytest.importorskip("skops")
    from skops import io

    io.dump(estimator, path)


class UntrustedRegression(LinearRegression):
    """A class that is on no list of trusted types."""


def test_a_skops_file_is_added_without_a_question(flask_models, files, store, swift):
    dump_skops(make_pipeline(StandardScaler(), LinearRegression()).fit(TABLE, TARGET), files / "model.skops")
    result = flask_models(*add_arguments(files, "model.skops"), "--runtime", "sklearn", "--json")
    assert json.loads(result.stdout)["version"] == "1" and result.stderr == ""
    answers = load_active(store, "mine").estimator.predict(TABLE)
    np.testing.assert_allclose(answers, TARGET, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("trust", [[], ["--trust"]])
@pytest.mark.parametrize("kind", ["class", "function"])
def test_a_skops_file_with_an_untrusted_type_is_refused(flask_models, files, store, kind, trust):
    estimator = (
        UntrustedRegression() if kind == "class" else make_pipeline(FunctionTransformer(os.getcwd), LinearRegression())
    )
    dump_skops(estimator.fit(TABLE, TARGET) if kind == "class" else estimator, files / "model.skops")
    stderr = flask_models(*add_arguments(files, "model.skops"), *trust, code=1).stderr
    assert "model.skops is refused" in stderr and ("UntrustedRegression" if kind == "class" else "getcwd") in stderr
    assert "mine" not in store.names()


@pytest.mark.parametrize("content", ["canary", "text", "empty", "zip of a canary"])
def test_an_invalid_skops_file_is_refused_and_not_unpickled(flask_models, files, canary, content):
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
        assert "model.skops is refused (" in flask_models(*add_arguments(files, "model.skops"), *trust, code=1).stderr
    assert not canary.exists()


def write_onnx_file(files):
    """Write the estimator of the joblib file as an ONNX graph and return the file name."""
    skl2onnx = pytest.importorskip("skl2onnx")
    estimator = LinearRegression().fit(TABLE.to_numpy(), TARGET)
    graph = skl2onnx.to_onnx(estimator, TABLE.to_numpy(dtype=np.float32)[:1])
    (files / "model.onnx").write_bytes(graph.SerializeToString())
    return "model.onnx"


def test_an_onnx_file_is_added_without_a_question(flask_models, files, store, swift):
    result = flask_models(*add_arguments(files, write_onnx_file(files)), "--json")
    assert json.loads(result.stdout) == {"model": "mine", "version": "1", "active": True} and result.stderr == ""
    manifest = store.manifest("mine", "1")
    assert (manifest.runtime, manifest.estimator, manifest.task) == ("onnx", "ONNX graph", "regression")
    assert manifest.schema_.names == ("a", "b")
    predictor = open_predictor(store.load("mine", "1"), max_rows=100)
    answers = predictor.predict(predictor.parser.parse_table(TABLE))
    np.testing.assert_allclose(answers, TARGET, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runtime", "sklearn"], "computed by the runtime onnx, not by sklearn"),
        (["--data", "README.md"], "README.md"),
    ],
)
def test_an_onnx_file_with_unsuitable_options_is_refused(flask_models, files, store, options, message):
    stderr = flask_models(*add_arguments(files, write_onnx_file(files)), *options, code=1).stderr
    assert message in stderr and "Traceback" not in stderr and "mine" not in store.names()


def test_an_invalid_onnx_file_is_refused(flask_models, files, store, canary):
    pytest.importorskip("onnx")
    shutil.copy(files / "canary.joblib", files / "model.onnx")
    stderr = flask_models(*add_arguments(files, "model.onnx"), code=1).stderr
    assert "The file is not an ONNX graph" in stderr and not canary.exists() and "mine" not in store.names()


def test_an_onnx_file_without_onnx_names_the_extra_to_install(flask_models, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (files / "model.onnx").write_bytes(b"x")
    assert "pip install 'flaskml[fast]'" in flask_models(*add_arguments(files, "model.onnx"), code=1).stderr


def test_runtime_selects_the_runtime_and_show_prints_the_measurements(flask_models, files, store, swift):
    pytest.importorskip("skl2onnx")
    for version, options in enumerate((["--runtime", "sklearn"], ["--runtime", "onnx"], []), 1):
        flask_models(*add_arguments(files), "--trust", *options)
        shown = json.loads(flask_models("show", "mine", version).stdout)
        assert not options or shown["runtime"] == options[1]
        assert all(one["matches"] and one["note"] and one["one_row_microseconds"] > 0 for one in shown["measurements"])
    assert [one["runtime"] for one in shown["measurements"]] == ["sklearn", "onnx"]
    assert (
        "predict.onnx" in store.manifest("mine", "2").files and "predict.onnx" not in store.manifest("mine", "1").files
    )


def test_verify_finds_a_damaged_graph(flask_models, files, store, swift):
    flask_models(*add_arguments(files, write_onnx_file(files)))
    path = store.root / "mine/1/predict.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    assert "mine 1: models/mine/1/predict.onnx: it holds" in flask_models("verify", code=1).stdout


def test_a_skops_file_without_skops_names_the_extra_to_install(flask_models, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops", None)
    (files / "model.skops").write_text("x")
    assert "pip install 'flaskml[skops]'" in flask_models(*add_arguments(files, "model.skops"), code=1).stderr


def test_activate_records_the_activation(flask_models, two_versions_store):
    assert flask_models("activate", "default", "2").stdout == "default version 2 is active\n"
    generation = two_versions_store.state("default").generation
    result = json.loads(flask_models("activate", "default", "1", "--json").stdout)
    assert result == {"name": "default", "active": "1", "generation": generation + 1, "lagging": []}
    assert [entry.reason for entry in two_versions_store.state("default").history][-2:] == ["flask models activate"] * 2


def test_rollback_activates_the_previous_version(flask_models, two_versions_store):
    flask_models("activate", "default", "2")
    assert flask_models("rollback", "default").stdout == "default version 1 is active\n"
    assert json.loads(flask_models("rollback", "default", "--json").stdout)["active"] == "2"
    assert [entry.reason for entry in two_versions_store.state("default").history][-2:] == ["rolled back"] * 2
    assert "has no earlier active version" in flask_models("rollback", "homes", code=1).stderr


def test_a_lagging_process_is_named(flask_models, two_versions_store, instance, monkeypatch):
    monkeypatch.setattr("flaskml.hot_reload.registry.ROSTER_TIMEOUT_SECONDS", 0.2)
    other = Roster(instance)
    other.enter()
    try:
        stdout = flask_models("activate", "default", "2").stdout
        lagging = f"process {os.getpid()} still serves the old version: see its log, or restart it"
        assert stdout == f"default version 2 is active; {lagging}\n"
        assert json.loads(flask_models("activate", "default", "1", "--json").stdout)["lagging"] == [os.getpid()]
    finally:
        other.leave()


def test_a_rejected_version_is_not_activated(flask_models, store, trials):
    put(store, constant(7))
    trials.rejected.add("2")
    for command in (["activate", "default", "2"], ["alias", "default", "next", "2"]):
        stderr = flask_models(*command, code=1).stderr
        assert 'Version 2 of "default" was rejected in its trial: the test decided so. The active version' in stderr
        assert "repeat the trial: flask models activate default 2." in stderr
    state = store.state("default")
    assert state.active == "1" and not state.aliases


def test_alias_is_stored(flask_models, two_versions_store):
    assert flask_models("alias", "default", "next", "2").exit_code == 0
    result = json.loads(flask_models("alias", "default", "next", "2", "--json").stdout)
    assert result["active"] == "1" and two_versions_store.state("default").aliases == {"next": "2"}
    for alias in ("2", "../x", "A b"):
        assert "is not a valid alias" in flask_models("alias", "default", alias, "2", code=1).stderr


def test_alias_delete_is_idempotent(flask_models, two_versions_store):
    flask_models("alias", "default", "next", "2")
    for _ in range(2):
        result = json.loads(flask_models("alias", "default", "next", "--delete", "--json").stdout)
        assert result["active"] == "1" and two_versions_store.state("default").aliases == {}
    flask_models("delete", "default", "2")
    assert two_versions_store.versions("default") == ["1"]


def test_activate_tries_a_rejected_version_again(flask_models, two_versions_store, trials):
    put(two_versions_store, constant(9))
    trials.rejected.add("3")
    for _ in range(2):
        flask_models("activate", "default", "3", code=1)
    trials.rejected.clear()
    flask_models("activate", "default", "3")
    assert two_versions_store.state("default").active == "3"


def test_rollback_skips_deleted_versions(flask_models, two_versions_store):
    put(two_versions_store, constant(9))
    for version in ("2", "3", "2"):
        flask_models("activate", "default", version)
    flask_models("delete", "default", "3")
    assert json.loads(flask_models("rollback", "default", "--json").stdout)["active"] == "1"


def test_delete_refuses_versions_in_use(flask_models, two_versions_store):
    flask_models("alias", "default", "next", "2")
    for version in ("1", "2"):
        assert "is active or has an alias" in flask_models("delete", "default", version, code=1).stderr
    flask_models("alias", "default", "next", "1")
    assert flask_models("delete", "default", "2").stdout == "default version 2 is deleted\n"
    assert two_versions_store.versions("default") == ["1"]


def test_delete_of_an_unknown_version_is_no_error(flask_models, two_versions_store):
    flask_models("delete", "default", "2")
    output = flask_models("delete", "default", "2", "--json").stdout
    assert json.loads(output) == {"name": "default", "deleted": "2"}
    flask_models("delete", "default", "99")


def test_delete_of_the_only_version_removes_the_model(flask_models, store):
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
def test_usage_errors_exit_with_2(flask_models, command):
    assert "Usage:" in flask_models(*command, code=2).stderr


def test_verify_accepts_an_intact_store(flask_models, two_versions_store):
    checked = [("default", "state"), ("default", "1"), ("default", "2"), ("homes", "state"), ("homes", "1")]
    assert flask_models("verify").stdout.splitlines() == [f"{name} {version}: ok" for name, version in checked]
    assert json.loads(flask_models("verify", "--json").stdout) == [
        {"name": name, "version": version, "fault": None} for name, version in checked
    ]


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_link(path):
    shutil.copy(path, path.parents[3] / "copy")
    path.unlink()
    path.symlink_to(path.parents[3] / "copy")


TAMPERED = {
    "model": ("1/model.joblib", flip_bit, "models/homes/1/model.joblib: its SHA-256"),
    "manifest": ("1/manifest.json", flip_bit, "models/homes/1/manifest.json: "),
    "golden rows": ("1/golden.json", flip_bit, "models/homes/1/golden.json: its SHA-256"),
    "signature": ("1/manifest.sig", flip_bit, "models/homes/1/manifest.json: its signature"),
    "group-writable file": (
        "1/model.joblib",
        lambda path: path.chmod(0o660),
        "models/homes/1/model.joblib: others may",
    ),
    "group-writable version": ("1", lambda path: path.chmod(0o770), "models/homes/1: others may"),
    "group-writable model": ("", lambda path: path.chmod(0o770), "models/homes: others may"),
    "symbolic link": ("1/model.joblib", replace_by_link, "models/homes/1/model.joblib: it is a symbolic link"),
    "hard link": (
        "1/model.joblib",
        lambda path: os.link(path, path.parents[3] / "second"),
        "models/homes/1/model.joblib: it has more than one hard link",
    ),
    "missing file": ("1/golden.json", Path.unlink, "models/homes/1/golden.json: it cannot be read"),
    "state": ("state.json", lambda path: path.write_text("{"), "models/homes/state.json: "),
    "group-writable state": (
        "state.json",
        lambda path: path.chmod(0o660),
        "models/homes/state.json: others may",
    ),
    "renamed version": ("1", lambda path: path.rename(path.parent / "2"), "models/homes/2/manifest.json"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_verify_names_tampered_files(flask_models, store, case):
    path, tamper, fault = TAMPERED[case]
    tamper(store.root / "homes" / path)
    lines = flask_models("verify", code=1).stdout.splitlines()
    assert lines[:2] == ["default state: ok", "default 1: ok"]
    faulty = [line for line in lines if not line.endswith(": ok")]
    assert fault in faulty[-1]
    assert len(faulty) == (2 if case == "renamed version" else 1)  # The state still names version 1.
    rows = json.loads(flask_models("verify", "--json", code=1).stdout)
    faults = [row["fault"] for row in rows if row["fault"]]
    assert fault in faults[-1] and len(faults) == len(faulty)
    assert not [row for row in rows if row["fault"] and row["name"] != "homes"]


def test_verify_reports_a_missing_active_version(flask_models, two_versions_store, tmp_path):
    (two_versions_store.root / "default/1").rename(tmp_path / "gone")
    lines = flask_models("verify", code=1).stdout.splitlines()
    assert lines[0].startswith("default state: ") and "version 1" in lines[0]


def test_verify_fails_without_the_key(flask_models, instance):
    (instance / "signing.key").unlink()
    lines = flask_models("verify", code=1).stdout.splitlines()
    faulty = [line for line in lines if not line.endswith(": ok")]
    assert len(faulty) == 2 and all("its signature does not match signing.key" in line for line in faulty)
    assert not (instance / "signing.key").exists()


def test_store_checks_warn_only_logs(flask_models, store, monkeypatch, caplog):
    monkeypatch.setenv("FLASKML_STORE_CHECKS", "warn")
    (store.root / "homes/1").chmod(0o770)
    flask_models("verify")
    assert "models/homes/1: others may write to it" in caplog.text


def test_verify_does_not_unpickle(flask_models, store, tmp_path):
    put(store, Canary(str(tmp_path / "canary")))
    flask_models("verify")
    assert not (tmp_path / "canary").exists()


def test_no_command_prints_values_of_golden_rows(flask_models, store):
    golden = store.golden_rows(store.manifest("homes", "1"))
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
    output = "".join(flask_models(*command).output for command in commands)
    assert not [text for text in texts if text in output]
