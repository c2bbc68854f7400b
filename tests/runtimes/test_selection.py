"""Selection of a runtime, and its equivalence with the estimator."""

import pickle
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from flaskml.codecs.answer_equality import answers_equal, largest_absolute_number
from flaskml.codecs.answers import Answer
from flaskml.errors import NotPublishable
from flaskml.publishing.inspection import inspect_sample
from flaskml.runtimes import equivalence, open_runtime, selection
from flaskml.runtimes.equivalence import (
    RELATIVE_TOLERANCE,
    Comparison,
    extrapolated_rows,
    extreme_rows,
    rows_at_decision_boundaries,
)
from flaskml.runtimes.onnx import open_session
from flaskml.runtimes.onnx_export.conversion import ExportedGraph, rename_values
from flaskml.runtimes.selection import choose_runtime, time_calls
from flaskml.runtimes.sklearn import SklearnRuntime, as_numpy
from flaskml.store.manifest import LoadedVersion, Measurement
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents
from tests.support.checkout import BLOCKED, run_python
from tests.support.numeric_cases import (
    ROWS,
    TARGETS,
    THREE_CLASSES,
    TWO_CLASSES,
    WITH_GRAPH,
    WITHOUT_GRAPH,
    facts_of,
    numeric_case,
    small_ensemble,
)
from tests.support.sampling import sampled

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")


@pytest.fixture(autouse=True)
def few_timed_calls(monkeypatch):
    """Time few calls, because most of these tests are about equivalence."""
    monkeypatch.setattr(selection, "MAX_TIMED_CALLS", selection.CALLS_PER_TURN)


def stored(path, estimator, X, runtime=None):
    """Return the estimator as a version that a store wrote and loaded, and the choice of its runtime."""
    facts, golden, table = facts_of(estimator, X)
    choice = choose_runtime(estimator, facts, table, runtime)
    store = ModelStore(path)
    store.publish("default", choice.complete(facts), VersionContents(estimator, golden, choice.graphs))
    return store.load("default", "1"), choice


def differences(estimator, loaded: LoadedVersion, X, tables):
    """Yield the method, the table and the answer where the version's runtime differs from the estimator."""
    runtime = open_runtime(loaded)
    for method in loaded.manifest.methods:
        absolute = 1e-9 * largest_absolute_number(estimator_answer(estimator, X, method))
        for table in tables:
            rows = [[None if value != value else value for value in row] for row in table.tolist()]
            with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                answer = runtime.compute(runtime.table_builder.build(rows), method)
            expected = estimator_answer(estimator, table.astype(X.dtype), method)
            if not answers_equal(expected, answer, relative=RELATIVE_TOLERANCE, absolute=absolute):
                yield method, table, answer


def estimator_answer(estimator, table, method) -> Answer:
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return as_numpy(getattr(estimator, method)(table))


def other_tables(estimator, X, fresh, schema):
    """Return fresh rows, some of them single, rows at decision boundaries, extrapolated and extreme rows."""
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        tables = [fresh, *(fresh[index : index + 1] for index in range(5))]
        method = "predict" if hasattr(estimator, "predict") else "transform"
        tables.append(
            rows_at_decision_boundaries(lambda rows: getattr(estimator, method)(rows), fresh, schema, pairs=40)
        )
        extremes = extreme_rows(fresh, schema)
        return [
            *tables,
            extrapolated_rows(fresh, schema),
            *(extremes[index : index + 1] for index in range(len(extremes))),
        ]


@pytest.mark.parametrize("name", sampled(WITH_GRAPH, 2))
def test_a_graph_gives_the_estimators_own_answers(tmp_path, name):
    case = numeric_case(name)
    loaded, choice = stored(tmp_path, case.estimator, case.X, "onnx")
    assert choice.runtime == loaded.manifest.runtime == "onnx" and "predict.onnx" in loaded.graphs
    tables = other_tables(case.estimator, case.X, case.fresh, loaded.manifest.schema_)
    assert not list(differences(case.estimator, loaded, case.X, tables))


@pytest.mark.parametrize("name", [name for name in WITHOUT_GRAPH if name != "ordinal encoder"])
def test_an_estimator_without_an_equivalent_graph_is_served_itself(tmp_path, name):
    case = numeric_case(name)
    loaded, choice = stored(tmp_path, case.estimator, case.X)
    measurements = {measurement.runtime: measurement for measurement in choice.measurements}
    graph, own = measurements["onnx"], measurements["sklearn"]
    assert choice.runtime != "onnx" and not choice.graphs and not loaded.graphs
    assert not graph.matches and len(graph.note) > 20 and graph.one_row_microseconds is None
    assert own.matches and own.one_row_microseconds > 0 and own.batch_microseconds > 0
    tables = other_tables(case.estimator, case.X, case.fresh, loaded.manifest.schema_)
    assert not list(differences(case.estimator, loaded, case.X, tables))


