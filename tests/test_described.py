"""Schemathesis makes requests from the OpenAPI document, good ones and bad ones, and holds each answer against it."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT

pytest.importorskip("schemathesis")

TOKEN = "a token of the operator"

CONFIGURATION = CHECKOUT / "tests/schemathesis.toml"

ALL = ("--checks", "all")

CHANGES = (
    "--checks",
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
)

PARTS = {
    "predictions in JSON": ("--include-tag", "predictions", *ALL),
    "predictions": ("--include-tag", "predictions", *ALL, "--exclude-checks", "positive_data_acceptance"),
    "reads": ("--include-method", "GET", *ALL),
    "changes": ("--exclude-method", "GET", "--exclude-tag", "predictions", *CHANGES),
}
"""Operations, and the checks of their answers. Whether CSV is good a schema does not say."""


def run(port, part, examples, folder):
    program = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--no-color",
        f"--config-file={CHECKOUT}/tests/schemathesis.toml",
    ]
    command = [*program, "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ("--header", f"Authorization: Bearer {TOKEN}", "--phases", "examples,coverage,fuzzing")
    hooks = {"SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"} if part.endswith("JSON") else {}
    variables = {**os.environ, "PYTHONPATH": str(CHECKOUT), **hooks}
    command += [*options, "--max-examples", str(examples), "--seed", "1", *PARTS[part]]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def port(serve):
    return serve("flask serve", FLASKML_ADMIN_TOKEN_SHA256=hashlib.sha256(TOKEN.encode()).hexdigest()).port


@pytest.mark.thorough
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("examples", [20, pytest.param(2_500, marks=pytest.mark.gauntlet)])
def test_every_answer_is_as_described(port, part, examples, tmp_path):
    done = run(port, part, examples, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated and int(generated[1]) >= 2 * examples, done.stdout
