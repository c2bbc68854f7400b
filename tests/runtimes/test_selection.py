"""Which runtime is chosen, and that it answers as the estimator does."""

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
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier

from flaskml.codecs.answer_equality import answers_equal, largest_magnitude
from flaskml.codecs.answers import Answer
from flaskml.errors import NotPublishable
from flaskml.publishing.inspection import inspect_sample
from flaskml.runtimes import equivalence as comparisons
from flaskml.runtimes import open_runtime
from flaskml.runtimes import selection as candidates
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
from tests.support.numeric_cases import QUANTITY, ROWS, THREE, TWO, WITH_GRAPH, WITHOUT_GRAPH, case, facts_of, few

onnxruntime = pytest.importorskip("onnxruntime")


pytest.importorskip("skl2onnx")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Times are measured in few calls: what is true is what most of these tests are about."""
    monkeypatch.setattr(candidates, "MAX_TIMED_CALLS", candidates.CALLS_PER_TURN)


def stored(path, estimator, X, runtime=None):
    """The estimator as a bundle that a store has written and read, and what was chosen."""
    facts, golden, table = facts_of(estimator, X)
    choice = choose_runtime(estimator, facts, table, runtime)
    store = ModelStore(path)
    store.publish("default", choice.complete(facts), VersionContents(estimator, golden, choice.graphs))
    return store.load("default", "1"), choice


def differences(estimator, bundle: LoadedVersion, X, tables):
    """The tables and methods which the bundle's runtime answers otherwise than the estimator itself."""
    runtime = open_runtime(bundle)
    for method in bundle.manifest.methods:
        absolute = 1e-9 * largest_magnitude(asked(estimator, X, method))
        for table in tables:
            rows = [[None if value != value else value for value in row] for row in table.tolist()]
            with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                answer = runtime.compute(runtime.table_builder.build(rows), method)
            expected = asked(estimator, table.astype(X.dtype), method)
            if not answers_equal(expected, answer, relative=RELATIVE_TOLERANCE, absolute=absolute):
                yield method, table, answer


def asked(estimator, table, method) -> Answer:
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return as_numpy(getattr(estimator, method)(table))


def other_tables(estimator, X, fresh, schema):
    """Fresh rows, some of them alone, rows beside boundaries, far ones and extreme ones."""
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


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_a_graph_answers_as_the_estimator(tmp_path, name):
    made = case(name)
    bundle, choice = stored(tmp_path, made.estimator, made.X, "onnx")
    assert choice.runtime == bundle.manifest.runtime == "onnx" and "predict.onnx" in bundle.graphs
    tables = other_tables(made.estimator, made.X, made.fresh, bundle.manifest.schema_)
    assert not list(differences(made.estimator, bundle, made.X, tables))


@pytest.mark.parametrize("name", [name for name in WITHOUT_GRAPH if name != "categories by number"])
def test_what_has_no_true_graph_answers_itself(tmp_path, name):
    made = case(name)
    bundle, choice = stored(tmp_path, made.estimator, made.X)
    found = {measurement.runtime: measurement for measurement in choice.measurements}
    assert choice.runtime != "onnx" and not choice.graphs and not bundle.graphs
    assert not found["onnx"].matches and len(found["onnx"].note) > 20 and found["onnx"].one_row_microseconds is None
    assert (
        found["sklearn"].matches
        and found["sklearn"].one_row_microseconds > 0
        and found["sklearn"].batch_microseconds > 0
    )
    tables = other_tables(made.estimator, made.X, made.fresh, bundle.manifest.schema_)
    assert not list(differences(made.estimator, bundle, made.X, tables))


def test_an_estimator_that_refuses_rows_is_not_answered_for(tmp_path):
    """Between and beyond the categories of training there are rows that it refuses; a graph has to refuse them too."""
    made = case("categories by number")
    bundle, choice = stored(tmp_path, made.estimator, made.X)
    assert choice.runtime != "onnx" and "where the estimator does otherwise" in choice.measurements[-1].note
    assert not list(differences(made.estimator, bundle, made.X, [made.fresh]))
    with pytest.raises(ValueError, match="unknown categories"):
        open_runtime(bundle).compute(np.array([[2, 20]]), "predict")


def chosen(estimator, X, runtime=None):
    facts, _, table = facts_of(estimator, X)
    return choose_runtime(estimator, facts, table, runtime)


def notes(choice):
    return {found.runtime: found.note for found in choice.measurements}


def plant(monkeypatch, make):
    """Has the converter give what `make` makes of an estimator and of the true graphs."""
    from flaskml.runtimes.onnx_export import conversion

    true = conversion.export_graphs
    monkeypatch.setattr(conversion, "export_graphs", lambda estimator, *rest: make(estimator, true(estimator, *rest)))


