"""The app conforms to its OpenAPI document: schemathesis sends valid and invalid requests and checks each answer."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.sampling import sampled
from tests.support.server_processes import server_of_a_copy

pytest.importorskip("schemathesis")

TOKEN = "a token of the operator"

CONFIGURATION = CHECKOUT / "tests/support/schemathesis.toml"

ALL_CHECKS = ("--checks", "all")

CHANGE_CHECKS = (
    "--checks",
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
)

PARTS = {
    "predictions in JSON": ("--include-tag", "predictions", *ALL_CHECKS),
    "predictions": ("--include-tag", "predictions", *ALL_CHECKS, "--exclude-checks", "positive_data_acceptance"),
    "reads": ("--include-method", "GET", *ALL_CHECKS),
    "changes": ("--exclude-method", "GET", "--exclude-tag", "predictions", *CHANGE_CHECKS),
}
"""Groups of operations, with the checks of their answers.

A schema cannot describe valid CSV. The group with CSV bodies therefore skips the check that valid data is accepted.
"""


def run(port, part, examples, folder):
    program = [sys.executable, "-m", "schemathesis.cli", "--no-color", f"--config-file={CONFIGURATION}"]
    command = [*program, "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ("--header", f"Authorization: Bearer {TOKEN}", "--phases", "examples,coverage,fuzzing")
    hooks = {"PYTHONPATH": str(CHECKOUT), "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks"}
    body_type = {"SCHEMATHESIS_BODIES": "application/json"} if part.endswith("JSON") else {}
    variables = {**os.environ, **hooks, **body_type}
    command += [*options, "--max-examples", str(examples), "--seed", "1", *PARTS[part]]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


DIGEST = {"FLASKML_ADMIN_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest()}


@pytest.fixture(scope="module")
def shared_server(trained, tmp_path_factory):
    with server_of_a_copy(trained, tmp_path_factory.mktemp("shared"), "flask serve", **DIGEST) as server:
        yield server


FULL_EXAMPLES = {"predictions in JSON": 2_500, "predictions": 2_500, "reads": 5_000, "changes": 5_000}
"""Examples per operation. They make about 50,000 requests in total."""

sizes = pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.gauntlet)], ids=["few", "full"])


@pytest.mark.thorough
@pytest.mark.parametrize("part", sampled([part for part in PARTS if part != "changes"], 3))
@sizes
def test_every_answer_conforms(shared_server, part, full, tmp_path):
    check(shared_server, part, full, tmp_path)


@pytest.mark.gauntlet
@sizes
def test_every_answer_to_a_change_conforms(serve, full, tmp_path):
    check(serve("flask serve", **DIGEST), "changes", full, tmp_path)


def check(server, part, full, folder):
    examples = FULL_EXAMPLES[part] if full else 10
    result = run(server.port, part, examples, folder)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3_000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", result.stdout)
    assert generated and int(generated[1]) >= 2 * examples, result.stdout
    print(part, generated[0])
