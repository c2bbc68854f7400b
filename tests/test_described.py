"""Schemathesis makes requests from the OpenAPI document, good ones and bad ones, and holds each answer against it."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT, server_of_a_copy

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
    hooks = {"PYTHONPATH": str(CHECKOUT), "SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"}
    kind = {"SCHEMATHESIS_BODIES": "application/json"} if part.endswith("JSON") else {}
    variables = {**os.environ, **hooks, **kind}
    command += [*options, "--max-examples", str(examples), "--seed", "1", *PARTS[part]]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def port(trained, tmp_path_factory):
    """Of a server whose models are asked, and swapped, but never fewer."""
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    folder = tmp_path_factory.mktemp("described")
    with server_of_a_copy(trained, folder, "flask serve", FLASKML_ADMIN_TOKEN_SHA256=digest) as server:
        yield server.port


FULL = {"predictions in JSON": 2_500, "predictions": 2_500, "reads": 5_000, "changes": 5_000}
"""Examples of an operation that make some 50,000 requests in all."""


@pytest.mark.thorough
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.gauntlet)], ids=["few", "full"])
def test_every_answer_is_as_described(port, part, few, tmp_path):
    examples = 20 if few else FULL[part]
    done = run(port, part, examples, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3_000:]
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated and int(generated[1]) >= 2 * examples, done.stdout
    print(part, generated[0])
