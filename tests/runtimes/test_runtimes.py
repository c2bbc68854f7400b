"""The contract that every runtime keeps."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flaskml.codecs.answer_equality import answers_equal
from flaskml.runtimes import RUNTIME_CLASSES, open_runtime, selection
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.runtimes.selection import choose_runtime
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents
from tests.support.checkout import run_python
from tests.support.concurrency import THREADS, call_at_once
from tests.support.numeric_cases import ROWS, TARGETS, facts_of, numeric_case


def publish(store, name, estimator, X, runtime):
    """Store an estimator, to be computed by a runtime."""
    facts, golden, table = facts_of(estimator, X)
    choice = choose_runtime(estimator, facts, table, runtime)
    stored = None if isinstance(estimator, ImportedGraph) else estimator
    store.publish(name, choice.complete(facts), VersionContents(stored, golden, choice.graphs))


def imported(X):
    """Return an imported graph, in single precision."""
    from skl2onnx import to_onnx

    estimator = numeric_case("three integer labels").estimator
    return ImportedGraph(to_onnx(estimator, X[:1].astype(np.float32)).SerializeToString())


KINDS = ("sklearn", "onnx", "onnx and its estimator", "imported graph")
"""Each runtime; the ONNX runtime also with an estimator for other methods, and with an imported graph."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a model for each kind that the installed libraries support."""
    store = ModelStore(tmp_path_factory.mktemp("runtimes") / "instance")
    forest, bayes = numeric_case("forest of three classes"), numeric_case("naive bayes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MAX_TIMED_CALLS", selection.CALLS_PER_TURN)
        publish(store, "sklearn", forest.estimator, forest.X, "sklearn")
        if "onnx" in installed_extras():
            publish(store, "onnx", forest.estimator, forest.X, "onnx")
            publish(store, "onnx-and-its-estimator", bayes.estimator, bayes.X, "onnx")
            publish(store, "imported-graph", imported(forest.X), forest.X, None)
    return store


def installed_extras():
    from importlib.util import find_spec

    return {"onnx"} if find_spec("onnxruntime") and find_spec("skl2onnx") else set()


@pytest.fixture(params=KINDS)
def name(request):
    if "sklearn" not in request.param:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
    return request.param.replace(" ", "-")


@pytest.fixture
def loaded(store, name):
    return store.load(name, "1")


@pytest.fixture
def runtime(loaded):
    return open_runtime(loaded)


def answers(runtime, loaded, rows):
    return {method: runtime.compute(runtime.table_builder.build(rows), method) for method in loaded.manifest.methods}


def test_every_runtime_is_tested(store, name):
    assert set(RUNTIME_CLASSES) <= set(KINDS)
    assert store.load(name, "1").manifest.runtime in RUNTIME_CLASSES


def test_every_method_of_the_manifest_is_computed(runtime, loaded):
    assert {"predict", "predict_proba"} <= set(loaded.manifest.methods)
    for method, answer in answers(runtime, loaded, ROWS[:7].tolist()).items():
        assert len(answer) == 7 and isinstance(answer, np.ndarray), method


def test_the_answer_to_a_row_does_not_depend_on_other_rows(runtime, loaded, name):
    tolerance = 1e-6 if name == "imported-graph" else 1e-12  # The imported graph has single precision.
    rows = ROWS[:200].tolist()
    batch_answers = answers(runtime, loaded, rows)
    order = np.random.default_rng(1).permutation(200)
    shuffled = answers(runtime, loaded, [rows[index] for index in order])
    for method, answer in batch_answers.items():
        assert answers_equal(answer[order], shuffled[method], relative=tolerance, absolute=tolerance), method
        for size, count in ((7, 28), (1, 20)):
            for start in range(0, count, size):
                part = runtime.compute(runtime.table_builder.build(rows[start : start + size]), method)
                assert answers_equal(answer[start : start + size], part, relative=tolerance, absolute=tolerance), (
                    method,
                    size,
                    start,
                )