def with_a_constant_changed(graph, change):
    """The graph with the first number of its first constant of floats changed."""
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
def test_a_graph_with_a_number_that_is_a_little_off_is_refused(monkeypatch, estimator, share):
    estimator.fit(ROWS, QUANTITY if isinstance(estimator, LinearRegression) else TWO)
    for change, matches in ((lambda value: value, True), (lambda value: value * (1 + share), False)):
        with monkeypatch.context() as patch:
            plant(patch, lambda _, graphs: {f: with_a_constant_changed(g, change) for f, g in graphs.items()})  # noqa: B023
            assert (chosen(estimator, ROWS).runtime == "onnx") is matches
            if not matches:
                with pytest.raises(NotPublishable, match="onnx cannot serve this estimator: Of the graph, predict"):
                    chosen(estimator, ROWS, "onnx")


def single_precision(estimator, _):
    """What skl2onnx makes of an estimator by default, under our names."""
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx import to_onnx

    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    model = to_onnx(estimator, ROWS[:1].astype(np.float32), options=options)
    given = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["single" if name == given else name for name in node.input]
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
        (LogisticRegression(), TWO),
        (LogisticRegression(), THREE),
        (LinearRegression(), QUANTITY),
        (few(RandomForestRegressor, n_estimators=100), QUANTITY),
        (few(RandomForestClassifier, n_estimators=100, min_samples_leaf=5), TWO),
        (few(RandomForestClassifier, n_estimators=100, min_samples_leaf=5), THREE),
        (few(GradientBoostingRegressor), QUANTITY),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_graph_in_single_precision_is_refused(monkeypatch, estimator, target):
    estimator.fit(ROWS, target)
    plant(monkeypatch, single_precision)
    choice = chosen(estimator, ROWS)
    assert choice.runtime != "onnx" or "predict_proba" not in choice.methods["predict.onnx"]
    assert choice.runtime != "onnx" and "than the estimator" in notes(choice)["onnx"]


def test_labels_in_single_precision_are_told_apart_by_rows_at_the_boundary_alone(monkeypatch):
    """On the rows of the sample, and alone, it answers as the estimator."""
    estimator = LogisticRegression().fit(ROWS, TWO)
    session = open_session(single_precision(estimator, None)["predict.onnx"].content)
    assert np.array_equal(session.run(["predict"], {"rows": ROWS})[0], estimator.predict(ROWS))
    facts, _, table = facts_of(estimator, ROWS)
    comparison = Comparison(
        SklearnRuntime(estimator, ("predict",), facts.schema_).compute, ("predict",), facts.schema_, table
    )
    tables = {id(part): len(part) for part, _ in comparison._expected["predict"]}
    assert comparison.difference(lambda rows, _: session.run(["predict"], {"rows": rows})[0], ["predict"])
    del tables


@pytest.mark.parametrize("runtime", ["sklearn", "onnx"])
def test_a_runtime_that_is_asked_for_is_taken(tmp_path, runtime):
    made = case("forest, three")
    bundle, choice = stored(tmp_path, made.estimator, made.X, runtime)
    assert choice.runtime == bundle.manifest.runtime == runtime and bool(bundle.graphs) == (runtime == "onnx")
    assert list(notes(choice)) == list(dict.fromkeys(["sklearn", runtime]))
    assert not list(differences(made.estimator, bundle, made.X, [made.fresh]))


@pytest.mark.parametrize(
    ("name", "runtime", "said"),
    [
        ("several trees", "onnx", "onnx cannot serve this estimator: A graph of trees has one output"),
        ("histogram, categories", "onnx", "no splits by category"),
        ("gradient, exponential", "onnx", "no graph of GradientBoostingClassifier with the loss exponential"),
        ("isotonic", "onnx", "no graph in double precision"),
        ("linear", "abacus", 'no runtime "abacus"; there are sklearn, onnx'),
    ],
)
def test_a_runtime_that_cannot_be_is_refused_with_the_reason(name, runtime, said):
    made = case(name)
    with pytest.raises(NotPublishable, match=said):
        chosen(made.estimator, made.X, runtime)


def test_columns_that_are_no_numbers_have_no_graph():
    frame = pd.DataFrame({"town": ["Oslo", "Rome"] * 20})
    pipeline = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame, [0, 1] * 20)
    choice = chosen(pipeline, frame)
    assert choice.runtime != "onnx" and "takes a table of other columns" in notes(choice)["onnx"]


def test_whole_numbers_that_no_float_holds_have_no_graph():
    numbers = 2**53 + np.arange(40).reshape(20, 2)
    choice = chosen(DecisionTreeClassifier().fit(numbers, [0, 1] * 10), numbers)
    assert choice.runtime != "onnx" and "whole numbers that no float holds" in notes(choice)["onnx"]


