"""Graphs of estimators: their files, outputs and reasons why there is none."""

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from flaskml.errors import NotPublishable
from tests.support.numeric_cases import FRESH, GAPS, QUANTITY, ROWS, TWO, case

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from flaskml.runtimes.onnx import open_session  # noqa: E402
from flaskml.runtimes.onnx_export.conversion import export_graphs  # noqa: E402 - only where the extra is installed

ALL = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def run(graph, method, table):
    return open_session(graph.content).run([method], {"rows": table})[0]


def test_one_graph_for_labels_and_probabilities_and_one_for_scores():
    graphs = export_graphs(LogisticRegression().fit(ROWS, TWO), ROWS[:32], ALL)
    assert {file: graph.methods for file, graph in graphs.items()} == {
        "predict.onnx": ("predict", "predict_proba"),
        "decision_function.onnx": ("decision_function",),
    }


@pytest.mark.parametrize("name", ["two whole", "three texts", "gaps, classes", "forest, three", "searched", "linear"])
def test_graphs_compute_in_double_precision(name):
    made = case(name)
    methods = [method for method in ALL if hasattr(made.estimator, method)]
    for graph in export_graphs(made.estimator, made.X[:32], methods).values():
        model = onnx.load_model_from_string(graph.content)
        assert [given.name for given in model.graph.input] == ["rows"]
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
        assert [output.name for output in model.graph.output] == list(graph.methods)
        assert not [constant for constant in model.graph.initializer if constant.data_type == onnx.TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("name", "method", "dtype", "shape"),
    [
        ("linear", "predict", "f", (200,)),
        ("several quantities", "predict", "f", (200, 2)),
        ("two whole", "predict", "i", (200,)),
        ("two booleans", "predict", "b", (200,)),
        ("two floats", "predict", "f", (200,)),
        ("two texts", "predict", "O", (200,)),
        ("two whole", "decision_function", "f", (200,)),
        ("three whole", "decision_function", "f", (200, 3)),
        ("two whole", "predict_proba", "f", (200, 2)),
        ("components", "transform", "f", (200, 2)),
    ],
)
def test_answers_have_the_shape_and_the_kind_of_the_estimators(name, method, dtype, shape):
    made = case(name)
    methods = [m for m in (*ALL, "transform") if hasattr(made.estimator, m)]
    graphs = export_graphs(made.estimator, made.X[:32], methods)
    (graph,) = [graph for graph in graphs.values() if method in graph.methods]
    answer = run(graph, method, FRESH)
    assert (answer.dtype.kind, answer.shape) == (dtype, shape)
    assert answer.dtype.kind != "f" or answer.dtype == np.float64


def test_small_probabilities_are_kept():
    estimator = LogisticRegression(C=1e6).fit(ROWS, TWO)
    far = ROWS * 50
    expected = estimator.predict_proba(far)
    answer = run(export_graphs(estimator, ROWS[:32], ALL)["predict.onnx"], "predict_proba", far)
    assert 0 < expected[expected > 0].min() < 1e-100
    assert np.allclose(answer, expected, rtol=1e-9, atol=0)


def test_the_boundary_is_the_estimators_to_the_last_bit():
    """A score of the smallest number above zero is the second class, though both are as probable."""
    estimator = LogisticRegression().fit(np.array([[-1.0], [1.0]] * 10), [0, 1] * 10)
    estimator.intercept_[:] = 0
    table = np.array([[0.0], [-0.0], [1e-300], [-1e-300], [1e-18]])
    graph = export_graphs(estimator, table, ALL)["predict.onnx"]
    assert (estimator.predict_proba(table) == 0.5).all()
    assert run(graph, "predict", table).tolist() == estimator.predict(table).tolist() == [0, 0, 1, 0, 1]


def test_a_search_has_the_graphs_of_what_it_found():
    made = case("searched")
    assert set(export_graphs(made.estimator, ROWS[:32], ALL)) == {"predict.onnx", "decision_function.onnx"}


@pytest.mark.parametrize(
    "imputer",
    [SimpleImputer(add_indicator=True), SimpleImputer(missing_values=0)],
    ids=["indicator", "zeros"],
)
def test_imputers_that_do_more_have_no_graph(imputer):
    X = np.nan_to_num(GAPS) if imputer.missing_values == 0 else GAPS
    pipeline = make_pipeline(imputer, LinearRegression()).fit(X, QUANTITY)
    with pytest.raises(NotPublishable, match="imputer that does more"):
        export_graphs(pipeline, X[:32], ("predict",))


def test_an_estimator_that_the_converter_does_not_know_has_no_graph():
    made = case("isotonic")
    with pytest.raises(NotPublishable, match=r"no graph in double precision \(MissingShapeCalculator\)"):
        export_graphs(made.estimator, made.X[:32], ("predict",))


def test_scores_without_a_graph_take_nothing_from_the_rest():
    made = case("discriminant")
    graphs = export_graphs(made.estimator, ROWS[:32], (*ALL, "transform"))
    assert "predict_proba" in graphs["predict.onnx"].methods
    assert np.array_equal(run(graphs["predict.onnx"], "predict", FRESH), made.estimator.predict(FRESH))
