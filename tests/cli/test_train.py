"""The commands, as a user types them."""

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


@pytest.fixture
def runner(instance, monkeypatch, swift):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)
    return CliRunner()


def lines(result):
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines())


def test_no_option_trains_the_articles_model(runner, store, instance):
    result = runner.invoke(train_command)
    assert result.exit_code == 0, result.output
    told = lines(result)
    assert told["data"] == "regression: 100 rows" and told["features"] == "1: feature"
    assert told["task"].startswith("regression of target (the target is a number")
    assert told["score"].startswith("r2 1.0000 on 20") and told["model"] == "default version 2, active"
    assert told["stored"] == str(instance / "models/default/2") and told["next"] == "waitress-serve wsgi:app"
    assert store.state("default").active == "2"


def test_a_file(runner, store, mixed_csv):
    result = runner.invoke(
        train_command, ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--seed", "7"]
    )
    assert result.exit_code == 0, result.output
    told = lines(result)
    assert told["data"] == "homes.csv: 294 rows (6 more have no target), without the empty columns empty"
    assert told["task"] == "classification of sold (the target is text or true/false, 2 distinct values)"
    assert told["next"] == "FLASKML_MODEL_NAME=mine waitress-serve wsgi:app"
    assert store.manifest("mine", "1").seed == 7


@pytest.mark.parametrize("data", ["iris", "wine", "diabetes", "breast_cancer"])
def test_built_in(runner, data):
    assert runner.invoke(train_command, ["--data", data]).exit_code == 0


@pytest.mark.parametrize("runtime", ["sklearn", "onnx"])
def test_the_runtime_can_be_said(runner, store, runtime):
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
    result = runner.invoke(train_command, ["--data", "iris", "--name", "flowers", "--runtime", runtime])
    assert result.exit_code == 0, result.output
    manifest = store.manifest("flowers", "1")
    assert manifest.runtime == runtime and bool(manifest.graphs) is (runtime == "onnx")
    others = "" if runtime == "sklearn" else r" \(sklearn \d+\)"
    assert re.fullmatch(rf"{runtime}: \d+ µs a row{others}", lines(result)["runtime"])


def test_a_runtime_that_cannot_be_is_an_error(runner, store, mixed_csv):
    options = ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--runtime", "onnx"]
    result = runner.invoke(train_command, options)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "The runtime onnx cannot serve this estimator: A graph takes numbers only" in result.output
    assert "mine" not in store.names()


def test_the_task_can_be_said(runner, mixed_csv):
    result = runner.invoke(train_command, ["--data", str(mixed_csv), "--target", "rooms", "--task", "regression"])
    assert lines(result)["task"] == "regression of rooms (as asked for)"


@pytest.mark.parametrize(
    ("options", "code", "said"),
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
def test_wrong_use(runner, options, code, said):
    result = runner.invoke(train_command, options)
    assert result.exit_code == code and said in result.output and "Traceback" not in result.output


def test_a_folder_that_cannot_be_written(runner, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(tmp_path / "file"))
    result = runner.invoke(train_command)
    assert result.exit_code == 1 and "cannot be written" in result.output


def test_a_wrong_setting(runner, monkeypatch):
    monkeypatch.setenv("FLASKML_MODEL_NAMES", "x")
    result = runner.invoke(train_command)
    assert result.exit_code == 1 and "MODEL_NAMES" in result.output


def flask(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "flask", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.thorough
def test_outside_a_checkout_with_a_broken_app(tmp_path):
    (tmp_path / "wsgi.py").write_text("broken")
    environment = {"FLASKML_INSTANCE_PATH": str(tmp_path / "here")}
    done = flask("train", "--name", "iris", "--data", "iris", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert ModelStore(tmp_path / "here").state("iris").active == "1"
    (tmp_path / "wsgi.py").unlink()
    done = flask("train", "--name", "iris", cwd=tmp_path, **environment)
    assert "next       FLASKML_MODEL_NAME=iris waitress-serve --call flaskml:create_app" in done.stdout
    assert "stored     here/models/iris/2" in done.stdout


@pytest.mark.thorough
def test_a_long_fit_shows_its_progress_on_a_terminal(tmp_path):
    table = tmp_path / "long.csv"
    table.write_text("a,b,y\n" + "".join(f"{i},{i % 7},{i % 13}.5\n" for i in range(30_000)))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flask", "train", "--data", str(table), "--target", "y"]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b"".join(terminal_output(ours)).decode()
    os.close(ours)
    assert process.returncode == 0 and "fitting on all rows" in shown and "%" in shown


def terminal_output(terminal):
    """What is written to a terminal until nobody has it open: a terminal that nobody reads holds its writers up."""
    with suppress(OSError):
        while part := os.read(terminal, 65_536):
            yield part


def test_flask_run_in_debug_mode(instance):
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


def test_what_was_learnt_can_be_corrected(runner, store, mixed_csv, tmp_path):
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
    ("content", "said"),
    [
        ("{", "schema.json"),
        ("[]", "schema.json"),
        ('{"features": [{"name": "romms"}]}', 'did you mean "rooms"'),
        ('{"features": [{"name": "note", "kind": "float"}]}', '"note" holds values that are no float'),
        ('{"features": [{"name": "age", "colour": 1}]}', "colour"),
        ('{"extra": "maybe"}', "extra"),
    ],
)
def test_corrections_that_are_none(runner, store, mixed_csv, tmp_path, content, said):
    corrections = tmp_path / "schema.json"
    corrections.write_text(content)
    options = ["--data", str(mixed_csv), "--target", "sold", "--name", "mine", "--schema", str(corrections)]
    result = runner.invoke(train_command, options)
    assert result.exit_code in (1, 2) and said in result.output, result.output
    assert "mine" not in store.names()
