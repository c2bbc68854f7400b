"""Imported ONNX graphs."""

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
from tests.support.numeric_cases import ROWS, STRING_CLASSES, TARGETS, THREE_CLASSES, TWO_CLASSES, small_ensemble

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402 - only where the extra is installed
from skl2onnx import to_onnx  # noqa: E402

SINGLE = ROWS.astype(np.float32)


def converted(estimator, rows=SINGLE, **options):
    """Return the graph that skl2onnx writes by default, with probabilities as a mapping for each row."""
    return to_onnx(estimator, rows[:1], **options)


def graph_of(inputs, nodes, outputs, constants=()):
    """Return a model with an opset that every library supports."""
    graph = helper.make_graph(nodes, "made", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def floats(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def doubling_graph(inputs=None, outputs=None, nodes=None, constants=()):
    """Return a graph that doubles its rows, with the parts that are given replaced."""
    inputs = inputs or [floats("given", [None, 2])]
    nodes = nodes or [helper.make_node("Add", ["given", "given"], ["doubled"])]
    return graph_of(inputs, nodes, outputs or [floats("doubled", None)], constants)


def imported(model):
    return ImportedGraph(model.SerializeToString())


@pytest.mark.parametrize("rows", [SINGLE, ROWS], ids=["single", "double"])
@pytest.mark.parametrize(
    "estimator",
    [LinearRegression(), make_pipeline(StandardScaler(), LinearRegression()), small_ensemble(RandomForestRegressor)],
    ids=["linear", "pipeline", "forest"],
)
def test_a_regressor_is_imported(estimator, rows):
    estimator.fit(ROWS, TARGETS)
    graph = imported(converted(estimator, rows))
    assert (graph.methods, graph.task, graph.n_features_in_) == (("predict",), "regression", 4)
    assert not hasattr(graph, "classes_") and not hasattr(graph, "predict_proba")
    answer = graph.predict(ROWS)
    assert answer.shape == (len(ROWS),)
    assert np.allclose(answer, estimator.predict(ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"zipmap": False}], ids=["mappings", "array"])
@pytest.mark.parametrize("labels", [TWO_CLASSES, THREE_CLASSES, STRING_CLASSES], ids=["two", "three", "strings"])
def test_a_classifier_is_imported(labels, options):
    estimator = LogisticRegression().fit(ROWS, labels)
    graph = imported(converted(estimator, options={id(estimator): options} if options else None))
    assert (graph.methods, graph.task) == (("predict", "predict_proba"), "classification")
    assert graph.classes_.tolist() == estimator.classes_.tolist()
    assert graph.predict(ROWS).tolist() == estimator.predict(ROWS).tolist()
    assert np.allclose(graph.predict_proba(ROWS), estimator.predict_proba(ROWS), atol=1e-5)


@pytest.mark.parametrize(
    "estimator", [KMeans(3, random_state=0), small_ensemble(IsolationForest)], ids=["clusters", "outliers"]
)
def test_scores_are_not_taken_for_probabilities(estimator):
    estimator.fit(ROWS)
    graph = imported(converted(estimator, target_opset={"": 17, "ai.onnx.ml": 3}))
    assert graph.methods == ("predict",) and not hasattr(graph, "predict_proba")
    assert np.mean(graph.predict(ROWS) == estimator.predict(ROWS)) > 0.98


def test_an_output_of_several_columns_is_one_answer():
    graph = imported(doubling_graph())
    assert graph.predict(np.ones((3, 2))).tolist() == [[2.0, 2.0]] * 3


def test_a_graph_may_use_the_names_of_methods_itself():
    nodes = [
        helper.make_node("Add", ["rows", "rows"], ["predict_proba"]),
        helper.make_node("ReduceSum", ["predict_proba", "axes"], ["predict"], keepdims=1),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    model = doubling_graph([floats("rows", [None, 2])], [floats("predict", [None, 1])], nodes, [axes])
    assert imported(model).predict(np.ones((3, 2))).tolist() == [4.0] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must take one array"),
        (b"no graph at all", "not an ONNX graph"),
        (bytes(range(256)) * 9, "not an ONNX graph"),
    ],
)
def test_invalid_content_is_rejected(content, message):
    with pytest.raises(NotPublishable, match=message):
        ImportedGraph(content)


def two_inputs():
    inputs = [floats("a", [None, 2]), floats("b", [None, 2])]
    return doubling_graph(inputs, nodes=[helper.make_node("Add", ["a", "b"], ["doubled"])])


def undefined_input():
    return doubling_graph(nodes=[helper.make_node("Add", ["later", "given"], ["doubled"])])


