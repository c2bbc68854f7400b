"""The benchmark programs run for real at their smallest; no time is asserted."""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy
import pytest
from bench_parsing import FORMS, array_cases
from comparison import MEASURES
from harness import CLIENTS, Launch, Load, ServerError, memory_mb, serve
from peers.sides import EXACT, SIDES
from peers.workload import make_workload
from process_tree import Process, process_tree
from running import load_of, run

pytestmark = pytest.mark.gauntlet


HERE = Path(__file__).parent
MARK = f"BENCH_TEST_RUN={uuid.uuid4()}"
SERVER = "python trivial_app.py {port}"
# The server is the child of a shell that would leave it behind.
CHILD_SERVER = "sh -c 'python trivial_app.py {port} & wait'"
BROKEN_SERVER = "python -c 'import sys; sys.exit(\"no model here\")'"
FORMATS = ("pickle", "joblib")
TINY = ("--seconds=0.5", "--rounds=1")
STRATEGIES = ("per-request", "lazy", "preloaded", "injected", "singleton")
SVG = "{http://www.w3.org/2000/svg}"

Run = subprocess.CompletedProcess[str]
Runs = dict[str, Run]
Commands = dict[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the programs write their charts to."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    """Run all programs at the same time, as they mostly wait for servers that import scikit-learn."""
    commands = {**_strategies_commands(folder), **_load_commands()}
    with ThreadPoolExecutor(len(commands)) as pool:
        return dict(zip(commands, pool.map(_run, commands.values()), strict=True))


@pytest.mark.gauntlet
@pytest.mark.parametrize("model_format", FORMATS)
def test_strategies_table_has_every_row(runs: Runs, model_format: str) -> None:
    rows = _table(runs[model_format])[1:]
    assert [row[:3] for row in rows] == [["small", model_format, strategy] for strategy in STRATEGIES]
    assert all(float(number) > 0 for row in rows for number in row[3:-1])


@pytest.mark.gauntlet
@pytest.mark.parametrize("model_format", FORMATS)
def test_strategies_count_file_opens(runs: Runs, model_format: str) -> None:
    opens = {row[2]: float(row[-1]) for row in _table(runs[model_format])[1:]}
    assert opens.pop("per-request") >= 1
    assert set(opens.values()) == {0}


@pytest.mark.gauntlet
@pytest.mark.parametrize("model_format", FORMATS)
def test_strategies_chart_is_accessible_xml(runs: Runs, folder: Path, model_format: str) -> None:
    assert runs[model_format].returncode == 0
    root = ElementTree.parse(folder / f"{model_format}.svg").getroot()
    assert root.findtext(f"{SVG}title")
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
    assert len(root.findall(f"{SVG}rect/{SVG}title")) == len(STRATEGIES)


@pytest.mark.gauntlet
@pytest.mark.parametrize(("name", "connections"), [("python", "12"), ("wrk", "2"), ("get", "2")])
def test_load_table_compares_both_sides(runs: Runs, name: str, connections: str) -> None:
    if name not in runs:
        pytest.skip("wrk is not installed")
    rows = _table(runs[name])[1:]
    assert [row[0] for row in rows] == [count for count in connections for _ in range(len(MEASURES) + 1)]
    _assert_plausible(rows)


@pytest.mark.gauntlet
def test_load_says_which_client_was_used(runs: Runs) -> None:
    assert "Load client: python" in runs["python"].stdout


@pytest.mark.gauntlet
@pytest.mark.parametrize(
    ("name", "words"), [("broken", "B: the server ended with 1:\nno model here"), ("refused", "404")]
)
def test_load_fails_with_the_reason(runs: Runs, name: str, words: str) -> None:
    assert runs[name].returncode == 1
    assert words in runs[name].stderr


def test_parsing_measures_every_case(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    run = _run(("bench_parsing.py", "--rows=3", "--rounds=2", "--seconds=0.0001", f"--json={figures}"))
    rows = [row for row in _table(run) if row[0] != "form"]
    arrays = [[form, inputs] for form in FORMS for inputs in ("good", "bad at the end")]
    assert [[row[0], row[2]] for row in rows] == [*arrays, ["object", "good"], ["[objects]", "good"]]
    assert all(float(number) > 0 for row in rows for number in row[4:])
    assert [len(case["microseconds"]) for case in json.loads(figures.read_text())["cases"]] == [2] * len(rows)


@pytest.mark.parametrize("form", FORMS)
def test_every_way_of_parsing_makes_the_same_array(form: str) -> None:
    case = next(case for case in array_cases(7) if case.form == form and case.good)
    table = case.calls["parser"](case.body)
    assert table.shape == (1 if form == "object" else 7, 20)
    for name in ("models", "loop"):
        numpy.testing.assert_array_equal(case.calls[name](case.body), table, strict=True)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_unique_header_is_unique(client: str) -> None:
    if not shutil.which(client) and client == "wrk":
        pytest.skip("wrk is not installed")
    load = Load("/once", "", 3, 0.5, unique_header=True)
    with serve(Launch(["python", "trivial_app.py", "{port}"], HERE)) as server:
        outcomes = [CLIENTS[client](server, load) for _ in range(2)]
        without = CLIENTS[client](server, replace(load, unique_header=False))
    assert [outcome.errors for outcome in outcomes] == [0, 0]
    assert all(outcome.requests > 0 for outcome in outcomes)
    assert without.errors == without.requests > 0


def test_requests_at_intervals_wait_for_each_other() -> None:
    load = Load("/health", "", 1, 0.5, interval_seconds=0.05)
    with serve(Launch(["python", "trivial_app.py", "{port}"], HERE)) as server:
        outcome = CLIENTS["python"](server, load)
    # An answer counts once for each interval begun while it was awaited.
    assert 0 < outcome.requests <= 2 * outcome.elapsed_seconds / load.interval_seconds + 1


@pytest.mark.gauntlet
def test_peers_are_compared_in_one_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ("--models=linear", "--connections=1,2", "--client=python", "--unique-header", f"--json={figures}")
    run = _run(("bench_peers.py", *TINY, *options, "--peers=waitress-4,flask-naive-4"))
    assert "serve-sklearn against waitress-4, linear" in run.stdout
    rows = [row for row in _table(run) if row[0] in "12"]
    assert [row[0] for row in rows] == [count for _ in range(2) for count in "12" for _ in range(len(MEASURES) + 1)]
    _assert_plausible(rows)
    assert re.search(r"\| linear \| waitress-4 \| flask-naive-4 \| [\d.]+ \(.*\) \| [\d.]+ \(.*\) \|", run.stdout)
    starts = json.loads(figures.read_text())["models"]["linear"]["starts"]
    assert [set(sides) for sides in starts] == [{"serve-sklearn", "waitress-4", "flask-naive-4"}]
    assert all(start["seconds"] > 0 and start["rss_mb"] > 0 for start in starts[0].values())


@pytest.mark.gauntlet
def test_health_latency_is_measured_during_large_predictions() -> None:
    options = ("--health", "--models=gradient-boosting", "--runtimes=sklearn", "--rows=50", "--interval=0.01")
    rows = _table(_run(("bench_peers.py", *TINY, *options)))[1:]
    assert [row[:2] for row in rows] == [["gradient-boosting", "serve-sklearn"]]
    assert all(float(number) > 0 for number in rows[0][2:])


def test_a_server_with_wrong_predictions_is_not_measured(tmp_path: Path) -> None:
    wrong = replace(SIDES["flask-constant"], tolerance=EXACT)
    workload = make_workload("linear", tmp_path)
    with (
        pytest.raises(ServerError, match=r"flask-constant with linear: it predicts 0\.5"),
        run(wrong, workload, tmp_path),
    ):
        pass


def test_a_worker_in_a_session_of_its_own_counts_and_ends() -> None:
    with serve(Launch(["sh", "-c", "setsid python trivial_app.py {port} & wait"], HERE)) as server:
        tree = process_tree(server.process.pid)
        worker = next(process for process in tree if process.pid != server.process.pid)
        assert worker.session == worker.pid
        assert memory_mb(server, "Rss") > worker.memory_bytes("Rss") / 1e6 > 0
    with suppress(OSError):
        # A zombie process counts as dead.
        assert Process.read(worker.folder).stat[0] == "Z"


@pytest.mark.gauntlet
def test_predictions_are_measured_under_every_condition() -> None:
    options = ("--runtime=sklearn", "--connections=2", "--many=4", "--waiting=2", "--client=python")
    head, *rows = _table(_run(("bench_beside.py", *TINY, *options)))
    names = ["alone", "beside 2 that wait", "beside 1 that computes", "alone, 4 connections"]
    assert [row[0] for row in rows] == names
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert all(float(row["requests/s"]) > 0 and row["errors"] == "0" for row in cells)
    assert [bool(row["view's answers/s"]) for row in cells] == [False, True, True, False]


@pytest.mark.gauntlet
@pytest.mark.parametrize("name", ["plain-serve", "plain-waitress"])
def test_a_plain_view_is_loaded_with_get(name: str, tmp_path: Path) -> None:
    side, workload = SIDES[name], make_workload("linear", tmp_path)
    load = load_of(side, workload, 1, 0.1)
    assert load.method == "GET"
    with run(side, workload, tmp_path) as (server, _):
        assert CLIENTS["python"](server, load).errors == 0


def test_clients_beside_the_load_count_their_answers() -> None:
    with serve(Launch(["python", "trivial_app.py", "{port}"], HERE)) as server:
        command = [sys.executable, str(HERE / "beside_clients.py"), str(server.port), "/health", "2"]
        finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    begun, counts = finished.stdout.splitlines()
    assert begun == "begun"
    assert json.loads(counts)["failures"] == 0


@pytest.mark.gauntlet
def test_no_server_remains(runs: Runs) -> None:
    assert runs
    assert list(_marked_processes()) == []


def _strategies_commands(folder: Path) -> Commands:
    options = (*TINY, "--models=small")
    return {
        name: ("bench_strategies.py", *options, f"--formats={name}", f"--svg={folder / name}.svg") for name in FORMATS
    }


def _load_commands() -> Commands:
    sides = ("bench_load.py", *TINY, "--a", SERVER, "--b", CHILD_SERVER)
    commands: Commands = {
        "python": (*sides, "--client=python", "--connections=1,2"),
        "get": (*sides, "--client=python", "--connections=2", "--url=/health", "--body="),
        "refused": (*sides, "--url=/nowhere"),
        "broken": ("bench_load.py", *TINY, "--a", SERVER, "--b", BROKEN_SERVER, "--connections=1"),
    }
    if shutil.which("wrk"):
        commands["wrk"] = (*sides, "--client=wrk", "--connections=2")
    return commands


def _run(command: tuple[str, ...]) -> Run:
    name, _, value = MARK.partition("=")
    program = [sys.executable, str(HERE / command[0]), *command[1:]]
    return subprocess.run(
        program, cwd=HERE, env={**os.environ, name: value}, capture_output=True, text=True, timeout=120
    )


def _table(run: Run) -> list[list[str]]:
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stdout.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _assert_plausible(rows: list[list[str]]) -> None:
    for _, measure, *numbers in rows:
        figures = [float(number) for number in numbers[:2]]
        if measure == MEASURES["cpu_microseconds"]:
            # On a busy machine the server may have had less than the tick that this is counted in.
            assert min(figures) >= 0
        else:
            assert figures == [0, 0] if measure.startswith("errors") else min(figures) > 0, measure


def _marked_processes() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = MARK.encode() in (process / "environ").read_bytes()
        except OSError:
            continue
        if marked:
            yield (process / "cmdline").read_text()