def test_a_graph_must_raise_an_error_where_the_estimator_does(tmp_path):
    """The encoder raises an error at rows between and beyond the categories of training."""
    case = numeric_case("ordinal encoder")
    loaded, choice = stored(tmp_path, case.estimator, case.X)
    assert choice.runtime != "onnx"
    assert "raises an error where the estimator does not, or the reverse" in choice.measurements[-1].note
    assert not list(differences(case.estimator, loaded, case.X, [case.fresh]))
    with pytest.raises(ValueError, match="unknown categories"):
        open_runtime(loaded).compute(np.array([[2, 20]]), "predict")


def chosen(estimator, X, runtime=None):
    facts, _, table = facts_of(estimator, X)
    return choose_runtime(estimator, facts, table, runtime)


def notes(choice):
    return {measurement.runtime: measurement.note for measurement in choice.measurements}


def plant(monkeypatch, make):
    """Replace the exported graphs by the result of `make`, called with the estimator and its correct graphs."""
    from flaskml.runtimes.onnx_export import conversion

    export_graphs = conversion.export_graphs
    monkeypatch.setattr(
        conversion, "export_graphs", lambda estimator, *options: make(estimator, export_graphs(estimator, *options))
    )


def with_a_constant_changed(graph, change):
    """Return the graph with the first number of its first float constant changed."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(graph.content)
    for constant in model.graph.initializer:
        array = numpy_helper.to_array(constant).copy()
        if array.dtype == np.float64:
            array.flat[0] = change(array.flat[0])
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
            return replace(graph, content=model.SerializeToString())
    raise AssertionError("the graph has no constant")


@pytest.mark.parametrize("share", [1e-4, 1e-6])
@pytest.mark.parametrize("estimator", [LinearRegression(), LogisticRegression()], ids=["linear", "logistic"])
def test_a_graph_with_one_slightly_wrong_number_is_rejected(monkeypatch, estimator, share):
    estimator.fit(ROWS, TARGETS if isinstance(estimator, LinearRegression) else TWO_CLASSES)
    for change, matches in ((lambda value: value, True), (lambda value: value * (1 + share), False)):
        with monkeypatch.context() as patch:
            plant(patch, lambda _, graphs: {f: with_a_constant_changed(g, change) for f, g in graphs.items()})  # noqa: B023
            assert (chosen(estimator, ROWS).runtime == "onnx") is matches
            if not matches:
                with pytest.raises(
                    NotPublishable, match="onnx cannot serve this estimator: The graph is not equivalent: predict"
                ):
                    chosen(estimator, ROWS, "onnx")


def single_precision(estimator, _):
    """Return the graph in single precision that skl2onnx writes by default, with inputs and outputs renamed."""
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx import to_onnx

    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    model = to_onnx(estimator, ROWS[:1].astype(np.float32), options=options)
    input_name = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["single" if name == input_name else name for name in node.input]
    methods = ("predict", "predict_proba")[: len(model.graph.output)]
    names = dict(zip([output.name for output in model.graph.output], methods, strict=True))
    rename_values(model.graph, names)
    for output in model.graph.output:
        output.name = names[output.name]
    model.graph.node.insert(0, helper.make_node("Cast", ["rows"], ["single"], to=TensorProto.FLOAT))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("rows", TensorProto.DOUBLE, [None, 4]))
    onnx.checker.check_model(model)
    return {"predict.onnx": ExportedGraph(model.SerializeToString(), methods)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LogisticRegression(), TWO_CLASSES),
        (LogisticRegression(), THREE_CLASSES),
        (LinearRegression(), TARGETS),
        (small_ensemble(RandomForestRegressor, n_estimators=100), TARGETS),
        (small_ensemble(RandomForestClassifier, n_estimators=100, min_samples_leaf=5), TWO_CLASSES),
        (small_ensemble(RandomForestClassifier, n_estimators=100, min_samples_leaf=5), THREE_CLASSES),
        (small_ensemble(GradientBoostingRegressor), TARGETS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_graph_in_single_precision_is_rejected(monkeypatch, estimator, target):
    estimator.fit(ROWS, target)
    plant(monkeypatch, single_precision)
    choice = chosen(estimator, ROWS)
    assert choice.runtime != "onnx" or "predict_proba" not in choice.methods["predict.onnx"]
    assert choice.runtime != "onnx" and "differs from the estimator" in notes(choice)["onnx"]


def test_only_boundary_rows_reveal_labels_in_single_precision(monkeypatch):
    """The graph gives the estimator's own answers to the rows of the sample."""
    estimator = LogisticRegression().fit(ROWS, TWO_CLASSES)
    session = open_session(single_precision(estimator, None)["predict.onnx"].content)
    assert np.array_equal(session.run(["predict"], {"rows": ROWS})[0], estimator.predict(ROWS))
    facts, _, table = facts_of(estimator, ROWS)
    comparison = Comparison(
        SklearnRuntime(estimator, ("predict",), facts.schema_).compute, ("predict",), facts.schema_, table
    )
    assert comparison.find_difference(lambda rows, _: session.run(["predict"], {"rows": rows})[0], ["predict"])


