"""What every runtime keeps to, whatever computes."""

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flaskml.codecs.answer_equality import answers_equal
from flaskml.runtimes import RUNTIME_CLASSES, open_runtime
from flaskml.runtimes import selection as candidates
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.runtimes.selection import choose_runtime
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents
from tests.support.checkout import run_python
from tests.support.numeric_cases import QUANTITY, ROWS, case, facts_of


def publish(store, name, estimator, X, runtime):
    """Stores an estimator to be computed by a runtime."""
    facts, golden, table = facts_of(estimator, X)
    choice = choose_runtime(estimator, facts, table, runtime)
    kept = None if isinstance(estimator, ImportedGraph) else estimator
    store.publish(name, choice.complete(facts), VersionContents(kept, golden, choice.graphs))


def foreign(X):
    """A graph that somebody else made."""
    from skl2onnx import to_onnx

    return ImportedGraph(to_onnx(case("three whole").estimator, X[:1].astype(np.float32)).SerializeToString())


KINDS = ("sklearn", "onnx", "onnx and its estimator", "a graph alone")
"""Each runtime, and the one of graphs with an estimator beside it, and without any."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a model for each kind, which only those have that can be had."""
    store = ModelStore(tmp_path_factory.mktemp("runtimes") / "instance")
    made, gaps = case("forest, three"), case("naive bayes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "MAX_TIMED_CALLS", candidates.CALLS_PER_TURN)
        publish(store, "sklearn", made.estimator, made.X, "sklearn")
        if "onnx" in installed():
            publish(store, "onnx", made.estimator, made.X, "onnx")
            publish(store, "onnx-and-its-estimator", gaps.estimator, gaps.X, "onnx")
            publish(store, "a-graph-alone", foreign(made.X), made.X, None)
    return store


def installed():
    from importlib.util import find_spec

    return {"onnx"} if find_spec("onnxruntime") and find_spec("skl2onnx") else set()


@pytest.fixture(params=KINDS)
def name(request):
    if "sklearn" not in request.param:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("skl2onnx")
    return request.param.replace(" ", "-")


@pytest.fixture
def bundle(store, name):
    return store.load(name, "1")


@pytest.fixture
def runtime(bundle):
    return open_runtime(bundle)


def answers(runtime, bundle, rows):
    return {method: runtime.compute(runtime.table_builder.build(rows), method) for method in bundle.manifest.methods}


def test_every_runtime_is_among_the_kinds(store, name):
    assert set(RUNTIME_CLASSES) <= set(KINDS)
    assert store.load(name, "1").manifest.runtime in RUNTIME_CLASSES


def test_it_answers_every_method_of_the_manifest(runtime, bundle):
    assert {"predict", "predict_proba"} <= set(bundle.manifest.methods)
    for method, answer in answers(runtime, bundle, ROWS[:7].tolist()).items():
        assert len(answer) == 7 and isinstance(answer, np.ndarray), method


def test_a_row_has_the_same_answer_whatever_the_others_are(runtime, bundle, name):
    near = 1e-6 if name == "a-graph-alone" else 1e-12  # That one computes in single precision.
    rows = ROWS[:200].tolist()
    together = answers(runtime, bundle, rows)
    order = np.random.default_rng(1).permutation(200)
    shuffled = answers(runtime, bundle, [rows[index] for index in order])
    for method, answer in together.items():
        assert answers_equal(answer[order], shuffled[method], relative=near, absolute=near), method
        for size, count in ((7, 28), (1, 20)):
            for start in range(0, count, size):
                part = runtime.compute(runtime.table_builder.build(rows[start : start + size]), method)
                assert answers_equal(answer[start : start + size], part, relative=near, absolute=near), (
                    method,
                    size,
                    start,
                )


# Scikit-learn takes the filters of warnings with each call of a forest, and threads see each other's where none are.
@pytest.mark.filterwarnings("ignore:`sklearn.utils.parallel.delayed` should be used with")
def test_threads_call_it_at_once(runtime, bundle):
    rows = ROWS[:20].tolist()
    expected = {method: answer.tolist() for method, answer in answers(runtime, bundle, rows).items()}
    wrong, start = [], threading.Barrier(4)

    def ask():
        start.wait()
        for index in range(25):
            for method in bundle.manifest.methods:
                part = runtime.compute(runtime.table_builder.build(rows[index % 10 :]), method)
                if not np.allclose(as_numbers(part.tolist()), as_numbers(expected[method][index % 10 :]), rtol=1e-6):
                    wrong.append((method, index))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def as_numbers(answer):
    """An answer with texts as numbers, so that it can be compared as an array."""
    array = np.array(answer)
    return np.unique(array, return_inverse=True)[1] if array.dtype.kind == "U" else np.nan_to_num(array)


def test_a_call_does_not_change_its_table(runtime, bundle):
    table = runtime.table_builder.build(ROWS[:7].tolist())
    before = table.copy()
    for method in bundle.manifest.methods:
        runtime.compute(table, method)
    assert np.array_equal(table, before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted as Linux lists them")
def test_opening_starts_no_thread(bundle):
    open_runtime(bundle)  # Libraries may start theirs when they are imported.
    before = len(os.listdir("/proc/self/task"))
    open_runtime(bundle)
    assert len(os.listdir("/proc/self/task")) == before


class Counting(LinearRegression):
    """Counts how often it was asked."""

    asked = 0

    def predict(self, X):
        type(self).asked += 1
        return super().predict(X)


def test_opening_asks_no_estimator(tmp_path):
    store = ModelStore(tmp_path)
    publish(store, "default", Counting().fit(ROWS, QUANTITY), ROWS, "sklearn")
    bundle, before = store.load("default", "1"), Counting.asked
    runtime = open_runtime(bundle)
    assert Counting.asked == before
    runtime.compute(runtime.table_builder.build(ROWS[:1].tolist()), "predict")
    assert Counting.asked == before + 1


@pytest.mark.parametrize("name", ["onnx", "a-graph-alone"])
def test_opening_runs_no_graph(store, name):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skl2onnx")
    runs, bundle = [], store.load(name, "1")

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_name == "run" and "onnxruntime" in frame.f_code.co_filename:
            runs.append(frame.f_code)

    sys.setprofile(profile)
    try:
        runtime = open_runtime(bundle)
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
bundle = ModelStore(Path(sys.argv[1])).load(sys.argv[2], "1")
runtime, row = open_runtime(bundle), [0.5, -0.5, 0.25, 1.0]
seen, counting, before = [], True, threading.active_count()
def hook(event, arguments):
    if counting and event in ("open", "import", "subprocess.Popen", "os.fork"):
        seen.append(f"{event} {arguments[0]}")
sys.addaudithook(hook)
for method in bundle.manifest.methods:
    for count in (1, 50):
        runtime.compute(runtime.table_builder.build([row] * count), method)
counting = False
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"sklearn", "joblib", "onnx", "skl2onnx", "onnxruntime"})
print(json.dumps([seen, threading.active_count() - before, loaded]))
"""


def test_once_open_it_opens_no_file_and_imports_nothing(store, name):
    seen, threads, loaded = json.loads(run_python(COUNT, store.instance_path, name))
    assert seen == [] and threads == 0
    if name in ("onnx", "a-graph-alone"):
        assert loaded == ["onnxruntime"]
    elif "onnx" not in name:
        assert "sklearn" in loaded and "onnxruntime" not in loaded