@pytest.mark.parametrize(
    ("limit", "said"), [("MAX_GRAPH_BYTES", "graph is larger"), ("MAX_ESTIMATOR_BYTES", "too large")]
)
def test_what_is_too_large_has_no_graph(monkeypatch, limit, said):
    monkeypatch.setattr(candidates, limit, 1000)
    made = case("forest, three")
    choice = chosen(made.estimator, made.X)
    assert choice.runtime != "onnx" and said in notes(choice)["onnx"]


@pytest.mark.parametrize("name", ["forest, three", "gaps, classes", "gradient, two", "searched"])
def test_the_estimator_is_left_as_it_was(name):
    made = case(name)
    frame = pd.DataFrame(made.X, columns=list("abcd"))
    estimator = made.estimator.fit(frame, TWO)
    before = pickle.dumps(estimator)
    chosen(estimator, frame)
    assert pickle.dumps(estimator) == before
    assert list(estimator.feature_names_in_) == list("abcd")


class Slow(LinearRegression):
    """Takes its time for each call, and counts them."""

    calls = 0

    def predict(self, X):
        type(self).calls += 1
        time.sleep(0.02)
        return super().predict(X)


def test_a_slow_estimator_is_asked_less(monkeypatch):
    monkeypatch.setattr(comparisons, "COMPARISON_SECONDS", 0.05)
    monkeypatch.setattr(comparisons, "SINGLE_ROWS_SECONDS", 0.01)
    estimator = Slow().fit(ROWS, QUANTITY)
    schema = inspect_sample(estimator, ROWS).schema
    Comparison(SklearnRuntime(estimator, ("predict",), schema).compute, ("predict",), schema, ROWS)
    assert 10 < Slow.calls < 110


class Moody(LinearRegression):
    """Raises what is no ValueError at rows that the sample does not have."""

    def predict(self, X):
        if np.abs(X).max() > np.abs(ROWS).max() or not np.isin(X[:, 0], ROWS[:, 0]).all():
            raise KeyError("no such row")
        return super().predict(X)


def test_an_estimator_that_raises_anything_is_published():
    choice = chosen(Moody().fit(ROWS, QUANTITY), ROWS)
    assert choice.runtime == "sklearn" and notes(choice)["onnx"]


def test_calls_are_timed_by_turns(monkeypatch):
    monkeypatch.setattr(candidates, "MAX_TIMED_CALLS", 3 * candidates.CALLS_PER_TURN)
    order = []
    found = time_calls([lambda: order.append("a"), lambda: order.append("b") or time.sleep(0.001)])
    turn = candidates.CALLS_PER_TURN + 1
    assert "".join(order) == ("a" * turn + "b" * turn) * 3
    assert len(found) == 2 and 0 <= found[0] < 1000 <= found[1]


def test_the_fastest_is_chosen_if_it_is_worth_it():
    def measured(runtime, one, many):
        return Measurement(runtime=runtime, note="", matches=True, one_row_microseconds=one, batch_microseconds=many)

    own = measured("sklearn", 100.0, 200.0)
    assert candidates._fastest([own, measured("onnx", 95.0, 190.0)]) == "sklearn"
    assert candidates._fastest([own, measured("onnx", 85.0, 170.0)]) == "onnx"
    assert candidates._fastest([own, measured("onnx", 5.0, 3_000.0)]) == "onnx"
    assert candidates._fastest([own, measured("onnx", 5.0, 5_000.0)]) == "sklearn"


@pytest.mark.thorough
@pytest.mark.parametrize("missing", ["skl2onnx", "onnxruntime"])
def test_without_the_extra_the_estimator_serves_itself(tmp_path, missing):
    code = f"""{BLOCKED}
import flaskml
import numpy as np
from sklearn.linear_model import LinearRegression
from flaskml.errors import NotPublishable
from flaskml.store.model_store import ModelStore
from pathlib import Path
X = np.random.default_rng(0).normal(size=(40, 2))
estimator = LinearRegression().fit(X, X[:, 0])
version = flaskml.publish(estimator, X, instance_path=sys.argv[2])
manifest = ModelStore(Path(sys.argv[2])).manifest("default", version)
found = {{found.runtime: found for found in manifest.measurements}}
assert manifest.runtime != "onnx" and not found["onnx"].matches, manifest.runtime
print(found["onnx"].note)
try:
    flaskml.publish(estimator, X, instance_path=sys.argv[2], runtime="onnx")
except NotPublishable as error:
    print(error.detail)
"""
    note, refusal = run_python(code, missing, tmp_path).splitlines()
    assert note == "The ONNX runtime needs an optional library: pip install 'flaskml[fast]'"
    assert refusal == f"The runtime onnx cannot serve this estimator: {note}."