@pytest.mark.parametrize("runtime", ["sklearn", "onnx"])
def test_a_requested_runtime_is_chosen(tmp_path, runtime):
    case = numeric_case("forest of three classes")
    loaded, choice = stored(tmp_path, case.estimator, case.X, runtime)
    assert choice.runtime == loaded.manifest.runtime == runtime and bool(loaded.graphs) == (runtime == "onnx")
    assert list(notes(choice)) == list(dict.fromkeys(["sklearn", runtime]))
    assert not list(differences(case.estimator, loaded, case.X, [case.fresh]))


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("multi-output tree", "onnx", "onnx cannot serve this estimator: A graph of trees has one output"),
        (
            "gradient boosting, exponential loss",
            "onnx",
            "no graph of GradientBoostingClassifier with the loss exponential",
        ),
        ("isotonic", "onnx", "no graph in double precision"),
        ("linear", "abacus", 'no runtime "abacus"; choose one of sklearn, onnx'),
    ],
)
def test_an_impossible_runtime_is_rejected_with_the_reason(name, runtime, message):
    case = numeric_case(name)
    with pytest.raises(NotPublishable, match=message):
        chosen(case.estimator, case.X, runtime)


def test_a_step_without_a_graph_is_named():
    frame = pd.DataFrame({"town": ["Oslo", "Rome"] * 20})
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, [0, 1] * 20)
    assert chosen(pipeline, frame).runtime == "onnx"
    pipeline.steps.insert(0, ("lower", FunctionTransformer(lowercase)))
    choice = chosen(pipeline, frame)
    assert choice.runtime == "sklearn" and "FunctionTransformer(lowercase) has no graph" in notes(choice)["onnx"]


def lowercase(frame):
    """Return the frame unchanged, in a way that no graph knows."""
    return frame


def test_integers_beyond_double_precision_have_no_graph():
    numbers = 2**53 + np.arange(40).reshape(20, 2)
    choice = chosen(DecisionTreeClassifier().fit(numbers, [0, 1] * 10), numbers)
    assert choice.runtime != "onnx" and "integers beyond 2**53, which a float cannot hold" in notes(choice)["onnx"]


@pytest.mark.parametrize(
    ("limit", "message"), [("MAX_GRAPH_BYTES", "graph is larger"), ("MAX_ESTIMATOR_BYTES", "too large")]
)
def test_a_graph_or_estimator_above_the_size_limit_has_no_graph(monkeypatch, limit, message):
    monkeypatch.setattr(selection, limit, 1000)
    case = numeric_case("forest of three classes")
    choice = chosen(case.estimator, case.X)
    assert choice.runtime != "onnx" and message in notes(choice)["onnx"]


@pytest.mark.parametrize(
    "name", ["forest of three classes", "missing values, classifier", "gradient boosting, two classes", "grid search"]
)
def test_the_estimator_is_not_changed(name):
    case = numeric_case(name)
    frame = pd.DataFrame(case.X, columns=list("abcd"))
    estimator = case.estimator.fit(frame, TWO_CLASSES)
    before = pickle.dumps(estimator)
    chosen(estimator, frame)
    assert pickle.dumps(estimator) == before
    assert list(estimator.feature_names_in_) == list("abcd")


class SlowEstimator(LinearRegression):
    """Takes 20 ms for each call, and counts the calls."""

    calls = 0

    def predict(self, X):
        type(self).calls += 1
        time.sleep(0.02)
        return super().predict(X)


