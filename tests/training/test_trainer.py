"""Whole training runs."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from flaskml.codecs.parser import Parser
from flaskml.errors import InvalidTraining
from flaskml.store.model_store import ModelStore
from flaskml.training.trainer import STAGES, TrainingSource, TrainingSpec, fit, run_training
from tests.support.stores import ignore, settings_for
from tests.support.tables import mixed_table


def fit_on(tmp_path, table, **spec):
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    return fit(TrainingSpec(data=None, **spec), ignore, TrainingSource(path, "table.csv"))


def predict(fitted, rows):
    return fitted.estimator.predict(Parser(fitted.facts.schema_, max_rows=10_000).parse_table(rows).table)


def test_the_default_model_is_a_linear_regression(trained):
    manifest = ModelStore(trained).manifest("default", "1")
    assert (manifest.rows, manifest.score.rows, manifest.estimator) == (100, 20, "LinearRegression")
    assert manifest.score.value > 0.999


@pytest.mark.parametrize("name", ["iris", "wine", "diabetes", "breast_cancer"])
def test_built_in_data_sets_are_fitted(name):
    facts = fit(TrainingSpec(data=name), ignore).facts
    assert facts.score.value > (0.3 if name == "diabetes" else 0.9)
    assert facts.task == ("regression" if name == "diabetes" else "classification")


@pytest.mark.parametrize("rows", [300, 1_500])
def test_a_table_of_mixed_types_is_fitted(tmp_path, rows):
    table = mixed_table(rows)
    fitted = fit_on(tmp_path, table, target="sold")
    assert fitted.facts.score.value > 0.8
    assert fitted.dropped_columns == ("empty",) and fitted.dropped_rows == rows // 50 + (rows % 50 > 0)
    assert fitted.facts.rows == rows - fitted.dropped_rows
    features = table.drop(columns=["sold", "empty"])
    assert set(predict(fitted, features)) == {"yes", "no"}


def test_datetimes_are_inferred_from_text(tmp_path):
    # The estimator gets equal values for one moment, whatever its offset and format.
    sold = pd.date_range("2022-01-01", periods=300, freq="29h")
    table = pd.DataFrame(
        {
            "sold": sold.strftime("%Y-%m-%d"),
            "seen": sold.tz_localize("UTC").strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            "price": sold.month * 10.0 + sold.hour,
        }
    )
    table.loc[::10, "sold"] = None
    fitted = fit_on(tmp_path, table, target="price")
    sold, seen = fitted.facts.schema_.features
    assert [(f.kind, f.nullable, f.is_aware) for f in (sold, seen)] == [
        ("datetime", True, False),
        ("datetime", False, True),
    ]
    assert fitted.facts.score.value > 0.5
    same = [["2022-03-01", "2022-03-01T10:00:00+00:00"], ["2022-03-01T00:00:00", "2022-03-01 12:00:00+02:00"]]
    one, other = predict(fitted, same)
    assert one == other != predict(fitted, [["2022-07-01", "2022-07-01T10:00:00+00:00"]])[0]
    assert np.isfinite(predict(fitted, [[None, "2022-03-01T10:00:00Z"]])).all()


def test_the_stored_model_is_fitted_on_all_rows(tmp_path):
    table = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) * 3 + np.random.default_rng(0).normal(size=20)})
    fitted = fit_on(tmp_path, table, target="y")
    slope, intercept = np.polyfit(table.x, table.y, 1)
    assert predict(fitted, [[100.0]]) == pytest.approx([slope * 100 + intercept])


def test_the_task_option_overrides_the_rule(tmp_path):
    table = pd.DataFrame({"x": np.arange(40.0), "y": [0, 1] * 20})
    assert fit_on(tmp_path, table, target="y").facts.task == "classification"
    fitted = fit_on(tmp_path, table, target="y", task="regression")
    assert (fitted.facts.task, fitted.task_rule) == ("regression", "as asked for")


@pytest.mark.parametrize(
    ("target", "labels"),
    [(["a", "b"], {"a", "b"}), ([1, 2], {1, 2}), ([True, False], {True, False}), ([1.5, 2.5], {1.5, 2.5})],
)
def test_labels_keep_their_type(tmp_path, target, labels):
    table = pd.DataFrame({"x": np.arange(40.0), "y": target * 20})
    if target == [1.5, 2.5]:
        with pytest.raises(InvalidTraining):
            fit_on(tmp_path, table, target="y", task="classification")
        return
    fitted = fit_on(tmp_path, table, target="y", task="classification")
    predictions = predict(fitted, table[["x"]]).tolist()
    assert set(predictions) <= labels and {type(value) for value in predictions} == {type(target[0])}


def test_a_seed_reproduces_the_score(tmp_path):
    scores = [fit_on(tmp_path, mixed_table(), target="sold", seed=seed).facts.score.value for seed in (1, 1, 2)]
    assert scores[0] == scores[1]


def test_stages_are_reported(tmp_path):
    stages = []
    training = run_training(TrainingSpec(), settings_for(tmp_path), stages.append)
    assert ModelStore(tmp_path).state("default").active == training.manifest.version == "1"
    assert [stage.name for stage in stages] == list(STAGES)
    assert [stage.fraction for stage in stages] == [0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"x": range(9), "y": range(9)}), "10 are needed"),
        (pd.DataFrame({"x": range(20), "y": ["a"] * 20}), "one value only"),
        (pd.DataFrame({"x": range(20), "y": [None] * 20}), "column"),
    ],
)
def test_an_unsuitable_table_is_refused(tmp_path, table, message):
    with pytest.raises(InvalidTraining, match=message):
        fit_on(tmp_path, table, target="y")


def test_a_text_target_is_refused_for_regression(tmp_path):
    with pytest.raises(InvalidTraining, match="classification"):
        fit_on(tmp_path, mixed_table(), target="sold", task="regression")


def test_a_class_with_one_row_is_accepted(tmp_path):
    table = pd.DataFrame({"x": np.arange(40.0), "y": ["a"] * 20 + ["b"] * 19 + ["c"]})
    assert set(predict(fit_on(tmp_path, table, target="y"), table[["x"]])) <= {"a", "b", "c"}


def test_without_a_class_after_the_split_there_is_no_score(tmp_path):
    table = pd.DataFrame({"x": np.arange(12.0), "y": ["a"] * 11 + ["b"]})
    scores = {fit_on(tmp_path, table, target="y", seed=seed).facts.score is None for seed in range(12)}
    assert True in scores


def test_a_rare_class_is_accepted_by_gradient_boosting(tmp_path):
    table = pd.DataFrame({"x": np.arange(12_000.0), "y": ["a", "b"] * 5_999 + ["a", "c"]})
    assert fit_on(tmp_path, table, target="y").facts.estimator.endswith("HistGradientBoostingClassifier")


def test_texts_without_words_are_fitted(tmp_path):
    table = pd.DataFrame({"x": [f"{i}.5%" for i in range(60)], "c": [chr(0x4E00 + i) for i in range(60)]})
    table["y"] = np.arange(60.0) / 7
    assert [feature.kind for feature in fit_on(tmp_path, table, target="y").facts.schema_.features] == ["text", "text"]


def test_labels_beyond_int64_are_predicted(tmp_path):
    table = pd.DataFrame({"x": np.arange(40.0), "y": [2**63 + 5, 2**63 + 9] * 20})
    fitted = fit_on(tmp_path, table, target="y", task="classification")
    assert set(predict(fitted, table[["x"]]).tolist()) <= {2**63 + 5, 2**63 + 9}


def test_special_characters_in_column_names_are_accepted(tmp_path):
    table = mixed_table(100).rename(columns={"age": "quo\"te, 's", "rooms": "{{7*7}}", "note": "zeile\n2"})
    fitted = fit_on(tmp_path, table, target="sold")
    assert "quo\"te, 's" in fitted.facts.schema_.names
    assert set(predict(fitted, table.drop(columns=["sold", "empty"]))) == {"yes", "no"}


def test_a_target_for_a_built_in_data_set_is_refused():
    with pytest.raises(InvalidTraining, match="own target"):
        fit(TrainingSpec(data="iris", target="x"), ignore)


@pytest.mark.parametrize("wrong", [{"data": "../x"}, {"name": "A"}, {"seed": -1}, {"task": "x"}, {"other": 1}])
def test_an_invalid_specification_is_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingSpec(**wrong)
