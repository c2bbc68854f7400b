"""ONNX graphs that somebody else made."""

import threading

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import flaskml
from flaskml.codecs.answers import json_answers
from flaskml.errors import NotPublishable
from flaskml.inference.predictor import open_predictor
from flaskml.publishing.publish import estimator_name, estimator_task
from flaskml.runtimes.onnx_import import ImportedGraph
from flaskml.store.model_store import ModelStore
from tests.support.numeric_cases import NAMES, QUANTITY, ROWS, THREE, TWO, few

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - only where it is installed
from skl2onnx import to_onnx  # noqa: E402

SINGLE = ROWS.astype(np.float32)


def converted(estimator, rows=SINGLE, **options):
    """What skl2onnx makes of an estimator when nothing is said, probabilities as a mapping for each row."""
    return to_onnx(estimator, rows[:1], **options)


def graph_of(inputs, nodes, outputs, constants=()):
    """A model of its own, with the operators of a version that every library knows."""
    graph = helper.make_graph(nodes, "made", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def floats(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def doubled(inputs=None, outputs=None, nodes=None, constants=()):
    """A graph that answers twice its rows, or whatever is said instead."""
    given = inputs or [floats("given", [None, 2])]
    nodes = nodes or [helper.make_node("Add", ["given", "given"], ["twice"])]
    return graph_of(given, nodes, outputs or [floats("twice", None)], constants)


def foreign(model):
    return ImportedGraph(model.SerializeToString())


@pytest.mark.parametrize("rows", [SINGLE, ROWS], ids=["single", "double"])
@pytest.mark.parametrize(
    "estimator",
    [LinearRegression(), make_pipeline(StandardScaler(), LinearRegression()), few(RandomForestRegressor)],
    ids=["linear", "pipeline", "forest"],
)
def test_quantities(estimator, rows):
    estimator.fit(ROWS, QUANTITY)
    graph = foreign(converted(estimator, rows))
    assert (graph.methods, graph.task, graph.n_features_in_) == (("predict",), "regression", 4)
    assert not hasattr(graph, "classes_") and not hasattr(graph, "predict_proba")
    answer = graph.predict(ROWS)
    assert answer.shape == (len(ROWS),)
    assert np.allclose(answer, estimator.predict(ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"zipmap": False}], ids=["mappings", "array"])
@pytest.mark.parametrize("labels", [TWO, THREE, NAMES], ids=["two", "three", "texts"])
def test_classes(labels, options):
    estimator = LogisticRegression().fit(ROWS, labels)
    graph = foreign(converted(estimator, options={id(estimator): options} if options else None))
    assert (graph.methods, graph.task) == (("predict", "predict_proba"), "classification")
    assert graph.classes_.tolist() == estimator.classes_.tolist()
    assert graph.predict(ROWS).tolist() == estimator.predict(ROWS).tolist()
    assert np.allclose(graph.predict_proba(ROWS), estimator.predict_proba(ROWS), atol=1e-5)


@pytest.mark.parametrize("estimator", [KMeans(3, random_state=0), few(IsolationForest)], ids=["clusters", "outliers"])
def test_scores_are_no_probabilities(estimator):
    estimator.fit(ROWS)
    graph = foreign(converted(estimator, target_opset={"": 17, "ai.onnx.ml": 3}))
    assert graph.methods == ("predict",) and not hasattr(graph, "predict_proba")
    assert np.mean(graph.predict(ROWS) == estimator.predict(ROWS)) > 0.98


def test_several_columns_are_one_answer():
    graph = foreign(doubled())
    assert graph.predict(np.ones((3, 2))).tolist() == [[2.0, 2.0]] * 3


def test_names_that_are_ours_are_no_trouble():
    nodes = [
        helper.make_node("Add", ["rows", "rows"], ["predict_proba"]),
        helper.make_node("ReduceSum", ["predict_proba", "axes"], ["predict"], keepdims=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    model = doubled([floats("rows", [None, 2])], [floats("predict", [None, 1])], nodes, [axes])
    assert foreign(model).predict(np.ones((3, 2))).tolist() == [4.0] * 3


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "must take one array"), (b"no graph at all", "no ONNX file"), (bytes(range(256)) * 9, "no ONNX file")],
)
def test_garbage_is_refused(content, said):
    with pytest.raises(NotPublishable, match=said):
        ImportedGraph(content)


def two_inputs():
    given = [floats("a", [None, 2]), floats("b", [None, 2])]
    return doubled(given, nodes=[helper.make_node("Add", ["a", "b"], ["twice"])])


def with_an_input_from_nowhere():
    return doubled(nodes=[helper.make_node("Add", ["later", "given"], ["twice"])])


