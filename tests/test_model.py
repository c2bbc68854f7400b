"""Predictors and slots."""

import json

import numpy as np
import pytest

from flaskml.errors import InvalidInput, NoActiveVersion
from flaskml.model import Absent, Loader, ModelSlot, describe, open_predictor
from flaskml.parsing import Rows
from flaskml.training.trainer import TrainingSpec, train
from tests.conftest import ignore


@pytest.fixture
def loader(store):
    return Loader(store, max_rows=100)


def test_a_slot_answers_from_its_current_predictor(loader, store):
    slot = loader.load_slot("default")
    old = slot.current
    train(TrainingSpec(data="iris"), store, ignore)
    loader.refresh(slot, "homes")
    assert slot.current is old
    loader.refresh(slot, "default")
    assert slot.current.manifest.version == "2" and old.manifest.version == "1"
    assert slot.predict([[5.1, 3.5, 1.4, 0.2]]).tolist() == ["setosa"]
    assert old.predict(old.parser.parse_table([[0.5]])) == pytest.approx([20.8956816])


def test_an_absent_model_answers_with_its_reason(loader):
    slot = loader.load_slot("nothing")
    assert isinstance(slot.current, Absent)
    for call in (lambda: slot.predict([[1]]), lambda: slot.current.parse(b""), lambda: slot.current.manifest):
        with pytest.raises(NoActiveVersion, match="flask train --name nothing"):
            call()
    assert "no model" in describe(slot.current) and "no model" in repr(slot)


def test_a_slot_refuses_wrong_rows(loader):
    with pytest.raises(InvalidInput, match='"feature"'):
        loader.load_slot("default").predict({"feature": "x"})


def test_description(loader):
    assert describe(loader.load_slot("default").current) == "default version 1 (r2 1.0000)"


@pytest.mark.parametrize(
    ("predictions", "single", "written"),
    [
        (np.array([1.5, 2.0]), False, [1.5, 2.0]),
        (np.array([1.5]), True, 1.5),
        (np.array(["a", "é\u2028"]), False, ["a", "é\u2028"]),
        (np.array([np.nan, np.inf, -np.inf]), False, [None, None, None]),
        (np.array([True]), True, True),
        (np.array([2**62 + 1]), True, 2**62 + 1),
        (np.array([[1, 2], [3, 4]]), False, [[1, 2], [3, 4]]),
        (np.empty(0), False, []),
        (np.array([0.1 + 0.2, 5e-324, 1.7976931348623157e308]), False, [0.1 + 0.2, 5e-324, 1.7976931348623157e308]),
    ],
)
def test_answers_are_strict_json(store, predictions, single, written):
    predictor = open_predictor(store.load_active("default"), max_rows=1)
    body = predictor.answer(Rows(predictions, single), predictions)
    answer = json.loads(body, parse_constant=lambda token: pytest.fail(token))
    key = "prediction" if single else "predictions"
    assert answer == {key: written, "model": "default", "version": "1"}


def test_slots_are_named():
    assert ModelSlot("iris", Absent(NoActiveVersion("iris", []))).name == "iris"
