"""No prediction opens a file: an audit hook counts in a fresh process, the first prediction included.

A process enters the roster with its first request of any kind. That opens a file once, before the count begins.
"""

import json

import numpy as np
import pandas as pd
import pytest

from flaskml.store.golden_rows import record_golden_rows
from flaskml.store.manifest import VersionFacts
from flaskml.store.model_store import ModelStore
from flaskml.store.version_folder import VersionContents
from flaskml.training.columns import as_fitted
from tests.support.checkout import run_python
from tests.support.stores import accept

COUNT = """
import json, sys
from flaskml import create_app
app = create_app({"INSTANCE_PATH": sys.argv[1], "MODEL_NAME": sys.argv[2]})
slot, client = app.extensions["model"], app.test_client()
row = slot.current.schema.example
client.post("/nowhere", json=row)  # The process enters the roster; the test client loads a codec.
opened, counting = [], False
def hook(event, arguments):
    if counting and event == "open":
        opened.append(str(arguments[0]))
sys.addaudithook(hook)
counting = True
statuses = {client.post("/predict", json=row).status_code for _ in range(int(sys.argv[3]))}
statuses.add(client.post("/predict", json=[row] * 50).status_code)
slot.predict(row)
if sys.argv[4:] == ["--planted"]:
    open(sys.executable, "rb").close()
counting = False
print(json.dumps([sorted(statuses), opened]))
"""


def count(instance, name, *options, times=98):
    """Return the statuses of the predictions, and the files opened by them."""
    return json.loads(run_python(COUNT, instance, name, times, *options))


@pytest.mark.parametrize(("name", "times"), [("default", 998), ("homes", 98)])
def test_predictions_open_no_file(instance, name, times):
    assert count(instance, name, times=times) == [[200], []]


def test_the_count_finds_a_planted_open(instance):
    statuses, opened = count(instance, "default", "--planted")
    assert statuses == [200] and len(opened) == 1


def estimators():
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, StackingClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    forest = RandomForestClassifier(n_estimators=10, n_jobs=-1)
    yield "forest", forest
    yield "forest-in-pipeline", make_pipeline(StandardScaler(), forest)
    yield "stack", StackingClassifier([("forest", forest)])
    yield "neighbours", KNeighborsClassifier(algorithm="brute", n_jobs=-1)
    yield "boosting", HistGradientBoostingClassifier(max_iter=10)


def named_estimators():
    """Yield each estimator with its name. A nested one and one of each kind of parallelism run with `thorough`."""
    for name, estimator in estimators():
        marks = pytest.mark.gauntlet if name in ("forest", "stack", "boosting") else ()
        yield pytest.param(name, estimator, id=name, marks=marks)


@pytest.mark.gauntlet
@pytest.mark.parametrize(("name", "estimator"), list(named_estimators()))
def test_predictions_of_parallel_estimators_open_no_file(tmp_path, name, estimator):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 3)), columns=list("abc"))
    schema, table = as_fitted(frame, {})
    estimator.fit(table, (frame.a > 0).to_numpy())
    store = ModelStore(tmp_path)
    facts = VersionFacts(task="classification", estimator=name, data="made", rows=80, schema_=schema)
    store.publish("default", facts, VersionContents(estimator, record_golden_rows(schema, table, estimator.predict)))
    accept(store, "default", "1")
    assert count(tmp_path, "default") == [[200], []]
