"""`flask train`: options, summary and errors; `flask run` in debug mode."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from click.testing import CliRunner

from flaskml.cli.train import train_command
from flaskml.store.model_store import ModelStore
from tests.support.checkout import CHECKOUT
from tests.support.sampling import sampled


@pytest.fixture
def runner(instance, monkeypatch, swift):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)
    return CliRunner()


def summary(result):
    """Return the printed summary as a dict from label to text."""
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines())


def test_without_options_the_regression_data_is_trained(runner, store, instance):
    result = runner.invoke(train_command)
    assert result.exit_code == 0, result.output
    printed = summary(result)
    assert printed["data"] == "regression: 100 rows" and printed["features"] == "1: feature"
    assert printed["task"].startswith("regression of target (the target is a number")
    assert printed["score"].startswith("r2 1.0000 on 20") and printed["model"] == "default version 2, active"
    assert printed["stored"] == str(instance / "models/default/2") and printed["next"] == "waitress-serve wsgi:app"
    assert store.state("default").active == "2"


def test_a_csv_file_is_trained(runner, store, mixed_csv):
    result = runner.invoke(
        train_command, ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--seed", "7"]
    )
    assert result.exit_code == 0, result.output
    printed = summary(result)
    assert printed["data"] == "homes.csv: 294 rows (dropped: 6 rows without a target; empty columns: empty)"
    assert printed["task"] == "classification of sold (the target is text or true/false, 2 distinct values)"
    assert printed["next"] == "FLASKML_MODEL_NAME=mine waitress-serve wsgi:app"
    assert store.manifest("mine", "1").seed == 7


@pytest.mark.parametrize("data", sampled(["iris", "diabetes", "wine", "breast_cancer"], 2))
def test_a_built_in_data_set_is_trained(runner, data):
    assert runner.invoke(train_command, ["--data", data]).exit_code == 0


@pytest.mark.parametrize("runtime", ["sklearn", "onnx"])
def test_runtime_selects_the_runtime(runner, store, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
    result = runner.invoke(train_command, ["--data", "iris", "--name", "flowers", "--runtime", runtime])
    assert result.exit_code == 0, result.output
    manifest = store.manifest("flowers", "1")
    assert manifest.runtime == runtime and bool(manifest.graphs) is (runtime == "onnx")
    others = "" if runtime == "sklearn" else r" \(sklearn: \d+ µs\)"
    assert re.fullmatch(rf"{runtime}: \d+ µs per row{others}", summary(result)["runtime"])


def test_an_unsuitable_runtime_is_an_error(runner, store, mixed_csv):
    options = ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--runtime", "onnx"]
    result = runner.invoke(train_command, options)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "The runtime onnx cannot serve this estimator: The step FunctionTransformer(ravel)" in result.output
    assert "mine" not in store.names()


def test_task_overrides_the_inferred_task(runner, mixed_csv):
    result = runner.invoke(train_command, ["--data", str(mixed_csv), "--target", "rooms", "--task", "regression"])
    assert summary(result)["task"] == "regression of rooms (as asked for)"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "titanic"], 2, "neither a file nor one of"),
        (["--name", "../x"], 2, "--name"),
        (["--seed", "-1"], 2, "--seed"),
        (["--task", "x"], 2, "--task"),
        (["--runtime", "abacus"], 2, "--runtime"),
        (["--data", "iris", "--target", "x"], 1, "own target"),
        (["--data", "README.md", "--target", "x"], 1, "README.md"),
    ],
)
def test_invalid_options_are_errors(runner, options, code, message):
    result = runner.invoke(train_command, options)
    assert result.exit_code == code and message in result.output and "Traceback" not in result.output


def test_an_instance_folder_that_cannot_be_written_is_an_error(runner, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(tmp_path / "file"))
    result = runner.invoke(train_command)
    assert result.exit_code == 1 and "cannot be written" in result.output


def test_an_unknown_setting_is_an_error(runner, monkeypatch):
    monkeypatch.setenv("FLASKML_MODEL_NAMES", "x")
    result = runner.invoke(train_command)
    assert result.exit_code == 1 and "MODEL_NAMES" in result.output


def flask(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "flask", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.gauntlet
def test_training_needs_no_working_wsgi_py(tmp_path):
    (tmp_path / "wsgi.py").write_text("broken")
    environment = {"FLASKML_INSTANCE_PATH": str(tmp_path / "here")}
    result = flask("train", "--name", "iris", "--data", "iris", "--runtime", "sklearn", cwd=tmp_path, **environment)
    assert result.returncode == 0, result.stderr
    assert ModelStore(tmp_path / "here").state("iris").active == "1"
    (tmp_path / "wsgi.py").unlink()
    result = flask("train", "--name", "iris", "--runtime", "sklearn", cwd=tmp_path, **environment)
    assert "next       FLASKML_MODEL_NAME=iris waitress-serve --call flaskml:create_app" in result.stdout
    assert "stored     here/models/iris/2" in result.stdout


@pytest.mark.gauntlet
def test_a_long_fit_shows_its_progress_on_a_terminal(tmp_path):
    table = tmp_path / "long.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 7},{i % 13}.5\n" for i in range(30_000)))
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "flask", "train", "--data", str(table), "--target", "y", "--runtime", "sklearn"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL, stderr=writer) as process:
        os.close(writer)
        output = b"".join(terminal_output(reader)).decode()
    os.close(reader)
    assert process.returncode == 0 and "fitting on all rows" in output and "%" in output


def terminal_output(terminal):
    """Yield the output to a pseudo-terminal until all writers close it; an unread terminal would block them."""
    with suppress(OSError):
        while chunk := os.read(terminal, 65_536):
            yield chunk


def test_flask_run_debug_serves_the_app(instance):
    command = [sys.executable, "-m", "flask", "run", "--debug", "--port", "0"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=variables, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        line = ""
        while "Running on http://127.0.0.1:" not in line:
            line = process.stderr.readline()
            assert line
        port = int(line.rsplit(":", 1)[1].split("\x1b")[0])
        from urllib.request import Request, urlopen

        request = Request(f"http://127.0.0.1:{port}/predict", b'{"feature": 1}')
        with urlopen(request, timeout=60) as answer:
            assert answer.status == 200
        os.killpg(process.pid, 15)


def test_the_learnt_schema_can_be_corrected(runner, store, mixed_csv, tmp_path):
    corrections = tmp_path / "schema.json"
    changes = [{"name": "rooms", "kind": "category"}, {"name": "age", "minimum": 0, "maximum": 120}]
    corrections.write_text(json.dumps({"extra": "ignore", "features": changes}))
    options = ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--schema", str(corrections)]
    result = runner.invoke(train_command, options)
    assert result.exit_code == 0, result.output
    schema = store.manifest("mine", "1").schema_
    features = {feature.name: feature for feature in schema.features}
    assert schema.extra == "ignore" and features["rooms"].kind == "category"
    assert (features["age"].minimum, features["age"].maximum) == (0, 120)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "schema.json"),
        ("[]", "schema.json"),
        ('{"features": [{"name": "romms"}]}', 'did you mean "rooms"'),
        ('{"features": [{"name": "note", "kind": "float"}]}', '"note" holds values that are not of kind float'),
        ('{"features": [{"name": "age", "colour": 1}]}', "colour"),
        ('{"extra": "maybe"}', "extra"),
    ],
)
def test_invalid_corrections_are_refused(runner, store, mixed_csv, tmp_path, content, message):
    corrections = tmp_path / "schema.json"
    corrections.write_text(content)
    options = ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--schema", str(corrections)]
    result = runner.invoke(train_command, options)
    assert result.exit_code in (1, 2) and message in result.output, result.output
    assert "mine" not in store.names()