REJECTED = {
    "several inputs": (two_inputs, "must take one array of floats"),
    "strings": (
        lambda: doubling_graph([floats("given", [None, 2], TensorProto.STRING)]),
        "must take one array of floats",
    ),
    "integers": (
        lambda: doubling_graph([floats("given", [None, 2], TensorProto.INT64)]),
        "must take one array of floats",
    ),
    "one dimension": (lambda: doubling_graph([floats("given", [None])]), "shape \\(rows, features\\)"),
    "three dimensions": (lambda: doubling_graph([floats("given", [None, 2, 2])]), "shape \\(rows, features\\)"),
    "variable number of features": (
        lambda: doubling_graph([floats("given", [None, None])]),
        "a fixed number of features",
    ),
    "no shape": (lambda: doubling_graph([floats("given", None)]), "a fixed number of features"),
    "one row only": (
        lambda: doubling_graph(
            nodes=[helper.make_node("Reshape", ["given", "shape"], ["doubled"])],
            constants=[helper.make_tensor("shape", TensorProto.INT64, [2], [1, 2])],
        ),
        "does not compute 3 rows of 2 numbers",
    ),
    "no output": (lambda: graph_of([floats("given", [None, 2])], [], []), "has no output"),
    "one prediction for all rows": (
        lambda: doubling_graph(nodes=[helper.make_node("ReduceMean", ["given"], ["doubled"], keepdims=0)]),
        "for each row",
    ),
    "undefined input": (undefined_input, "does not load"),
    "an unknown operator": (
        lambda: doubling_graph(nodes=[helper.make_node("Guess", ["given"], ["doubled"])]),
        "does not load",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_an_unsupported_graph_is_rejected(name):
    make, message = REJECTED[name]
    with pytest.raises(NotPublishable, match=message):
        imported(make())


def external(tensor):
    """Return the tensor with its data in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="numbers.bin")
    return tensor


def external_constant():
    tensor = external(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    return doubling_graph(nodes=[helper.make_node("Add", ["given", "constant"], ["doubled"])], constants=[tensor])


def external_attribute():
    tensor = external(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("Add", ["given", "c"], ["doubled"]),
    ]
    return doubling_graph(nodes=nodes)


def external_branch():
    tensor = external(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    branch = helper.make_graph(
        [helper.make_node("Identity", ["constant"], ["b"])], "b", [], [floats("b", None)], [tensor]
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [
        helper.make_node("If", ["true"], ["c"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["given", "c"], ["doubled"]),
    ]
    return doubling_graph(nodes=nodes, constants=[true])


def external_function():
    tensor = external(numpy_helper.from_array(np.ones((1, 2), dtype=np.float32), "constant"))
    opset = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("Add", ["x", "c"], ["y"])]
    model = doubling_graph(nodes=[helper.make_node("Own", ["given"], ["doubled"], domain="own")])
    model.functions.append(helper.make_function("own", "Own", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def external_sparse_tensor():
    model = doubling_graph()
    sparse = model.graph.sparse_initializer.add(dims=[1, 2])
    sparse.values.CopyFrom(external(numpy_helper.from_array(np.ones(1, dtype=np.float32), "sparse")))
    return model


@pytest.mark.parametrize(
    "make", [external_constant, external_attribute, external_branch, external_function, external_sparse_tensor]
)
def test_external_data_is_rejected_before_it_is_read(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.bin").write_bytes(np.full((1, 2), 7, dtype=np.float32).tobytes())
    monkeypatch.setattr("flaskml.runtimes.onnx_import.open_session", lambda graph: pytest.fail("the graph was loaded"))
    with pytest.raises(NotPublishable, match="in other files; save it as one file"):
        imported(make())


def test_a_graph_is_published_like_an_estimator(tmp_path):
    estimator = LogisticRegression().fit(ROWS, STRING_CLASSES)
    graph = imported(converted(estimator))
    assert (estimator_task(graph), estimator_name(graph)) == ("classification", "ONNX graph")
    assert flaskml.publish(graph, ROWS, instance_path=tmp_path) == "1"
    loaded = ModelStore(tmp_path).load("default", "1")
    manifest = loaded.manifest
    assert loaded.estimator is None and not (tmp_path / "models/default/1/model.joblib").exists()
    assert (manifest.runtime, manifest.graphs) == ("onnx", {"predict.onnx": ("predict", "predict_proba")})
    assert manifest.classes == (tuple(estimator.classes_.tolist()),)
    assert [(measurement.runtime, measurement.note, measurement.matches) for measurement in manifest.measurements] == [
        ("onnx", "the graph itself", True)
    ]
    predictor = open_predictor(loaded, max_rows=300)
    rows = predictor.parser.parse_table(ROWS)
    assert predictor.predict(rows).tolist() == estimator.predict(ROWS).tolist()
    probabilities = json_answers(predictor.predict(rows, "predict_proba"), "predict_proba", manifest.classes)
    assert list(probabilities[0]) == estimator.classes_.tolist()
    assert sum(probabilities[0].values()) == pytest.approx(1, abs=1e-5)


def test_a_graph_is_published_with_the_onnx_runtime_only(tmp_path):
    graph = imported(doubling_graph())
    for runtime, message in (("sklearn", "computed by the runtime onnx, not by sklearn"), ("abacus", "no runtime")):
        with pytest.raises(NotPublishable, match=message):
            flaskml.publish(graph, ROWS[:, :2], instance_path=tmp_path, runtime=runtime)
    assert not (tmp_path / "models").exists()
    flaskml.publish(graph, ROWS[:, :2], instance_path=tmp_path, runtime="onnx", activate=False)


def test_a_sample_with_another_number_of_features_is_rejected(tmp_path):
    with pytest.raises(NotPublishable, match="fitted on 2 features; the sample has 4"):
        flaskml.publish(imported(doubling_graph()), ROWS, instance_path=tmp_path)


def test_importing_a_graph_starts_no_thread():
    before = threading.active_count()
    imported(doubling_graph())
    assert threading.active_count() == before
