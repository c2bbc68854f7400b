"""Predictors, slots, and the swap of a slot's predictor."""

import dataclasses
import gc
import json
import weakref

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flaskml import publish
from flaskml.codecs.rows import Rows
from flaskml.errors import InvalidInput, NoActiveVersion, RowsRefused, VersionNotServed
from flaskml.inference.batching import Batcher
from flaskml.inference.predictor import open_predictor
from flaskml.inference.slot import ModelSlot, NoPredictor, describe_current
from flaskml.store.model_store import ModelStore
from tests.support.stores import load_active


@pytest.fixture
def slot(store):
    return ModelSlot("default", open_predictor(load_active(store, "default"), max_rows=10))


def test_a_swap_changes_the_slot_but_not_the_predictor_in_use(slot, store):
    old = slot.current
    slot.swap(open_predictor(load_active(store, "homes"), max_rows=10))
    assert slot.current_manifest.model == "homes" and old.manifest.model == "default"
    assert old.predict(old.parser.parse_table([[0.5]])) == pytest.approx([20.8956816])


def test_a_slot_without_a_model_raises_the_reason():
    slot = ModelSlot("nothing")
    assert isinstance(slot.current, NoPredictor) and slot.current_manifest is None
    for call in (lambda: slot.predict([[1]]), lambda: slot.current.parse(b""), lambda: slot.current.manifest):
        with pytest.raises(NoActiveVersion, match="flask train --name nothing"):
            call()
    assert "no model" in describe_current(slot.current) and "no model" in repr(slot)


def test_a_slot_refuses_invalid_rows(slot):
    with pytest.raises(InvalidInput, match='"feature"'):
        slot.predict({"feature": "x"})


class LeakyRuntime:
    """A runtime whose estimator raises for every row, with a value of the row in the message."""

    def compute(self, table, method):
        raise KeyError(f"no such city: {table[0][0]}")


def test_an_estimator_that_raises_refuses_the_rows_and_leaks_no_value(slot, caplog):
    build_table = slot.current.parser.table_builder.build
    slot.swap(dataclasses.replace(slot.current, batcher=Batcher(LeakyRuntime().compute, build_table, ["predict"])))
    with pytest.raises(RowsRefused) as caught:
        slot.predict({"feature": 0.123456})
    assert caught.value.status == 422
    assert "KeyError" in caplog.text and "0.123456" not in caplog.text + caught.value.detail


def test_a_slot_finds_served_versions_by_number(slot):
    slot.swap(slot.current, {"1": slot.current})
    assert slot.version("1") is slot.current
    with pytest.raises(VersionNotServed, match="flask models alias default ALIAS 2"):
        slot.version("2")


def test_an_old_version_is_freed_after_its_last_request(store):
    loaded = load_active(store, "default")
    estimator = weakref.ref(loaded.estimator)
    slot = ModelSlot("default", open_predictor(loaded, max_rows=10))
    in_flight = slot.current
    slot.swap(open_predictor(load_active(store, "homes"), max_rows=10))
    del loaded
    gc.collect()
    assert estimator() is not None and in_flight.predict(in_flight.parser.parse_table([[0.5]])) is not None
    del in_flight
    gc.collect()
    assert estimator() is None


def test_the_description_names_version_and_score(slot):
    assert describe_current(slot.current) == "default version 1 (r2 1.0000)"


@pytest.mark.parametrize(
    ("predictions", "is_single", "expected"),
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
def test_answers_are_strict_json(store, predictions, is_single, expected):
    predictor = open_predictor(load_active(store, "default"), max_rows=1)
    rows = Rows((), predictor.parser.table_builder, is_single=is_single)
    body = predictor.encode_answer(rows, predictor.json_values(predictions, "predict"))
    answer = json.loads(body, parse_constant=lambda token: pytest.fail(token))
    key = "prediction" if is_single else "predictions"
    assert answer == {key: expected, "model": "default", "version": "1"}


def test_each_request_of_a_batch_gets_its_own_answer_and_warnings(tmp_path):
    """In a column of single precision, 0.7000000007 becomes 0.7, which is in the range."""
    X = np.linspace(0, 0.7, 30, dtype=np.float32).reshape(-1, 1)
    publish(LinearRegression().fit(X, X[:, 0]), X, name="single", instance_path=tmp_path, runtime="sklearn")
    predictor = open_predictor(load_active(ModelStore(tmp_path), "single"), max_rows=10)
    name = predictor.schema.names[0]
    values = [0.1, 0.7000000007, 0.3, 0.2, 0.5, 5.0]
    batch = [predictor.parse(json.dumps({name: value}).encode()) for value in values]

    def describe(problems):
        return [{"feature": problem.feature} for problem in problems]

    alone = [predictor.answer_batch([rows], "predict", describe)[0] for rows in batch]
    assert predictor.answer_batch(batch, "predict", describe) == alone
    assert [b"warnings" in body for body in alone] == [False, True, False, False, False, True]
