"""Estimators that people bring: each answers as it did where it was fitted."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import flaskml
from flaskml import create_app
from flaskml.cli.models import models
from flaskml.errors import FlaskmlError, NotPublishable, VersionRejected
from flaskml.store.golden_rows import MAX_GOLDEN_ROWS
from flaskml.store.model_store import ModelStore, environment_key
from tests.support.checkout import CHECKOUT
from tests.support.stores import load_active, stop

pytestmark = pytest.mark.thorough


COUNT = 80
RNG = np.random.default_rng(4)
NUMBERS = RNG.normal(size=(COUNT, 3))
TARGET = NUMBERS @ [3.0, -2.0, 1.0] + RNG.normal(size=COUNT)
LABELS = np.where(TARGET > 0, "ja", "nein")
WORDS = np.array(
    [
        [town, int(size), part]
        for town, size, part in zip(
            RNG.choice(["Oslo", "Rome", "São Paulo"], COUNT),
            RNG.integers(1, 4, COUNT),
            RNG.choice(["n", "s"], COUNT),
            strict=True,
        )
    ],
    dtype=object,
)


def table():
    """Numbers, strings and booleans, with gaps."""
    frame = pd.DataFrame(
        {
            "age": NUMBERS[:, 0] * 10 + 40,
            "rooms": RNG.integers(1, 9, COUNT),
            "home city": WORDS[:, 0],
            "member": NUMBERS[:, 1] > 0,
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame.loc[::11, "home city"] = None
    return frame


TABLE = table()
FRAME = pd.DataFrame(NUMBERS, columns=["a", "b", "c"])


def columns_pipeline():
    strings = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["age", "rooms"]), (strings, ["home city"]), ("passthrough", ["member"])
    )
    return make_pipeline(columns, LogisticRegression())


def xgboost():
    return pytest.importorskip("xgboost")


def lightgbm():
    return pytest.importorskip("lightgbm")


def brought(make, X, y=None, *, task="regression", score=None, layout="array", relative=1e-12, child=False):
    """One kind of estimator: how it is made, its sample, and what the manifest has to say of it.

    With `child` it is tried in a child process as it would be, which takes a second or two.
    """
    facts = {"task": task, "score": score, "layout": layout}
    return SimpleNamespace(make=make, X=X, y=y, relative=relative, child=child, **facts)


KINDS = {
    "pipeline": brought(lambda: make_pipeline(StandardScaler(), LinearRegression()), NUMBERS, TARGET, score="r2"),
    "columns": brought(
        columns_pipeline, TABLE, LABELS, task="classification", score="accuracy", layout="frame", child=True
    ),
    "search": brought(lambda: GridSearchCV(Ridge(), {"alpha": [0.1, 1]}), NUMBERS, TARGET, score="r2", child=True),
    "labels": brought(LogisticRegression, NUMBERS, LABELS, task="classification", score="accuracy"),
    "outputs": brought(lambda: RandomForestRegressor(5, random_state=0), NUMBERS, np.c_[TARGET, -TARGET], score="r2"),
    "transformer": brought(lambda: PCA(2), NUMBERS, task="transformation"),
    "clusterer": brought(lambda: KMeans(3, n_init=1, random_state=0), NUMBERS, task="clustering"),
    "outliers": brought(lambda: IsolationForest(n_estimators=10, random_state=0), NUMBERS, task="outliers"),
    "objects": brought(
        lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()),
        WORDS,
        TARGET,
        score="r2",
        layout="array",
        child=True,
    ),
    "sparse answers": brought(OneHotEncoder, WORDS, task="transformation", layout="array"),
    "xgboost classifier": brought(
        lambda: xgboost().XGBClassifier(n_estimators=5),
        NUMBERS,
        (TARGET > 0).astype(int),
        task="classification",
        score="accuracy",
        relative=1e-6,
        child=True,
    ),
    "xgboost regressor": brought(
        lambda: xgboost().XGBRegressor(n_estimators=5),
        TABLE[["age", "rooms", "member"]],
        TARGET,
        score="r2",
        layout="frame",
        relative=1e-6,
    ),
    "lightgbm classifier": brought(
        lambda: lightgbm().LGBMClassifier(n_estimators=5, verbose=-1),
        TABLE[["age", "rooms", "member"]],
        LABELS,
        task="classification",
        score="accuracy",
        layout="frame",
        relative=1e-6,
        child=True,
    ),
    "lightgbm regressor": brought(
        lambda: lightgbm().LGBMRegressor(n_estimators=5, verbose=-1),
        NUMBERS,
        TARGET,
        score="r2",
        relative=1e-6,
    ),
}


@pytest.fixture(params=KINDS)
def kind(request):
    """One kind of estimator, fitted."""
    kind = KINDS[request.param]
    estimator = kind.make()
    estimator.fit(kind.X) if kind.y is None else estimator.fit(kind.X, kind.y)
    return SimpleNamespace(**{**vars(kind), "estimator": estimator})


@pytest.fixture
def here(tmp_path):
    return tmp_path / "instance"


def direct(kind):
    """What the estimator answers to its sample when it is called itself."""
    if hasattr(kind.estimator, "predict"):
        return np.asarray(kind.estimator.predict(kind.X))
    answers = kind.estimator.transform(kind.X)
    return np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers)


def in_json(X):
    """The rows of a sample as a client sends them."""
    rows = np.asarray(X, dtype=object).tolist()
    return [[None if value is None or value != value else value for value in row] for row in rows]


def assert_same(answers, expected, relative):
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(np.array(answers), expected, rtol=relative, atol=0)
    else:
        assert answers == expected.tolist()


def served(path, rows):
    """What an app answers to the rows, in one request and alone."""
    app = create_app({"INSTANCE_PATH": path})
    try:
        client = app.test_client()
        batch = client.post("/predict", json={"instances": rows})
        alone = [client.post("/predict", json={"instances": [row]}).json["predictions"][0] for row in rows[:5]]
        assert batch.status_code == 200, batch.text
        return batch.json["predictions"], alone
    finally:
        stop(app)


def test_what_is_published_answers_as_before(kind, here, request):
    if not kind.child:
        request.getfixturevalue("swift")
    assert flaskml.publish(kind.estimator, kind.X, kind.y, instance_path=here) == "1"
    expected, rows = direct(kind), in_json(kind.X)
    answers, alone = served(here, rows)
    assert_same(answers, expected, kind.relative)
    assert_same(alone, expected[: len(alone)], kind.relative)
    agree_on_manifest(kind, ModelStore(here))
    agree_on_golden_rows(kind, here, rows, expected)


def agree_on_manifest(kind, store):
    manifest = store.manifest("default", "1")
    assert (manifest.task, manifest.schema_.layout, manifest.rows) == (kind.task, kind.layout, COUNT)
    score = manifest.score and (manifest.score.metric, manifest.score.on)
    assert score == (kind.score and (kind.score, "the sample"))
    state = store.state("default")
    assert state.verdict("1", environment_key()).accepted
    assert [entry.reason for entry in state.history] == ["published with a sample"]


def agree_on_golden_rows(kind, here, rows, expected):
    golden = json.loads((here / "models/default/1/golden.json").read_text())
    assert len(golden["rows"]) == len(golden["answers"]) == MAX_GOLDEN_ROWS == 32
    places = [rows.index(row) for row in golden["rows"]]
    assert_same(golden["answers"], expected[places], kind.relative)
    assert golden["rows"][0] == rows[0] and golden["rows"][-1] == rows[-1]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_the_library_of_an_estimator_belongs_to_the_environment(library, here, swift):
    """Another version of it may answer otherwise, so the verdict on one says nothing of the other."""
    kind = KINDS[f"{library} regressor"]
    flaskml.publish(kind.make().fit(kind.X, kind.y), kind.X, instance_path=here)
    recorded = ModelStore(here).manifest("default", "1").environment
    assert [name for name in recorded if name.startswith(library)]
    assert library in environment_key()


def test_a_file_that_is_added_answers_as_before(kind, here, swift, tmp_path, monkeypatch):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(here))
    names = list(kind.X.columns) if isinstance(kind.X, pd.DataFrame) else ["first", "second column", "third"]
    sample = pd.DataFrame(kind.X, columns=names).infer_objects()
    options = []
    if kind.y is not None and kind.y.ndim == 1:
        sample = sample.assign(sold=kind.y)
        options = ["--target", "sold"]
    sample.to_csv(tmp_path / "sample.csv", index=False)
    joblib.dump(kind.estimator, tmp_path / "model.joblib")
    files = [str(tmp_path / "model.joblib"), "--data", str(tmp_path / "sample.csv")]
    result = CliRunner().invoke(models, ["add", *files, *options, "--name", "default", "--trust"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    answers, _ = served(here, in_json(kind.X))
    assert_same(answers, direct(kind), kind.relative)
    manifest = ModelStore(here).manifest("default", "1")
    assert manifest.schema_.names == tuple(names) and manifest.data == "sample.csv"
    assert bool(manifest.score) == bool(options)


def fitted():
    return LinearRegression().fit(NUMBERS, TARGET)


def test_the_score_is_the_estimators_own(here, swift):
    flaskml.publish(fitted(), NUMBERS, TARGET, instance_path=here)
    score = ModelStore(here).manifest("default", "1").score
    assert score.value == fitted().score(NUMBERS, TARGET) and score.rows == COUNT


def test_a_version_that_is_only_stored_leaves_the_active_one(here, swift):
    flaskml.publish(fitted(), NUMBERS, instance_path=here, runtime="sklearn")
    assert flaskml.publish(Ridge().fit(NUMBERS, TARGET), NUMBERS, activate=False, instance_path=here) == "2"
    store = ModelStore(here)
    state = store.state("default")
    assert state.active == "1" and store.versions("default") == ["1", "2"]
    assert state.verdict("2", environment_key()).accepted
    assert type(load_active(store, "default").estimator) is LinearRegression


def test_a_version_that_is_rejected_leaves_the_active_one(here, swift, monkeypatch):
    flaskml.publish(fitted(), NUMBERS, instance_path=here)
    monkeypatch.setattr(LinearRegression, "predict", lambda self, X: np.full(len(X), np.random.random()))
    with pytest.raises(VersionRejected, match="otherwise than in training"):
        flaskml.publish(fitted(), NUMBERS, instance_path=here)
    state = ModelStore(here).state("default")
    verdict = state.verdict("2", environment_key())
    assert state.active == "1" and (verdict.row, verdict.accepted) == (0, False)
    assert verdict.expected != verdict.answered


def test_an_array_is_a_sample_for_an_estimator_of_named_columns(here, swift):
    estimator = LinearRegression().fit(FRAME, TARGET)
    flaskml.publish(estimator, NUMBERS, TARGET, instance_path=here)
    manifest = ModelStore(here).manifest("default", "1")
    assert manifest.schema_.names == ("a", "b", "c") and manifest.score.value == estimator.score(FRAME, TARGET)


def test_a_frame_is_a_sample_for_an_estimator_of_arrays(here, swift):
    flaskml.publish(fitted(), FRAME, TARGET, instance_path=here)
    manifest = ModelStore(here).manifest("default", "1")
    assert manifest.schema_.names == ("a", "b", "c") and manifest.schema_.layout == "array"


def test_names_are_kept_apart(here, swift):
    flaskml.publish(fitted(), NUMBERS, name="a.b-c_1", instance_path=str(here))
    assert ModelStore(here).names() == ["a.b-c_1"]


def test_where_settings_say_how_many_versions_are_kept(here, swift, monkeypatch):
    monkeypatch.setenv("FLASKML_KEEP_VERSIONS", "2")
    for _ in range(5):
        flaskml.publish(fitted(), NUMBERS, instance_path=here)
    assert ModelStore(here).versions("default") == ["4", "5"]


@pytest.mark.thorough
def test_publishers_at_once_take_no_version_from_each_other(here, swift, monkeypatch):
    monkeypatch.setenv("FLASKML_KEEP_VERSIONS", "1")
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: flaskml.publish(fitted(), NUMBERS, instance_path=here), range(8)))
    store = ModelStore(here)
    assert sorted(versions, key=int) == [str(number) for number in range(1, 9)]
    assert store.state("default").active == "8"
    store.check("default", "8")


def test_the_environment_says_where(here, swift, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(here))
    flaskml.publish(fitted(), NUMBERS)
    flaskml.publish(fitted(), NUMBERS, instance_path=tmp_path / "other")
    assert ModelStore(here).versions("default") == ModelStore(tmp_path / "other").versions("default") == ["1"]


WRONG = {
    "narrow": (fitted, NUMBERS[:, :2], "fitted on 3 features; the sample has 2 columns"),
    "wide": (fitted, np.c_[NUMBERS, TARGET], "fitted on 3 features; the sample has 4 columns"),
    "one row, flat": (fitted, NUMBERS[0], r"DataFrame or an array of shape \(rows, features\)"),
    "deep": (fitted, NUMBERS[None], r"DataFrame or an array of shape \(rows, features\)"),
    "empty": (fitted, NUMBERS[:0], "row"),
    "nothing": (fitted, None, r"DataFrame or an array of shape \(rows, features\)"),
    "other columns": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME.rename(columns={"a": "z"}), "a, b, c"),
    "other order": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME[["b", "a", "c"]], "a, b, c, in this order"),
    "more columns": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME.assign(d=1), "a, b, c"),
    "no rows": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME[:0], "row"),
    "same columns": (fitted, FRAME.set_axis(["a", "a", "b"], axis=1), "same name|twice"),
    "gaps it does not take": (fitted, np.where(NUMBERS > 1, np.nan, NUMBERS), "sample"),
    "not fitted": (LinearRegression, NUMBERS, "fitted"),
    "neither": (lambda: DBSCAN().fit(NUMBERS), NUMBERS, "DBSCAN neither predicts nor transforms new rows"),
    "a class": (lambda: LinearRegression, NUMBERS, "class|instance"),
    "no estimator": (lambda: None, NUMBERS, "NoneType neither predicts nor transforms"),
    "lambda": (
        lambda: make_pipeline(FunctionTransformer(lambda x: x), LinearRegression()).fit(NUMBERS, TARGET),
        NUMBERS,
        "<lambda> is defined in .* Move it into a module",
    ),
    "inner lambda": (
        lambda: GridSearchCV(make_pipeline(FunctionTransformer(lambda x: x), Ridge()), {}).fit(NUMBERS, TARGET),
        NUMBERS,
        "<lambda> is defined in .* Move it into a module",
    ),
    "a lock": (lambda: holding(sys.stdout), NUMBERS, "cannot be pickled"),
}


def holding(value):
    estimator = fitted()
    estimator.extra_ = value
    return estimator


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_published_is_refused_with_a_sentence_before_anything_is_stored(case, here):
    make, sample, said = WRONG[case]
    with pytest.raises(NotPublishable, match=said) as refused:
        flaskml.publish(make(), sample, instance_path=here)
    assert refused.value.status == 422 and refused.value.detail.endswith((".", "?"))
    assert not here.exists()


def test_a_refusal_repeats_no_value_of_the_sample(here):
    sample = np.where(NUMBERS > 1, "confidential", NUMBERS.astype(object))
    with pytest.raises(NotPublishable) as refused:
        flaskml.publish(fitted(), sample, instance_path=here)
    assert "confidential" not in refused.value.detail and not here.exists()


def test_targets_of_other_rows_are_refused(here):
    with pytest.raises(NotPublishable, match="5"):
        flaskml.publish(fitted(), NUMBERS, TARGET[:5], instance_path=here)
    assert not here.exists()


@pytest.mark.parametrize("name", ["../x", "A b", "", "x/y", "é"])
def test_a_name_that_cannot_be_one_is_refused(here, name):
    with pytest.raises(FlaskmlError):
        flaskml.publish(fitted(), NUMBERS, name=name, instance_path=here)
    assert not here.exists()


SCRIPT = """
import sys
import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
import flaskml
from flaskml.errors import NotPublishable

