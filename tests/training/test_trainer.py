"""Whole training runs."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from flaskml.errors import InvalidTraining
from flaskml.model import Loader
from flaskml.store import Store
from flaskml.training.trainer import STAGES, TrainingSpec, train
from tests.conftest import ignore, mixed_table


def train_on(tmp_path, table, **spec):
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    return train(TrainingSpec(data=None, **spec), Store(tmp_path / "instance"), ignore, path, "table.csv")


def slot(tmp_path, name="default"):
    return Loader(Store(tmp_path / "instance"), max_rows=1_000).load_slot(name)


def test_the_articles_model(trained):
    manifest = Store(trained).manifest("default", "1")
    assert (manifest.rows, manifest.score.rows, manifest.estimator) == (100, 20, "LinearRegression")
    assert manifest.score.value > 0.999


@pytest.mark.parametrize("name", ["iris", "wine", "diabetes", "breast_cancer"])
def test_built_in(tmp_path, name):
    training = train(TrainingSpec(data=name, name=name), Store(tmp_path), ignore)
    assert training.manifest.score.value > (0.3 if name == "diabetes" else 0.9)
    assert training.manifest.task == ("regression" if name == "diabetes" else "classification")


@pytest.mark.parametrize("rows", [300, 1_500])
def test_a_mixed_table(tmp_path, rows):
    table = mixed_table(rows)
    training = train_on(tmp_path, table, target="sold")
    assert training.manifest.score.value > 0.8
    assert training.dropped_columns == ("empty",) and training.dropped_rows == rows // 50 + (rows % 50 > 0)
    assert training.manifest.rows == rows - training.dropped_rows
    features = table.drop(columns=["sold", "empty"])
    assert set(slot(tmp_path).predict(features)) == {"yes", "no"}


def test_the_stored_model_is_fitted_on_all_rows(tmp_path):
    table = pd.DataFrame({"x": np.arange(20.0), "y": np.arange(20.0) * 3 + np.random.default_rng(0).normal(size=20)})
    train_on(tmp_path, table, target="y")
    slope, intercept = np.polyfit(table.x, table.y, 1)
    assert slot(tmp_path).predict([[100.0]]) == pytest.approx([slope * 100 + intercept])


def test_the_task_can_be_said(tmp_path):
    table = pd.DataFrame({"x": np.arange(40.0), "y": [0, 1] * 20})
    assert train_on(tmp_path, table, target="y").manifest.task == "classification"
    training = train_on(tmp_path, table, target="y", task="regression")
    assert (training.manifest.task, training.task_rule) == ("regression", "as asked for")


@pytest.mark.parametrize(
    ("target", "labels"),
    [(["a", "b"], {"a", "b"}), ([1, 2], {1, 2}), ([True, False], {True, False}), ([1.5, 2.5], {1.5, 2.5})],
)
def test_labels_keep_their_type(tmp_path, target, labels):
    table = pd.DataFrame({"x": np.arange(40.0), "y": target * 20})
    if target == [1.5, 2.5]:
        with pytest.raises(InvalidTraining):
            train_on(tmp_path, table, target="y", task="classification")
        return
    train_on(tmp_path, table, target="y", task="classification")
    predictions = slot(tmp_path).predict(table[["x"]]).tolist()
    assert set(predictions) <= labels and {type(value) for value in predictions} == {type(target[0])}


def test_seeds_repeat(tmp_path):
    scores = [train_on(tmp_path, mixed_table(), target="sold", seed=seed).manifest.score.value for seed in (1, 1, 2)]
    assert scores[0] == scores[1]


def test_stages_are_told(tmp_path):
    stages = []
    train(TrainingSpec(), Store(tmp_path), stages.append)
    assert [stage.name for stage in stages] == list(STAGES)
    assert [stage.fraction for stage in stages] == [0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"x": range(9), "y": range(9)}), "10 are needed"),
        (pd.DataFrame({"x": range(20), "y": ["a"] * 20}), "one value only"),
        (pd.DataFrame({"x": range(20), "y": [None] * 20}), "column"),
    ],
)
def test_tables_that_teach_nothing(tmp_path, table, said):
    with pytest.raises(InvalidTraining, match=said):
        train_on(tmp_path, table, target="y")
    assert not (tmp_path / "instance").exists()


def test_a_text_is_no_quantity(tmp_path):
    with pytest.raises(InvalidTraining, match="classification"):
        train_on(tmp_path, mixed_table(), target="sold", task="regression")


def test_a_class_with_one_row(tmp_path):
    table = pd.DataFrame({"x": np.arange(40.0), "y": ["a"] * 20 + ["b"] * 19 + ["c"]})
    assert train_on(tmp_path, table, target="y").manifest.version == "1"


def test_strange_column_names(tmp_path):
    table = mixed_table(100).rename(columns={"age": "quo\"te, 's", "rooms": "{{7*7}}", "note": "zeile\n2"})
    train_on(tmp_path, table, target="sold")
    assert "quo\"te, 's" in slot(tmp_path).current.schema.names


def test_built_in_with_a_target(tmp_path):
    with pytest.raises(InvalidTraining, match="own target"):
        train(TrainingSpec(data="iris", target="x"), Store(tmp_path), ignore)


@pytest.mark.parametrize("wrong", [{"data": "../x"}, {"name": "A"}, {"seed": -1}, {"task": "x"}, {"other": 1}])
def test_specifications_that_are_none(wrong):
    with pytest.raises(ValidationError):
        TrainingSpec(**wrong)