def test_a_slow_estimator_gets_fewer_calls(monkeypatch):
    monkeypatch.setattr(equivalence, "COMPARISON_SECONDS", 0.05)
    monkeypatch.setattr(equivalence, "SINGLE_ROWS_SECONDS", 0.01)
    estimator = SlowEstimator().fit(ROWS, TARGETS)
    schema = inspect_sample(estimator, ROWS).schema
    Comparison(SklearnRuntime(estimator, ("predict",), schema).compute, ("predict",), schema, ROWS)
    assert 10 < SlowEstimator.calls < 110


class FailingEstimator(LinearRegression):
    """Raises a KeyError at rows that are not in the sample."""

    def predict(self, X):
        if np.abs(X).max() > np.abs(ROWS).max() or not np.isin(X[:, 0], ROWS[:, 0]).all():
            raise KeyError("no such row")
        return super().predict(X)


def test_an_estimator_that_raises_an_unusual_error_is_published():
    choice = chosen(FailingEstimator().fit(ROWS, TARGETS), ROWS)
    assert choice.runtime == "sklearn" and notes(choice)["onnx"]


def test_a_runtime_that_answers_where_the_estimator_raises_is_rejected():
    failing, lenient = FailingEstimator().fit(ROWS, TARGETS), LinearRegression().fit(ROWS, TARGETS)
    schema = inspect_sample(failing, ROWS).schema
    references = [SklearnRuntime(estimator, ("predict",), schema).compute for estimator in (failing, lenient)]
    comparison = Comparison(references[0], ("predict",), schema, ROWS)
    assert comparison.find_difference(references[0], ["predict"]) is None
    assert "raises an error where the estimator does not, or the reverse" in comparison.find_difference(
        references[1], ["predict"]
    )


def test_timed_calls_take_turns(monkeypatch):
    monkeypatch.setattr(selection, "MAX_TIMED_CALLS", 3 * selection.CALLS_PER_TURN)
    order = []
    microseconds = time_calls([lambda: order.append("a"), lambda: order.append("b") or time.sleep(0.001)])
    turn = selection.CALLS_PER_TURN + 1
    assert "".join(order) == ("a" * turn + "b" * turn) * 3
    assert len(microseconds) == 2 and 0 <= microseconds[0] < 1000 <= microseconds[1]


def test_the_fastest_runtime_is_chosen_if_it_is_clearly_faster():
    def measured(runtime, one_row, batch):
        return Measurement(
            runtime=runtime, note="", matches=True, one_row_microseconds=one_row, batch_microseconds=batch
        )

    reference = measured("sklearn", 100.0, 200.0)
    assert selection._fastest([reference, measured("onnx", 95.0, 190.0)]) == "sklearn"
    assert selection._fastest([reference, measured("onnx", 85.0, 170.0)]) == "onnx"
    assert selection._fastest([reference, measured("onnx", 5.0, 3_000.0)]) == "onnx"
    assert selection._fastest([reference, measured("onnx", 5.0, 5_000.0)]) == "sklearn"


@pytest.mark.thorough
@pytest.mark.parametrize("missing", ["skl2onnx", "onnxruntime"])
def test_without_the_extra_the_estimator_itself_is_served(tmp_path, missing):
    code = f"""{BLOCKED}
import flaskml
import numpy as np
from sklearn.linear_model import LinearRegression
from flaskml.errors import NotPublishable
from flaskml.store.model_store import ModelStore
from tests.support.sampling import sampled
from pathlib import Path
X = np.random.default_rng(0).normal(size=(40, 2))
estimator = LinearRegression().fit(X, X[:, 0])
version = flaskml.publish(estimator, X, instance_path=sys.argv[2])
manifest = ModelStore(Path(sys.argv[2])).manifest("default", version)
measurements = {{measurement.runtime: measurement for measurement in manifest.measurements}}
assert manifest.runtime != "onnx" and not measurements["onnx"].matches, manifest.runtime
print(measurements["onnx"].note)
try:
    flaskml.publish(estimator, X, instance_path=sys.argv[2], runtime="onnx")
except NotPublishable as error:
    print(error.detail)
"""
    note, error = run_python(code, missing, tmp_path).splitlines()
    assert note == "The ONNX runtime needs an optional library: pip install 'flaskml[fast]'"
    reason = f"The runtime onnx cannot serve this estimator: {note}."
    assert error == f"{reason} Choose the runtime sklearn, or name no runtime."