class Mine(LinearRegression):
    pass

def double(table):
    return table * 2

X = np.random.default_rng(0).random((40, 2))
for estimator in (Mine(), make_pipeline(FunctionTransformer(double), LinearRegression())):
    try:
        flaskml.publish(estimator.fit(X, X[:, 0]), X)
    except NotPublishable as error:
        print(error.detail)
print(flaskml.publish(LinearRegression().fit(X, X[:, 0]), X) if len(sys.argv) > 1 else "done")
"""


def run_script(folder, *arguments, **environment):
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "error", "script.py", *arguments]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_a_script_defines_itself_is_refused_before_anything_is_stored(tmp_path, here):
    told = run_script(tmp_path, FLASKML_INSTANCE_PATH=str(here))
    for line, name in zip(told[:2], ("Mine", "double"), strict=True):
        assert line.startswith(f"{name} is defined in a notebook or script")
        assert "Move it into a module that is installed or lies beside wsgi.py" in line
    assert told[2] == "done" and not here.exists()


def test_a_script_in_an_empty_folder_makes_the_instance_there(tmp_path):
    """With the package as it lies where it is installed, away from its checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "flaskml", tmp_path / "site/flaskml", ignore=ignored)
    folder = tmp_path / "empty"
    folder.mkdir()
    assert run_script(folder, "publish", PYTHONPATH=str(tmp_path / "site"))[-1] == "1"
    assert sorted(path.name for path in folder.iterdir()) == ["instance", "script.py"]
    assert load_active(ModelStore(folder / "instance"), "default").manifest.estimator == "LinearRegression"
