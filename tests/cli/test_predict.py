"""`flask predict`: rows of files, refused rows and output formats."""

import csv
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from flaskml import publish
from flaskml.cli.predict import predict_command
from tests.support.checkout import CHECKOUT

ROWS = np.random.default_rng(3).normal(size=(5_000, 20)).round(3)
NAMES = [f"x{number}" for number in range(20)]
LABELS = np.where(ROWS[:, 0] > 0, "high", "low")


@pytest.fixture(scope="module")
def estimator():
    return LogisticRegression().fit(pd.DataFrame(ROWS, columns=NAMES), LABELS)


@pytest.fixture(scope="module")
def instance(estimator, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "instance"
    publish(estimator, pd.DataFrame(ROWS[:200], columns=NAMES), instance_path=path, runtime="sklearn")
    return path


@pytest.fixture
def run(instance, monkeypatch):
    """Run `flask predict`, check the exit code and return standard output and standard error."""
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance))
    monkeypatch.chdir(CHECKOUT)

    def run(*arguments, code=0):
        result = CliRunner().invoke(predict_command, [*map(str, arguments)])
        assert result.exit_code == code and not isinstance(result.exception, Exception), (
            result.output,
            result.exc_info,
        )
        return result.stdout, result.stderr

    return run


def write_csv(path, rows=ROWS):
    pd.DataFrame(rows, columns=NAMES).to_csv(path, index=False)


def write_jsonl(path, rows=ROWS):
    lines = [dict(zip(NAMES, row, strict=True)) if number % 2 else row for number, row in enumerate(rows.tolist())]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_npy(path, rows=ROWS):
    np.save(path, rows)


def write_parquet(path, rows=ROWS):
    pytest.importorskip("pyarrow")
    pd.DataFrame(rows, columns=NAMES).to_parquet(path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".npy": write_npy, ".parquet": write_parquet}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_row_is_answered_in_order(run, estimator, tmp_path, suffix):
    file, out = tmp_path / f"rows{suffix}", tmp_path / "answers.csv"
    WRITERS[suffix](file)
    stdout, stderr = run(file, "-o", out)
    assert stdout == "" and stderr.endswith("5,000 rows predicted by default version 1, 0 refused\n")
    predictions = pd.read_csv(out)["prediction"].tolist()
    assert predictions == estimator.predict(pd.DataFrame(ROWS, columns=NAMES)).tolist()
    assert [path.name for path in tmp_path.iterdir()] == [file.name, out.name] or len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("output_format", ["csv", "jsonl"])
