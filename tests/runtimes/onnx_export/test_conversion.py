"""Conversion of estimators to graphs: files, outputs, precision, and estimators that have no graph."""

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from flaskml.errors import NotPublishable
from tests.support.numeric_cases import FRESH_ROWS, ROWS, ROWS_WITH_NAN, TARGETS, TWO_CLASSES, numeric_case

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
pytest.importorskip("onnxruntime")

from flaskml.runtimes.onnx import open_session  # noqa: E402
from flaskml.runtimes.onnx_export.conversion import export_graphs  # noqa: E402 - only where the extra is installed

ALL = ("predict", "predict_proba", "predict_log_proba", "decision_function")


def run(graph, method, table):
    return open_session(graph.content).run([method], {"rows": table})[0]


def test_scores_have_a_graph_apart_from_labels_and_probabilities():
    graphs = export_graphs(LogisticRegression().fit(ROWS, TWO_CLASSES), ROWS[:32], ALL)
    assert {file: graph.methods for file, graph in graphs.items()} == {
        "predict.onnx": ("predict", "predict_proba"),
        "decision_function.onnx": ("decision_function",),
    }


@pytest.mark.parametrize(
    "name",
    [
        "two integer labels",
        "three string labels",
        "missing values, classifier",
        "forest of three classes",
        "grid search",
        "linear",
    ],
)
def test_graphs_compute_in_double_precision(name):
    case = numeric_case(name)
    methods = [method for method in ALL if hasattr(case.estimator, method)]
    for graph in export_graphs(case.estimator, case.X[:32], methods).values():
        model = onnx.load_model_from_string(graph.content)
        assert [value.name for value in model.graph.input] == ["rows"]
        assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
        assert [output.name for output in model.graph.output] == list(graph.methods)
        assert not [constant for constant in model.graph.initializer if constant.data_type == onnx.TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("name", "method", "dtype", "shape"),
    [
        ("linear", "predict", "f", (200,)),
        ("several targets", "predict", "f", (200, 2)),
        ("two integer labels", "predict", "i", (200,)),
        ("boolean labels", "predict", "b", (200,)),
        ("float labels", "predict", "f", (200,)),
        ("two string labels", "predict", "O", (200,)),
        ("two integer labels", "decision_function", "f", (200,)),
        ("three integer labels", "decision_function", "f", (200, 3)),
        ("two integer labels", "predict_proba", "f", (200, 2)),
        ("principal components", "transform", "f", (200, 2)),
    ],
)
def test_outputs_have_the_shape_and_the_dtype_kind_of_the_estimators_answers(name, method, dtype, shape):
    case = numeric_case(name)
    methods = [m for m in (*ALL, "transform") if hasattr(case.estimator, m)]
    graphs = export_graphs(case.estimator, case.X[:32], methods)
    (graph,) = [graph for graph in graphs.values() if method in graph.methods]
    answer = run(graph, method, FRESH_ROWS)
    assert (answer.dtype.kind, answer.shape) == (dtype, shape)
    assert answer.dtype.kind != "f" or answer.dtype == np.float64


def test_small_probabilities_keep_their_precision():
    estimator = LogisticRegression(C=1e6).fit(ROWS, TWO_CLASSES)
    far = ROWS * 50
    expected = estimator.predict_proba(far)
    answer = run(export_graphs(estimator, ROWS[:32], ALL)["predict.onnx"], "predict_proba", far)
    assert 0 < expected[expected > 0].min() < 1e-100
    assert np.allclose(answer, expected, rtol=1e-9, atol=0)


def test_the_decision_boundary_is_exact_to_the_last_bit():
    """The smallest score above zero means the second class, although both probabilities round to 0.5."""
    estimator = LogisticRegression().fit(np.array([[-1.0], [1.0]] * 10), [0, 1] * 10)
    estimator.intercept_[:] = 0
    table = np.array([[0.0], [-0.0], [1e-300], [-1e-300], [1e-18]])
    graph = export_graphs(estimator, table, ALL)["predict.onnx"]
    assert (estimator.predict_proba(table) == 0.5).all()
    assert run(graph, "predict", table).tolist() == estimator.predict(table).tolist() == [0, 0, 1, 0, 1]


def test_a_search_has_the_graphs_of_its_best_estimator():
    case = numeric_case("grid search")
    assert set(export_graphs(case.estimator, ROWS[:32], ALL)) == {"predict.onnx", "decision_function.onnx"}


@pytest.mark.parametrize(
    "imputer",
    [SimpleImputer(add_indicator=True), SimpleImputer(missing_values=0)],
    ids=["indicator", "zeros"],
)
def test_an_imputer_that_does_more_than_replace_nan_has_no_graph(imputer):
    X = np.nan_to_num(ROWS_WITH_NAN) if imputer.missing_values == 0 else ROWS_WITH_NAN
    pipeline = make_pipeline(imputer, LinearRegression()).fit(X, TARGETS)
    with pytest.raises(NotPublishable, match="no more than replace NaN"):
        export_graphs(pipeline, X[:32], ("predict",))


def test_an_estimator_without_a_converter_has_no_graph():
    case = numeric_case("isotonic")
    with pytest.raises(NotPublishable, match=r"no graph in double precision \(MissingShapeCalculator\)"):
        export_graphs(case.estimator, case.X[:32], ("predict",))


def test_unsupported_scores_do_not_prevent_the_other_methods():
    case = numeric_case("linear discriminant analysis")
    graphs = export_graphs(case.estimator, ROWS[:32], (*ALL, "transform"))
    assert "predict_proba" in graphs["predict.onnx"].methods
    assert np.array_equal(run(graphs["predict.onnx"], "predict", FRESH_ROWS), case.estimator.predict(FRESH_ROWS))