def test_concurrent_calls_get_correct_answers(runtime, loaded):
    assert runtime.is_thread_safe
    tables = [runtime.table_builder.build(ROWS[index : 20 + index].tolist()) for index in range(THREADS)]
    methods = loaded.manifest.methods
    expected = [{method: runtime.compute(table, method) for method in methods} for table in tables]

    def find_wrong(table, answers):
        return [
            method
            for method in methods * 15
            if not answers_equal(answers[method], runtime.compute(table, method), relative=1e-12)
        ]

    assert call_at_once(partial(find_wrong, *case) for case in zip(tables, expected, strict=True)) == [[]] * THREADS


def test_a_call_does_not_change_its_table(runtime, loaded):
    table = runtime.table_builder.build(ROWS[:7].tolist())
    before = table.copy()
    for method in loaded.manifest.methods:
        runtime.compute(table, method)
    assert np.array_equal(table, before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the threads of a process are listed on Linux only")
def test_opening_starts_no_thread(loaded):
    open_runtime(loaded)  # Libraries may start threads when they are imported.
    before = len(os.listdir("/proc/self/task"))
    open_runtime(loaded)
    assert len(os.listdir("/proc/self/task")) == before


class CountingEstimator(LinearRegression):
    """Counts its predictions."""

    predictions = 0

    def predict(self, X):
        type(self).predictions += 1
        return super().predict(X)


def test_opening_runs_no_prediction_of_an_estimator(tmp_path):
    store = ModelStore(tmp_path)
    publish(store, "default", CountingEstimator().fit(ROWS, TARGETS), ROWS, "sklearn")
    loaded, before = store.load("default", "1"), CountingEstimator.predictions
    runtime = open_runtime(loaded)
    assert CountingEstimator.predictions == before
    runtime.compute(runtime.table_builder.build(ROWS[:1].tolist()), "predict")
    assert CountingEstimator.predictions == before + 1


@pytest.mark.parametrize("name", ["onnx", "imported-graph"])
def test_opening_runs_no_graph(store, name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skl2onnx")
    runs, loaded = [], store.load(name, "1")

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name == "run" and "onnxruntime" in frame.f_code.co_filename:
            runs.append(frame.f_code)

    sys.setprofile(profile)
    try:
        runtime = open_runtime(loaded)
        opened = len(runs)
        runtime.compute(runtime.table_builder.build(ROWS[:1].tolist()), "predict")
    finally:
        sys.setprofile(None)
    assert (opened, len(runs)) == (0, 1)


COUNT = """
import json, sys, threading
from pathlib import Path
from flaskml.runtimes import open_runtime
from flaskml.store.model_store import ModelStore
loaded = ModelStore(Path(sys.argv[1])).load(sys.argv[2], "1")
runtime, row = open_runtime(loaded), [0.5, -0.5, 0.25, 1.0]
opened, counting, before = [], True, threading.active_count()
def hook(event, arguments):
    if counting and event in ("open", "import", "subprocess.Popen", "os.fork"):
        opened.append(f"{event} {arguments[0]}")
sys.addaudithook(hook)
for method in loaded.manifest.methods:
    for count in (1, 50):
        runtime.compute(runtime.table_builder.build([row] * count), method)
counting = False
libraries = {"sklearn", "joblib", "onnx", "skl2onnx", "onnxruntime"}
modules = sorted({name.split(".")[0] for name in sys.modules} & libraries)
print(json.dumps([opened, threading.active_count() - before, modules]))
"""


def test_a_call_opens_no_file_and_imports_no_module(store, name):
    opened, threads, modules = json.loads(run_python(COUNT, store.instance_path, name))
    assert opened == [] and threads == 0
    if name in ("onnx", "imported-graph"):
        assert modules == ["onnxruntime"]
    elif "onnx" not in name:
        assert "sklearn" in modules and "onnxruntime" not in modules
