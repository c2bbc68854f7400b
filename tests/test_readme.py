"""The README is true."""

import json
import re
import shlex
import subprocess

import pytest
from click import Argument
from click.testing import CliRunner

from flaskml.cli.models import models
from flaskml.cli.predict import predict_command
from flaskml.cli.train import train_command
from flaskml.settings import Settings, setting_names
from tests.support.checkout import CHECKOUT
from tests.support.packages import PACKAGES
from tests.support.routes import ROUTES

README = (CHECKOUT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_both_commands_are_as_agreed():
    first, second = blocks("sh")[:2]
    environment = "python3 -m venv .venv && . .venv/bin/activate && pip install -e"
    assert first.strip() == f"{environment} . && flask train && waitress-serve wsgi:app"
    assert second.strip() == f"{environment} '.[test]' && pytest"


def test_ci_runs_the_test_command():
    lines = (CHECKOUT / ".ci/run").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith("command=")]
    script = f'{found}; printf %s "$command"'
    command = subprocess.run(["bash", "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert command == blocks("sh")[1].strip()
    assert lines[-1].endswith('FLASKML_CI=1 bash -c "$command"')


def without_times(text):
    """Return the text without the line of the runtime, which differs from machine to machine."""
    return re.sub(r"^runtime .*\n", "", text, flags=re.MULTILINE)


def test_the_transcript_is_the_real_output(instance, monkeypatch, serve):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)
    transcript = blocks("console")[0]
    output = CliRunner().invoke(train_command).stdout
    output = (
        output.replace(str(instance), "instance").replace("version 2", "version 1").replace("default/2", "default/1")
    )
    assert without_times(output) in without_times(transcript)
    server = serve()
    assert re.search(r"INFO:waitress:Serving default version 2 \(r2 1.0000\) on http://", server.log)
    data, answer = re.search(r"curl -d '(.*?)' .*\n(.*)\n", transcript).groups()
    content = server.request("POST", "/predict", data, {"Content-Type": "application/x-www-form-urlencoded"})[2]
    assert json.loads(content) == json.loads(answer) | {"version": "2"}


def test_the_table_lists_every_setting():
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \| (.*?) \| (.*) \|$", section("Settings"), re.MULTILINE)
    assert [name for name, _, _ in rows] == setting_names()
    for name, default, meaning in rows:
        field = Settings.model_fields[name.lower()]
        assert meaning == field.description.replace("\n", " ")
        assert name == "INSTANCE_PATH" or default == (f"`{field.default}`" if field.default else "none")


def test_the_table_lists_every_route():
    table = README.split("### Routes")[1].split("###")[0]
    named = {
        (method, re.sub(r"\{.*?\}", "<>", path))
        for method, path in re.findall(r"`(GET|POST|PUT|DELETE) (\S+?)`", table)
    }
    routes = {(method, re.sub(r"<.*?>", "<>", rule)) for rule, method in ROUTES if not rule.startswith("/static")}
    assert named == routes


def test_the_map_names_every_package_in_order():
    named = re.findall(r"^  (\w+)(?:/|\.py) ", section("The map"), re.MULTILINE)
    assert named == list(PACKAGES)


@pytest.mark.parametrize("line", re.findall(r"^flask ((?:train|models|predict) .*)$", README, re.MULTILINE))
def test_the_commands_and_their_options_exist(line):
    words = shlex.split(line)
    command = {"train": train_command, "predict": predict_command}.get(words[0]) or models.commands[words[1]]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    arguments = [parameter for parameter in command.params if isinstance(parameter, Argument) and parameter.required]
    assert len(words) > len(arguments)


def test_the_error_example_is_the_real_answer(homes, home):
    (shown,) = blocks("json")
    row = {name: value for name, value in home.items() if name != "rooms"} | {"age": "41", "rom": 1}
    output = {error["feature"]: error["detail"] for error in homes.post("/predict", json=row).json["errors"]}
    for error in json.loads(shown)["errors"]:
        assert error["detail"] == output[error["feature"]]
