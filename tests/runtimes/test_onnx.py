"""The ONNX runtime: stored graphs, their input, damaged files, and methods that the estimator computes."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB

import flaskml
from flaskml.errors import DamagedFile, NotPublishable
from flaskml.inference.predictor import open_predictor
from flaskml.runtimes.onnx import OnnxRuntime, open_session
from flaskml.schema.features import Feature, Schema
from flaskml.store.manifest import environment_key
from flaskml.store.model_store import ModelStore
from tests.support.checkout import BLOCKED, run_python
from tests.support.numeric_cases import ROWS, ROWS_WITH_NAN, TARGETS, THREE_CLASSES, numeric_case

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An instance folder with a model that graphs compute alone, and one that also needs its estimator."""
    path = tmp_path_factory.mktemp("onnx") / "instance"
    case = numeric_case("forest of three classes")
    flaskml.publish(case.estimator, case.X, instance_path=path, runtime="onnx")
    bayes = GaussianNB().fit(ROWS, THREE_CLASSES)
    flaskml.publish(bayes, ROWS, name="bayes", instance_path=path, runtime="onnx")
    return path


@pytest.fixture
def instance(published, tmp_path):
    from shutil import copytree

    return Path(copytree(published, tmp_path / "instance"))


def test_a_version_stores_its_graphs(published):
    store = ModelStore(published)
    manifest = store.manifest("default", "1")
    assert manifest.runtime == "onnx" and manifest.graphs_answer_all
    assert manifest.graphs == {"predict.onnx": ("predict", "predict_proba", "predict_log_proba")}
    assert {"model.joblib", "predict.onnx", "golden.json"} == set(manifest.files)
    assert "onnxruntime" in manifest.environment and "onnxruntime" in environment_key()
    assert store.load("default", "1").estimator is None
    bayes = store.manifest("bayes", "1")
    assert "predict_log_proba" not in bayes.graphs["predict.onnx"] and not bayes.graphs_answer_all
    assert store.load("bayes", "1").estimator is not None


def test_the_estimator_computes_methods_without_a_graph(published):
    predictor = open_predictor(ModelStore(published).load("bayes", "1"), max_rows=100)
    far = ROWS[:5] * 50  # Too far for probabilities as floats, but not for their logarithms.
    rows = predictor.parser.parse_table(far)
    expected = GaussianNB().fit(ROWS, THREE_CLASSES).predict_log_proba(far)
    assert np.isfinite(expected).all() and expected.min() < -1000
    assert np.allclose(predictor.predict(rows, "predict_log_proba"), expected, rtol=1e-12)
    assert np.array_equal(predictor.predict(rows), GaussianNB().fit(ROWS, THREE_CLASSES).predict(far))


SERVED = """
import json, sys
from flaskml import create_app
app = create_app({"INSTANCE_PATH": sys.argv[1], "MODEL_NAME": sys.argv[2]})
loaded = sorted({name.split(".")[0] for name in sys.modules} & {"sklearn", "joblib", "onnx", "skl2onnx", "pandas"})
client, opened, counting = app.test_client(), [], False
slot, row = app.extensions["model"], app.extensions["model"].current.schema.example
client.post("/nowhere", json=row)  # The first request joins the roster, and loads a codec of the test client.
def hook(event, arguments):
    if counting and event in ("open", "import"):
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
counting = True
for method in slot.current.manifest.methods:
    for body in (row, [row] * 50):
        assert client.post(f"/predict?method={method}", json=body).status_code == 200
counting = False
again = sorted({name.split(".")[0] for name in sys.modules} & {"sklearn", "joblib", "onnx", "skl2onnx", "pandas"})
print(json.dumps([loaded, again, opened]))
"""


def test_a_server_with_graphs_only_imports_no_scikit_learn(published, tmp_path):
    from shutil import copytree, rmtree

    alone = copytree(published, tmp_path / "alone")
    rmtree(alone / "models/bayes")
    assert json.loads(run_python(SERVED, alone, "default")) == [[], [], []]


def test_a_required_estimator_is_loaded_at_start(published):
    loaded, again, opened = json.loads(run_python(SERVED, published, "bayes"))
    assert {"sklearn", "joblib"} <= set(loaded) and again == loaded and opened == []


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "swapped":
        path.write_bytes((path.parents[2] / "bayes/1/predict.onnx").read_bytes())
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content if how == "changed" else content[:-1])


@pytest.mark.parametrize("how", ["missing", "swapped", "changed", "shortened"])
def test_a_damaged_graph_is_reported_and_never_parsed(instance, monkeypatch, how):
    damage(instance / "models/default/1/predict.onnx", how)
    monkeypatch.setattr("flaskml.runtimes.onnx.open_session", lambda graph: pytest.fail("it was parsed"))
    with pytest.raises(DamagedFile, match=r"models/default/1/predict\.onnx"):
        ModelStore(instance).load("default", "1")


