"""Corrections of a learnt schema hold for requests, or are rejected with the reason."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import flaskml
from flaskml import create_app
from flaskml.errors import FlaskmlError
from flaskml.store.model_store import ModelStore
from tests.support.sampling import sampled
from tests.support.stores import stop

ROWS = 40
FRAME = pd.DataFrame(
    {
        "size": np.linspace(0.5, 9.5, ROWS),
        "rooms": np.arange(ROWS) % 5,
        "town": pd.Series(["Oslo", "Rome"] * (ROWS // 2), dtype=object),
        "floor": pd.Series(["low", "high"] * (ROWS // 2), dtype="category"),
        "sold": pd.date_range("2024-01-01", periods=ROWS),
    }
)


@pytest.fixture(scope="module")
def estimator():
    """A classifier that accepts unknown towns and ignores the dates."""
    columns = make_column_transformer(
        ("passthrough", ["size", "rooms"]), (OneHotEncoder(handle_unknown="ignore"), ["town", "floor"])
    )
    return make_pipeline(columns, LogisticRegression(max_iter=500)).fit(FRAME, np.arange(ROWS) % 2)


@pytest.fixture
def publish(estimator, tmp_path, swift):
    return lambda **changes: flaskml.publish(estimator, FRAME, instance_path=tmp_path, schema=changes)


def feature(name, **changes):
    return {"features": [{"name": name, **changes}]}


REJECTED = {
    "a bound that is not a datetime": (feature("sold", minimum="abc"), "minimum|ISO"),
    "a bound with an offset": (feature("sold", minimum="2023-01-01T00:00:00Z"), "offset"),
    "a bound of a text": (feature("town", kind="text", minimum=1), "minimum"),
    "a bound of a category": (feature("town", minimum=1, maximum=2), "minimum"),
    "a bound beyond floats": (feature("size", maximum=10**400), "finite"),
    "a bound that is not a number": (feature("size", minimum=float("nan")), "finite"),
    "an empty range": (feature("size", minimum=10, maximum=1), "must not be above"),
    "null in a column of integers": (feature("rooms", nullable=True), "cannot be null"),
    "another kind": (feature("size", kind="text"), "cannot be of kind text"),
    "numbers that are not whole": (feature("size", kind="integer"), '"size".*would not reach'),
    "numbers that are not booleans": (feature("rooms", kind="boolean"), '"rooms".*would not reach'),
    "unknown pandas categories that are accepted": (feature("floor", unknown="accept"), "pandas categories"),
    "pandas categories in another order": (feature("floor", categories=["low", "high"]), "pandas categories"),
    "pandas categories with an order": (feature("floor", ordered=True), "pandas categories"),
    "a category twice": (feature("town", categories=["Oslo", "Rome", "Oslo"]), "twice"),
    "a missing category": (feature("town", categories=["Oslo"], unknown="refuse"), '"town"'),
    "a range that excludes rows of the sample": (
        {**feature("size", minimum=0, maximum=1), "out_of_range": "refuse"},
        'does not accept the values of "size" in the sample',
    ),
    "unknown categories of a number": (feature("size", unknown="accept"), "only a category"),
    "a feature twice": ({"features": [{"name": "size"}, {"name": "size"}]}, "more than once"),
    "a feature without a name": ({"features": [{"kind": "text"}]}, "name"),
    "an unknown feature": (feature("sise"), 'did you mean "size"'),
    "features that are not a list": ({"features": 5}, "list of objects"),
    "features that are not objects": ({"features": ["size"]}, "list of objects"),
    "an unknown key": ({"colour": "red"}, "colour"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_an_invalid_correction_is_rejected_and_stores_nothing(publish, tmp_path, case):
    changes, message = REJECTED[case]
    with pytest.raises(FlaskmlError, match=message) as caught:
        publish(**changes)
    assert not ModelStore(tmp_path).names()
    assert not any(value in caught.value.detail for value in ("Rome", "9.5", "9.26"))


ROW = {"size": 5.0, "rooms": 2, "town": "Oslo", "floor": "low", "sold": "2024-01-02"}

ACCEPTED = {
    "one bound": ({**feature("size", maximum=None, minimum=0), "out_of_range": "refuse"}, {"size": -1}, 422),
    "one bound, a value beyond the other side": (
        {**feature("size", maximum=None, minimum=0), "out_of_range": "refuse"},
        {"size": 1e9},
        200,
    ),
    "one bound, with a warning": (feature("size", minimum=None, maximum=20), {"size": 21}, "warned"),
    "one bound, no warning on the other side": (feature("size", minimum=None, maximum=20), {"size": -21}, 200),
    "dates outside a range": ({"out_of_range": "refuse"}, {"sold": "2025-01-01"}, 422),
    "integers as categories": (feature("rooms", kind="category", categories=[0, 1, 2, 3, 4]), {"rooms": 4}, 200),
    "an added category": (feature("town", categories=["Oslo", "Rome", "Bern"]), {"town": "Bern"}, 200),
    "an unknown category that is refused": (feature("town", unknown="refuse"), {"town": "Bern"}, 422),
    "an unknown category that is accepted": (feature("town", unknown="accept"), {"town": "Bern"}, "warned"),
    "any text": (feature("town", kind="text"), {"town": "Bern"}, 200),
    "a field that is ignored": ({"extra": "ignore"}, {"colour": "red"}, 200),
    "the largest integer as a category": (
        feature("rooms", kind="category", categories=[0, 1, 2, 3, 4, 2**63 - 1]),
        {"rooms": 2**63 - 1},
        200,
    ),
}


@pytest.mark.parametrize("case", sampled(ACCEPTED, 3))
def test_a_valid_correction_holds_for_requests(publish, tmp_path, case):
    changes, row, expected = ACCEPTED[case]
    publish(**changes)
    app = create_app({"INSTANCE_PATH": tmp_path})
    try:
        client = app.test_client()
        answer = client.post("/predict", json={**ROW, **row})
        assert answer.status_code == (200 if expected == "warned" else expected), answer.json
        assert ("warnings" in answer.json) is (expected == "warned")
        assert client.get("/").status_code == client.get("/models/default").status_code == 200
        assert client.post("/predict", json=client.application.extensions["model"].current.schema.example).json["model"]
    finally:
        stop(app)


def test_a_form_may_have_extra_fields_if_they_are_ignored(publish, tmp_path):
    publish(extra="ignore")
    app = create_app({"INSTANCE_PATH": tmp_path})
    try:
        client = app.test_client()
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
            answers = [
                client.post("/predict", data=ROW | {f"other {n}": n for n in range(count)}, content_type=kind)
                for count in (500, 2_000)
            ]
            assert [answer.status_code for answer in answers] == [200, 413]
    finally:
        stop(app)
