"""Schemathesis makes requests from the OpenAPI document, good ones and bad ones, and holds each answer against it."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.server_processes import server_of_a_copy

pytest.importorskip("schemathesis")

TOKEN = "a token of the operator"

CONFIGURATION = CHECKOUT / "tests/support/schemathesis.toml"

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
        f"--config-file={CHECKOUT}/tests/support/schemathesis.toml",
    ]
    command = [*program, "run", f"http://127.0.0.1:{port}/openapi.json"]
    options = ("--header", f"Authorization: Bearer {TOKEN}", "--phases", "examples,coverage,fuzzing")
    hooks = {"PYTHONPATH": str(CHECKOUT), "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks"}
    kind = {"SCHEMATHESIS_BODIES": "application/json"} if part.endswith("JSON") else {}
    variables = {**os.environ, **hooks, **kind}
    command += [*options, "--max-examples", str(examples), "--seed", "1", *PARTS[part]]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


DIGEST = {"FLASKML_ADMIN_TOKEN_SHA256": hashlib.sha256(TOKEN.encode()).hexdigest()}


@pytest.fixture(scope="module")
def asked(trained, tmp_path_factory):
    with server_of_a_copy(trained, tmp_path_factory.mktemp("asked"), "flask serve", **DIGEST) as server:
        yield server


FULL = {"predictions in JSON": 2_500, "predictions": 2_500, "reads": 5_000, "changes": 5_000}
"""Examples of an operation that make some 50,000 requests in all."""


sizes = pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.gauntlet)], ids=["few", "full"])


@pytest.mark.thorough
@pytest.mark.parametrize("part", [part for part in PARTS if part != "changes"])
@sizes
def test_every_answer_is_as_described(asked, part, full, tmp_path):
    check(asked, part, full, tmp_path)


@pytest.mark.thorough
@sizes
def test_every_answer_to_a_change_is_as_described(serve, full, tmp_path):
    check(serve("flask serve", **DIGEST), "changes", full, tmp_path)


def check(server, part, full, folder):
    examples = FULL[part] if full else 20
    done = run(server.port, part, examples, folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated and int(generated[1]) >= 2 * examples, done.stdout
    print(part, generated[0])