def test_other_methods_have_a_column_for_each_class(run, estimator, tmp_path, output_format):
    file = tmp_path / "rows.csv"
    write_csv(file, ROWS[:3])
    stdout, _ = run(file, "--method", "predict_proba", "--format", output_format)
    expected = estimator.predict_proba(pd.DataFrame(ROWS[:3], columns=NAMES)).tolist()
    if output_format == "csv":
        lines = list(csv.reader(stdout.splitlines()))
        assert lines[0] == ["prediction:high", "prediction:low"]
        assert np.allclose([list(map(float, line)) for line in lines[1:]], expected, rtol=1e-12, atol=0)
    else:
        predictions = [json.loads(line)["prediction"] for line in stdout.splitlines()]
        assert np.allclose([[one["high"], one["low"]] for one in predictions], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_beside_the_features_are_ignored_and_reported(run, estimator, tmp_path, suffix):
    pytest.importorskip("pyarrow")
    file = tmp_path / f"rows{suffix}"
    table = pd.DataFrame(ROWS[:50], columns=NAMES).assign(id=range(50), **{"the target": "high"})
    table = table[["id", *reversed(NAMES), "the target"]]
    writers = {
        ".csv": lambda: table.to_csv(file, index=False),
        ".jsonl": lambda: table.to_json(file, orient="records", lines=True),
        ".parquet": lambda: table.to_parquet(file),
    }
    writers[suffix]()
    stdout, stderr = run(file)
    assert stderr == "ignored columns: id, the target\n50 rows predicted by default version 1, 0 refused\n"
    assert stdout.splitlines()[1:] == estimator.predict(pd.DataFrame(ROWS[:50], columns=NAMES)).tolist()


def write_invalid_rows(path):
    """Write a CSV file with two invalid rows: the first row, and row 3,000 in the second chunk."""
    write_csv(path)
    lines = path.read_text().splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ",many"
    lines[3_001] = "1,2,3"
    path.write_text("\n".join(lines) + "\n")


def test_refused_rows_are_reported_and_others_predicted(run, estimator, tmp_path):
    file, out, refused = tmp_path / "rows.csv", tmp_path / "answers.jsonl", tmp_path / "refused.jsonl"
    write_invalid_rows(file)
    _, stderr = run(file, "-o", out, "--refused", refused)
    assert stderr.endswith("4,998 rows predicted by default version 1, 2 refused\n")
    assert 'row 0: "x19" must be a finite number' in stderr
    predictions = [json.loads(line)["prediction"] for line in out.read_text().splitlines()]
    assert [number for number, value in enumerate(predictions) if value is None] == [0, 3_000]
    expected = estimator.predict(pd.DataFrame(ROWS, columns=NAMES)).tolist()
    assert [value for value in predictions if value] == [v for n, v in enumerate(expected) if n not in (0, 3_000)]
    problems = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [(problem["row"], problem["feature"]) for problem in problems] == [(0, "x19"), (3_000, None)]


def test_a_refused_row_has_empty_cells_in_csv(run, tmp_path):
    file = tmp_path / "rows.csv"
    write_invalid_rows(file)
    stdout, _ = run(file, "--method", "predict_proba")
    lines = list(csv.reader(stdout.splitlines()))
    assert len(lines) == 5_001 and lines[1] == lines[3_001] == ["", ""] and "" not in lines[2]


def test_strict_prints_nothing_after_a_refused_row(run, tmp_path):
    file = tmp_path / "rows.csv"
    write_invalid_rows(file)
    stdout, _ = run(file, "--strict", code=1)
    assert stdout == ""


def test_if_all_rows_are_refused_each_has_a_line(run, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(",".join(NAMES) + "\n" + ("a," * 19 + "a\n") * 3)
    stdout, stderr = run(file)
    assert stdout.splitlines()[0] == "prediction" and len(list(csv.reader(stdout.splitlines()))) == 4
    assert "0 rows predicted by default version 1, 3 refused; --refused FILE writes every problem\n" in stderr


def test_a_pipe_or_a_link_as_output_is_not_replaced(run, tmp_path):
    file, pipe, link, target = (tmp_path / name for name in ("rows.csv", "pipe.csv", "link.csv", "target.csv"))
    write_csv(file, ROWS[:3])
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(pipe.read_text)
        run(file, "-o", pipe)
        assert len(content.result(60).splitlines()) == 4 and pipe.is_fifo()
    target.write_text("")
    link.symlink_to(target)
    run(file, "-o", link)
    assert link.is_symlink() and len(target.read_text().splitlines()) == 4


def test_a_damaged_parquet_page_is_an_error(run, tmp_path):
    file = tmp_path / "rows.parquet"
    write_parquet(file)
    content = bytearray(file.read_bytes())
    content[100:4_000] = b"x" * 3_900
    file.write_bytes(content)
    _, stderr = run(file, "-o", tmp_path / "out.csv", code=1)
    assert "damaged" in stderr and "Traceback" not in stderr and not (tmp_path / "out.csv").exists()


def test_strict_leaves_the_output_file_unchanged(run, tmp_path):
    file, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    write_invalid_rows(file)
    out.write_text("old content")
    _, stderr = run(file, "-o", out, "--strict", code=1)
    assert "row 0:" in stderr and "Nothing was written" in stderr
    assert out.read_text() == "old content" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"", "empty"),
        ("rows.csv", b"x1,x2\n1,2\n", 'there is no column "x0"'),
        ("rows.csv", b"\xff\xfe", "not UTF-8"),
        ("rows.npy", b"nothing", "not an array"),
        ("rows.npy", b"", "not an array"),
        ("rows.parquet", b"nothing", "not a Parquet file"),
        ("rows.xlsx", b"", "ends in none of .csv, .jsonl, .npy, .parquet"),
    ],
)
def test_an_unreadable_file_is_an_error(run, tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    _, stderr = run(file, code=1)
    assert message in stderr and "Traceback" not in stderr


def test_an_array_of_objects_is_not_unpickled(run, tmp_path):
    file = tmp_path / "rows.npy"
    np.save(file, np.array([[object]]), allow_pickle=True)
    _, stderr = run(file, code=1)
    assert "not an array of numbers" in stderr


def test_the_installed_command_predicts_a_file(instance, tmp_path):
    file = tmp_path / "rows.csv"
    write_csv(file, ROWS[:3])
    command = [sys.executable, "-m", "flask", "predict", str(file)]
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    result = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 4 and "3 rows predicted by default version 1, 0 refused" in result.stderr


def test_invalid_options_are_errors(run, tmp_path):
    file = tmp_path / "rows.csv"
    write_csv(file, ROWS[:1])
    assert "predict_proba" in run(file, "--method", "transform", code=1)[1]
    assert "nowhere" in run(file, "--name", "nowhere", code=1)[1]
    assert "--format" in run(file, "-o", tmp_path / "answers.xml", code=2)[1]


MEASURED_RUN = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "flask", "predict", *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.parametrize(
    "megabytes", [pytest.param(12, marks=pytest.mark.thorough), pytest.param(2_000, marks=pytest.mark.gauntlet)]
)
def test_the_memory_does_not_grow_with_the_file(instance, tmp_path, megabytes):
    file, out = tmp_path / "rows.csv", tmp_path / "answers.csv"
    write_csv(tmp_path / "block.csv")
    header, _, block = (tmp_path / "block.csv").read_bytes().partition(b"\n")
    repetitions = megabytes * 10**6 // len(block) + 1
    with file.open("wb") as large:
        large.write(header + b"\n")
        for _ in range(repetitions):
            large.write(block)
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    command = [sys.executable, "-c", MEASURED_RUN, str(file), "-o", str(out)]
    result = subprocess.run(command, cwd=CHECKOUT, env=variables, capture_output=True, text=True, check=True)
    assert file.stat().st_size > megabytes * 10**6
    assert int(result.stdout) < 300e6
    with Path(out).open() as answers:
        assert sum(1 for _ in answers) == repetitions * len(ROWS) + 1