def test_a_server_reports_the_file_of_a_damaged_graph(instance, make_app):
    damage(instance / "models/default/1/predict.onnx", "changed")
    client, row = make_app().test_client(), dict.fromkeys(["x0", "x1", "x2", "x3"], 0.0)
    answer = client.post("/predict", json=row)
    assert answer.status_code == 503 and "models/default/1/predict.onnx" in answer.json["detail"]
    assert client.post("/models/bayes/predict", json=row).status_code == 200


def test_a_server_without_onnxruntime_reports_the_extra(instance):
    code = f"""{BLOCKED}
from flaskml import create_app
app = create_app({{"INSTANCE_PATH": sys.argv[2]}})
answer = app.test_client().post("/predict", json=dict.fromkeys(["x0", "x1", "x2", "x3"], 0.5))
print(answer.status_code, answer.json["detail"])
"""
    before = ModelStore(instance).state("default")
    answer = run_python(code, "onnxruntime", instance)
    assert answer.startswith("503 ") and "pip install 'flaskml[fast]'" in answer
    # There is no verdict, because onnxruntime may be installed before the next start.
    assert ModelStore(instance).state("default").verdicts == before.verdicts


def as_int(table):
    return np.round(table * 3).astype(np.int32)


@pytest.mark.parametrize("kind", [np.float32, np.float64, as_int], ids=["single", "double", "integer"])
def test_a_row_is_rounded_to_the_dtype_of_the_estimator(kind):
    """The graph and the estimator get the same numbers."""
    convert = kind if kind is as_int else lambda table: table.astype(kind)
    X = convert(ROWS)
    kind_of = "integer" if kind is as_int else "float"
    features = tuple(Feature(name=name, kind=kind_of, dtype=X.dtype.name) for name in "abcd")
    schema = Schema(features=features, layout="array", dtype=X.dtype.name)
    tables = []

    class Session:
        def run(self, names, inputs):
            tables.append(inputs["rows"])
            return [inputs["rows"].sum(axis=1)]

    class Estimator:
        is_thread_safe = True

        def compute(self, table, method):
            tables.append(table)
            return table[:, 0]

    runtime = OnnxRuntime({"predict": Session()}, schema, Estimator())
    table = runtime.table_builder.build([[3 if kind is as_int else 0.1] * 4])
    runtime.compute(table, "predict")
    runtime.compute(table, "transform")
    graph_input, estimator_input = tables
    assert graph_input.dtype == np.float64 and estimator_input.dtype == X.dtype
    assert np.array_equal(graph_input, estimator_input)
    assert graph_input[0, 0] == X.dtype.type(3 if kind is as_int else 0.1)


def test_integers_beyond_double_precision_reach_the_estimator_exactly():
    schema = Schema(features=(Feature(name="a", kind="integer"),), layout="array", dtype="int64")
    computed = []

    class Estimator:
        is_thread_safe = True

        def compute(self, table, method):
            computed.append(int(table[0, 0]))
            return table[:, 0]

    runtime = OnnxRuntime({}, schema, Estimator())
    for number in (2**53 + 1, 2**63 - 1, -(2**63)):
        runtime.compute(runtime.table_builder.build([[number]]), "predict")
    assert computed == [2**53 + 1, 2**63 - 1, -(2**63)]


def test_missing_values_reach_the_graph(tmp_path):
    case = numeric_case("missing values, classifier")
    flaskml.publish(case.estimator, case.X, instance_path=tmp_path, runtime="onnx", activate=False)
    predictor = open_predictor(ModelStore(tmp_path).load("default", "1"), max_rows=100)
    rows = [[None if value != value else value for value in row] for row in ROWS_WITH_NAN[:20].tolist()]
    answer = predictor.predict(predictor.parse(json.dumps({"instances": rows}).encode()))
    assert np.array_equal(answer, case.estimator.predict(ROWS_WITH_NAN[:20])) and any(None in row for row in rows)


@pytest.mark.parametrize("content", [b"", b"no graph", bytes(1000)])
def test_invalid_content_does_not_load(content):
    with pytest.raises(NotPublishable, match="does not load"):
        open_session(content)


def test_a_hot_reload_switches_between_runtimes(instance, make_app):
    linear, forest = LinearRegression().fit(ROWS, TARGETS), numeric_case("forest of three classes").estimator
    app = make_app()
    client, row = app.test_client(), dict(zip(["x0", "x1", "x2", "x3"], ROWS[0].tolist(), strict=True))
    assert client.post("/predict", json=row).json["prediction"] == forest.predict(ROWS[:1])[0]
    for version, runtime in (("2", "sklearn"), ("3", "onnx")):
        flaskml.publish(linear, ROWS, instance_path=instance, runtime=runtime)
        app.extensions["registry"].refresh()
        answer = client.post("/predict", json=row).json
        assert answer["prediction"] == pytest.approx(linear.predict(ROWS[:1])[0], rel=1e-9)
        assert answer["version"] == version