REFUSED = {
    "several inputs": (two_inputs, "must take one array of floats"),
    "texts": (lambda: doubled([floats("given", [None, 2], TensorProto.STRING)]), "must take one array of floats"),
    "integers": (lambda: doubled([floats("given", [None, 2], TensorProto.INT64)]), "must take one array of floats"),
    "one dimension": (lambda: doubled([floats("given", [None])]), "shape \\(rows, features\\)"),
    "three dimensions": (lambda: doubled([floats("given", [None, 2, 2])]), "shape \\(rows, features\\)"),
    "uncounted features": (lambda: doubled([floats("given", [None, None])]), "with the features counted"),
    "no shape": (lambda: doubled([floats("given", None)]), "with the features counted"),
    "one row only": (
        lambda: doubled(nodes=[helper.make_node("Reshape", ["given", "shape"], ["twice"])],
                        constants=[helper.make_tensor("shape", TensorProto.INT64, [2], [1, 2])]),
        "does not compute rows of 2 numbers",
    ),
    "no output": (lambda: graph_of([floats("given", [None, 2])], [], []), "answers nothing"),
    "one answer for all": (
        lambda: doubled(nodes=[helper.make_node("ReduceMean", ["given"], ["twice"], keepdims=0)]),
        "must answer each row",
    ),
    "what nothing gives": (with_an_input_from_nowhere, "does not load"),
    "an unknown operator": (lambda: doubled(nodes=[helper.make_node("Guess", ["given"], ["twice"])]), "does not load"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_are_refused(name):
    make, said = REFUSED[name]
    with pytest.raises(NotPublishable, match=said):
        foreign(make())


def outside(tensor):
    """The tensor as one whose numbers are in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="numbers.bin")
    return tensor


def constant_outside():
    tensor = outside(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    return doubled(nodes=[helper.make_node("Add", ["given", "constant"], ["twice"])], constants=[tensor])


def attribute_outside():
    tensor = outside(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["given", "c"], ["twice"])]
    return doubled(nodes=nodes)


def branch_outside():
    tensor = outside(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["constant"], ["b"])], "b", [], [floats("b", None)], [tensor]
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("If", ["true"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["given", "c"], ["twice"]),
    ]
    return doubled(nodes=nodes, constants=[true])


def function_outside():
    tensor = outside(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    opset = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])]
    model = doubled(nodes=[helper.make_node("Own", ["given"], ["twice"], domain="own")])
    model.functions.append(helper.make_function("own", "Own", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def sparse_outside():
    model = doubled()
    sparse = model.graph.sparse_initializer.add(dims=[1, 2])
    sparse.values.CopyFrom(outside(numpy_helper.from_array(np.ones(1, dtype=np.float32), "sparse")))
    return model


@pytest.mark.parametrize(
    "make", [constant_outside, attribute_outside, branch_outside, function_outside, sparse_outside]
)
def test_numbers_in_other_files_are_refused_before_any_is_read(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.bin").write_bytes(np.full((1, 2), 7, dtype=np.float32).tobytes())
    monkeypatch.setattr("flaskml.runtimes.onnx_import.open_session", lambda graph: pytest.fail("it was loaded"))
    with pytest.raises(NotPublishable, match="in other files; save it as one file"):
        foreign(make())


def test_it_is_published_like_an_estimator(tmp_path):
    estimator = LogisticRegression().fit(ROWS, NAMES)
    graph = foreign(converted(estimator))
    assert (estimator_task(graph), estimator_name(graph)) == ("classification", "ONNX graph")
    assert flaskml.publish(graph, ROWS, instance_path=tmp_path) == "1"
    bundle = ModelStore(tmp_path).load("default", "1")
    manifest = bundle.manifest
    assert bundle.estimator is None and not (tmp_path / "models/default/1/model.joblib").exists()
    assert (manifest.runtime, manifest.graphs) == ("onnx", {"predict.onnx": ("predict", "predict_proba")})
    assert manifest.classes == (tuple(estimator.classes_.tolist()),)
    assert [(found.runtime, found.note, found.matches) for found in manifest.measurements] == [
        ("onnx", "the graph itself", True)
    ]
    predictor = open_predictor(bundle, max_rows=300)
    rows = predictor.parser.parse_table(ROWS)
    assert predictor.predict(rows).tolist() == estimator.predict(ROWS).tolist()
    shown = json_answers(predictor.predict(rows, "predict_proba"), "predict_proba", manifest.classes)
    assert list(shown[0]) == estimator.classes_.tolist() and sum(shown[0].values()) == pytest.approx(1, abs=1e-5)


def test_only_graphs_compute_graphs(tmp_path):
    graph = foreign(doubled())
    for runtime, said in (("sklearn", "computed by the runtime onnx, not by sklearn"), ("abacus", "no runtime")):
        with pytest.raises(NotPublishable, match=said):
            flaskml.publish(graph, ROWS[:, :2], instance_path=tmp_path, runtime=runtime)
    assert not (tmp_path / "models").exists()
    flaskml.publish(graph, ROWS[:, :2], instance_path=tmp_path, runtime="onnx", activate=False)


def test_a_sample_of_another_width_is_refused(tmp_path):
    with pytest.raises(NotPublishable, match="fitted on 2 features; the sample has 4"):
        flaskml.publish(foreign(doubled()), ROWS, instance_path=tmp_path)


def test_loading_starts_no_thread():
    before = threading.active_count()
    foreign(doubled())
    assert threading.active_count() == before
