"""Versions whose graphs take mixed columns: published, and served without scikit-learn and pandas."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import flaskml
from flaskml.inference.predictor import open_predictor
from flaskml.schema.codes import UNKNOWN_CODE, CodedRows
from flaskml.schema.features import Feature, Schema
from flaskml.store.model_store import ModelStore
from tests.support.checkout import BLOCKED, run_python
from tests.support.tables import mixed_table

pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")

TEXTS = ["Oslo", "Rome", "", "nan", "NaN", "None", "NA", None]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return an instance folder with a model of a number, an integer, a text and a boolean, and its estimator."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(400) < 0.1, np.nan, rng.normal(40, 10, 400).round(1)),
            "rooms": rng.integers(1, 6, 400),
            "town": pd.Series(rng.choice(np.array(TEXTS, dtype=object), 400), dtype=object),
            "member": rng.random(400) < 0.5,
        }
    )
    target = np.where(
        frame["age"].fillna(40) + 4 * (frame["town"] == "nan") + 3 * frame["town"].isna() > 42, "yes", "no"
    )
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["age", "rooms"]), (OneHotEncoder(handle_unknown="ignore"), ["town", "member"])
    )
    estimator = make_pipeline(columns, LogisticRegression()).fit(frame, target)
    path = tmp_path_factory.mktemp("mixed") / "instance"
    flaskml.publish(estimator, frame, target, instance_path=path)
    return path, estimator


def test_graphs_answer_every_method(published):
    manifest = ModelStore(published[0]).manifest("default", "1")
    assert manifest.runtime == "onnx" and manifest.graphs_answer_all
    onnx, sklearn = (next(m for m in manifest.measurements if m.runtime == name) for name in ("onnx", "sklearn"))
    assert onnx.one_row_microseconds * 5 < sklearn.one_row_microseconds


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
def test_texts_that_look_like_missing_values_stay_what_they_are(published, method):
    path, estimator = published
    predictor = open_predictor(ModelStore(path).load("default", "1"), max_rows=100)
    rows = [[age, 3, text, True] for text in [*TEXTS, "elsewhere"] for age in (39.5, None)]
    names = predictor.schema.names
    frame = pd.DataFrame(rows, columns=names).astype({"age": float, "town": object})
    frame["town"] = frame["town"].where(frame["town"].notna(), None)
    expected = getattr(estimator, method)(frame)
    bodies = [json.dumps(dict(zip(names, row, strict=True))).encode() for row in rows]
    alone = np.concatenate([predictor.predict(predictor.parse(body), method) for body in bodies])
    together = predictor.predict(predictor.parse(json.dumps({"instances": rows}).encode()), method)
    for answer in (alone, together):
        assert np.array_equal(answer, expected) if answer.dtype == object else np.allclose(answer, expected, rtol=1e-12)


SERVED = f"""{BLOCKED}
import json
import time
from flaskml import create_app
app = create_app({{"INSTANCE_PATH": sys.argv[2]}})
client, methods = app.test_client(), app.extensions["model"].current.manifest.methods
rows = [{{"age": None, "rooms": 3, "town": town, "member": False}} for town in (None, "nan", "Oslo", "elsewhere")]
answers = [client.post(f"/predict?method={{method}}", json=rows) for method in methods]
assert {{answer.status_code for answer in answers}} == {{200}}
print(json.dumps([answer.json["predictions"] for answer in answers]))
"""


def test_a_server_needs_neither_scikit_learn_nor_pandas(published):
    path, estimator = published
    answers = json.loads(run_python(SERVED, "sklearn,pandas,scipy,joblib,skl2onnx,onnx", path))
    frame = pd.DataFrame({"age": np.nan, "rooms": 3, "town": [None, "nan", "Oslo", "elsewhere"], "member": False})
    assert answers[0] == estimator.predict(frame.astype({"town": object}).where(frame.notna(), None)).tolist()


def test_a_method_without_a_graph_is_computed_by_the_estimator(tmp_path):
    """Logarithms of probabilities differ in their last digits, so the graph does not compute them."""
    frame = mixed_table().drop(columns=["note", "empty"]).dropna(subset=["sold"])
    target = frame.pop("sold")
    columns = make_column_transformer(
        (SimpleImputer(), ["age", "rooms"]), (OneHotEncoder(handle_unknown="ignore"), ["home city"]), sparse_threshold=0
    )
    estimator = make_pipeline(columns, GaussianNB()).fit(frame, target)
    flaskml.publish(estimator, frame, target, instance_path=tmp_path / "instance", runtime="onnx")
    loaded = ModelStore(tmp_path / "instance").load("default", "1")
    assert not loaded.manifest.graphs_answer_all and loaded.estimator is not None
    predictor = open_predictor(loaded, max_rows=100)
    rows = [{"age": age, "rooms": 4, "home city": "Rome", "member": True} for age in (33.0, 41.5, 70.0)]
    for method in loaded.manifest.methods:
        expected = getattr(estimator, method)(pd.DataFrame(rows))
        answer = predictor.predict(predictor.parse(json.dumps(rows).encode()), method)
        assert np.array_equal(answer, expected) or np.allclose(answer, expected, rtol=1e-6)


def test_rows_become_doubles():
    schema = Schema(
        features=(
            Feature(name="n", kind="float", nullable=True),
            Feature(name="t", kind="text", nullable=True),
            Feature(name="b", kind="boolean"),
            Feature(name="d", kind="datetime", nullable=True),
            Feature(name="i", kind="category", categories=(3, 5), unknown="accept"),
        ),
        layout="frame",
    )
    coded = CodedRows(schema, {1: ["nan", ""]})
    rows = [
        (1.5, "nan", True, "1970-01-01T00:00:01", 3),
        (None, None, False, None, 7),
        (0.0, "x", True, "1970-01-02", 5),
    ]
    expected = [[1.5, 0, 1, 1e6, 3], [np.nan, np.nan, 0, np.nan, 7], [0, UNKNOWN_CODE, 1, 86_400e6, 5]]
    assert np.array_equal(coded.encode(rows), expected, equal_nan=True)
    assert np.array_equal(np.concatenate([coded.encode([row]) for row in rows]), expected, equal_nan=True)


@pytest.mark.gauntlet
def test_fifty_columns_of_a_thousand_categories_are_published_soon(tmp_path):
    """It takes about 14 seconds on a slow core; the limit is for a comparison that grows with the square."""
    rng = np.random.default_rng(0)
    numbers = np.arange(3_000) % 1_000
    columns = {f"c{index}": [f"value {number}" for number in rng.permutation(numbers)] for index in range(50)}
    table = pd.DataFrame(columns, dtype=object)
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), list(table)))
    estimator = make_pipeline(encoder, LogisticRegression(max_iter=30)).fit(table, numbers > 500)
    begun = time.monotonic()
    flaskml.publish(estimator, table, instance_path=tmp_path)
    assert ModelStore(tmp_path).manifest("default", "1").runtime == "onnx" and time.monotonic() - begun < 60
