"""`flaskml.publish` and `flask models add`: a version gives the answers of the estimator that was published."""

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
    """Return a DataFrame of numbers, strings and booleans, with missing values."""
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


def estimator_case(make, X, y=None, *, task="regression", score=None, layout="array", relative=1e-12, child=False):
    """Return an estimator's factory, its sample, and the facts that its manifest must record.

    With `child`, its trial runs in a child process, which takes a second or two.
    """
    facts = {"task": task, "score": score, "layout": layout}
    return SimpleNamespace(make=make, X=X, y=y, relative=relative, child=child, **facts)


CASES = {
    "pipeline": estimator_case(
        lambda: make_pipeline(StandardScaler(), LinearRegression()), NUMBERS, TARGET, score="r2"
    ),
    "columns": estimator_case(
        columns_pipeline, TABLE, LABELS, task="classification", score="accuracy", layout="frame", child=True
    ),
    "search": estimator_case(
        lambda: GridSearchCV(Ridge(), {"alpha": [0.1, 1]}), NUMBERS, TARGET, score="r2", child=True
    ),
    "labels": estimator_case(LogisticRegression, NUMBERS, LABELS, task="classification", score="accuracy"),
    "outputs": estimator_case(
        lambda: RandomForestRegressor(5, random_state=0), NUMBERS, np.c_[TARGET, -TARGET], score="r2"
    ),
    "transformer": estimator_case(lambda: PCA(2), NUMBERS, task="transformation"),
    "clusterer": estimator_case(lambda: KMeans(3, n_init=1, random_state=0), NUMBERS, task="clustering"),
    "outliers": estimator_case(lambda: IsolationForest(n_estimators=10, random_state=0), NUMBERS, task="outliers"),
    "objects": estimator_case(
        lambda: make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()),
        WORDS,
        TARGET,
        score="r2",
        layout="array",
        child=True,
    ),
    "sparse answers": estimator_case(OneHotEncoder, WORDS, task="transformation", layout="array"),
    "xgboost classifier": estimator_case(
        lambda: xgboost().XGBClassifier(n_estimators=5),
        NUMBERS,
        (TARGET > 0).astype(int),
        task="classification",
        score="accuracy",
        relative=1e-6,
        child=True,
    ),
    "xgboost regressor": estimator_case(
        lambda: xgboost().XGBRegressor(n_estimators=5),
        TABLE[["age", "rooms", "member"]],
        TARGET,
        score="r2",
        layout="frame",
        relative=1e-6,
    ),
    "lightgbm classifier": estimator_case(
        lambda: lightgbm().LGBMClassifier(n_estimators=5, verbose=-1),
        TABLE[["age", "rooms", "member"]],
        LABELS,
        task="classification",
        score="accuracy",
        layout="frame",
        relative=1e-6,
        child=True,
    ),
    "lightgbm regressor": estimator_case(
        lambda: lightgbm().LGBMRegressor(n_estimators=5, verbose=-1),
        NUMBERS,
        TARGET,
        score="r2",
        relative=1e-6,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    """Return a case of `CASES` with its fitted estimator."""
    case = CASES[request.param]
    estimator = case.make()
    estimator.fit(case.X) if case.y is None else estimator.fit(case.X, case.y)
    return SimpleNamespace(**{**vars(case), "estimator": estimator})


@pytest.fixture
def instance_path(tmp_path):
    return tmp_path / "instance"


def estimator_answers(case):
    """Return the answers of the estimator to its sample, called directly."""
    if hasattr(case.estimator, "predict"):
        return np.asarray(case.estimator.predict(case.X))
    answers = case.estimator.transform(case.X)
    return np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers)


def json_rows(X):
    """Return the rows of a sample as a client sends them in JSON."""
    rows = np.asarray(X, dtype=object).tolist()
    return [[None if value is None or value != value else value for value in row] for row in rows]


def assert_equal_answers(answers, expected, relative):
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(np.array(answers), expected, rtol=relative, atol=0)
    else:
        assert answers == expected.tolist()


def served_answers(path, rows):
    """Return the answers of an app to all rows in one request, and to the first five rows in a request each."""
    app = create_app({"INSTANCE_PATH": path})
    try:
        client = app.test_client()
        batch = client.post("/predict", json={"instances": rows})
        alone = [client.post("/predict", json={"instances": [row]}).json["predictions"][0] for row in rows[:5]]
        assert batch.status_code == 200, batch.text
        return batch.json["predictions"], alone
    finally:
        stop(app)


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=pytest.mark.gauntlet) if CASES[name].child else name for name in CASES],
    indirect=True,
)
def test_a_published_estimator_gives_the_same_answers(case, instance_path, request):
    if not case.child:
        request.getfixturevalue("swift")
    assert flaskml.publish(case.estimator, case.X, case.y, instance_path=instance_path) == "1"
    expected, rows = estimator_answers(case), json_rows(case.X)
    answers, alone = served_answers(instance_path, rows)
    assert_equal_answers(answers, expected, case.relative)
    assert_equal_answers(alone, expected[: len(alone)], case.relative)
    check_manifest(case, ModelStore(instance_path))
    check_golden_rows(case, instance_path, rows, expected)


def check_manifest(case, store):
    manifest = store.manifest("default", "1")
    assert (manifest.task, manifest.schema_.layout, manifest.rows) == (case.task, case.layout, COUNT)
    score = manifest.score and (manifest.score.metric, manifest.score.on)
    assert score == (case.score and (case.score, "the sample"))
    state = store.state("default")
    assert state.verdict("1", environment_key()).accepted
    assert [entry.reason for entry in state.history] == ["published with a sample"]


def check_golden_rows(case, instance_path, rows, expected):
    golden = json.loads((instance_path / "models/default/1/golden.json").read_text())
    assert len(golden["rows"]) == len(golden["answers"]) == MAX_GOLDEN_ROWS == 32
    positions = [rows.index(row) for row in golden["rows"]]
    assert_equal_answers(golden["answers"], expected[positions], case.relative)
    assert golden["rows"][0] == rows[0] and golden["rows"][-1] == rows[-1]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_the_environment_includes_the_library_of_the_estimator(library, instance_path, swift):
    # Another version of the library may give other answers, so a verdict holds for one version only.
    case = CASES[f"{library} regressor"]
    flaskml.publish(case.make().fit(case.X, case.y), case.X, instance_path=instance_path)
    recorded = ModelStore(instance_path).manifest("default", "1").environment
    assert [name for name in recorded if name.startswith(library)]
    assert library in environment_key()


@pytest.mark.thorough
def test_an_added_file_gives_the_same_answers(case, instance_path, swift, tmp_path, monkeypatch):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance_path))
    names = list(case.X.columns) if isinstance(case.X, pd.DataFrame) else ["first", "second column", "third"]
    sample = pd.DataFrame(case.X, columns=names).infer_objects()
    options = []
    if case.y is not None and case.y.ndim == 1:
        sample = sample.assign(sold=case.y)
        options = ["--target", "sold"]
    sample.to_csv(tmp_path / "sample.csv", index=False)
    joblib.dump(case.estimator, tmp_path / "model.joblib")
    files = [str(tmp_path / "model.joblib"), "--data", str(tmp_path / "sample.csv")]
    result = CliRunner().invoke(models, ["add", *files, *options, "--name", "default", "--trust"])
    assert result.exit_code == 0, result.output + repr(result.exception)
    answers, _ = served_answers(instance_path, json_rows(case.X))
    assert_equal_answers(answers, estimator_answers(case), case.relative)
    manifest = ModelStore(instance_path).manifest("default", "1")
    assert manifest.schema_.names == tuple(names) and manifest.data == "sample.csv"
    assert bool(manifest.score) == bool(options)


def fitted_line():
    return LinearRegression().fit(NUMBERS, TARGET)


def test_the_score_is_the_estimators_own(instance_path, swift):
    flaskml.publish(fitted_line(), NUMBERS, TARGET, instance_path=instance_path)
    score = ModelStore(instance_path).manifest("default", "1").score
    assert score.value == fitted_line().score(NUMBERS, TARGET) and score.rows == COUNT


def test_without_activate_the_active_version_stays(instance_path, swift):
    flaskml.publish(fitted_line(), NUMBERS, instance_path=instance_path, runtime="sklearn")
    assert flaskml.publish(Ridge().fit(NUMBERS, TARGET), NUMBERS, activate=False, instance_path=instance_path) == "2"
    store = ModelStore(instance_path)
    state = store.state("default")
    assert state.active == "1" and store.versions("default") == ["1", "2"]
    assert state.verdict("2", environment_key()).accepted
    assert type(load_active(store, "default").estimator) is LinearRegression


def test_after_a_rejection_the_active_version_stays(instance_path, swift, monkeypatch):
    flaskml.publish(fitted_line(), NUMBERS, instance_path=instance_path)
    monkeypatch.setattr(LinearRegression, "predict", lambda self, X: np.full(len(X), np.random.random()))
    with pytest.raises(VersionRejected, match="differently than in training"):
        flaskml.publish(fitted_line(), NUMBERS, instance_path=instance_path)
    state = ModelStore(instance_path).state("default")
    verdict = state.verdict("2", environment_key())
    assert state.active == "1" and (verdict.row, verdict.accepted) == (0, False)
    assert verdict.expected != verdict.answered


def test_an_estimator_with_column_names_accepts_an_array_as_sample(instance_path, swift):
    estimator = LinearRegression().fit(FRAME, TARGET)
    flaskml.publish(estimator, NUMBERS, TARGET, instance_path=instance_path)
    manifest = ModelStore(instance_path).manifest("default", "1")
    assert manifest.schema_.names == ("a", "b", "c") and manifest.score.value == estimator.score(FRAME, TARGET)


def test_an_estimator_without_column_names_accepts_a_dataframe_as_sample(instance_path, swift):
    flaskml.publish(fitted_line(), FRAME, TARGET, instance_path=instance_path)
    manifest = ModelStore(instance_path).manifest("default", "1")
    assert manifest.schema_.names == ("a", "b", "c") and manifest.schema_.layout == "array"


def test_a_version_belongs_to_the_named_model(instance_path, swift):
    flaskml.publish(fitted_line(), NUMBERS, name="a.b-c_1", instance_path=str(instance_path))
    assert ModelStore(instance_path).names() == ["a.b-c_1"]


def test_keep_versions_limits_the_stored_versions(instance_path, swift, monkeypatch):
    monkeypatch.setenv("FLASKML_KEEP_VERSIONS", "2")
    for _ in range(5):
        flaskml.publish(fitted_line(), NUMBERS, instance_path=instance_path)
    assert ModelStore(instance_path).versions("default") == ["4", "5"]


@pytest.mark.thorough
def test_concurrent_publishers_get_different_versions(instance_path, swift, monkeypatch):
    monkeypatch.setenv("FLASKML_KEEP_VERSIONS", "1")
    with ThreadPoolExecutor(4) as pool:
        versions = list(
            pool.map(lambda _: flaskml.publish(fitted_line(), NUMBERS, instance_path=instance_path), range(8))
        )
    store = ModelStore(instance_path)
    assert sorted(versions, key=int) == [str(number) for number in range(1, 9)]
    assert store.state("default").active == "8"
    store.check("default", "8")


def test_the_instance_path_comes_from_the_argument_or_the_environment(instance_path, swift, monkeypatch, tmp_path):
    monkeypatch.setenv("FLASKML_INSTANCE_PATH", str(instance_path))
    flaskml.publish(fitted_line(), NUMBERS)
    flaskml.publish(fitted_line(), NUMBERS, instance_path=tmp_path / "other")
    assert ModelStore(instance_path).versions("default") == ModelStore(tmp_path / "other").versions("default") == ["1"]


REFUSED = {
    "narrow": (fitted_line, NUMBERS[:, :2], "fitted on 3 features; the sample has 2 columns"),
    "wide": (fitted_line, np.c_[NUMBERS, TARGET], "fitted on 3 features; the sample has 4 columns"),
    "one row, flat": (fitted_line, NUMBERS[0], r"DataFrame or an array of shape \(rows, features\)"),
    "three dimensions": (fitted_line, NUMBERS[None], r"DataFrame or an array of shape \(rows, features\)"),
    "empty": (fitted_line, NUMBERS[:0], "row"),
    "nothing": (fitted_line, None, r"DataFrame or an array of shape \(rows, features\)"),
    "other columns": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME.rename(columns={"a": "z"}), "a, b, c"),
    "other order": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME[["b", "a", "c"]], "a, b, c, in this order"),
    "more columns": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME.assign(d=1), "a, b, c"),
    "no rows": (lambda: LinearRegression().fit(FRAME, TARGET), FRAME[:0], "row"),
    "same columns": (fitted_line, FRAME.set_axis(["a", "a", "b"], axis=1), "same name|twice"),
    "missing values": (fitted_line, np.where(NUMBERS > 1, np.nan, NUMBERS), "sample"),
    "not fitted": (LinearRegression, NUMBERS, "fitted"),
    "no method": (lambda: DBSCAN().fit(NUMBERS), NUMBERS, "DBSCAN neither predicts nor transforms new rows"),
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
    "a lock": (lambda: with_attribute(sys.stdout), NUMBERS, "cannot be pickled"),
}


def with_attribute(value):
    estimator = fitted_line()
    estimator.extra_ = value
    return estimator


@pytest.mark.parametrize(("make", "sample", "message"), REFUSED.values(), ids=REFUSED)
def test_an_unsuitable_estimator_or_sample_is_refused_before_it_is_stored(make, sample, message, instance_path):
    with pytest.raises(NotPublishable, match=message) as refused:
        flaskml.publish(make(), sample, instance_path=instance_path)
    assert refused.value.status == 422 and refused.value.detail.endswith((".", "?"))
    assert not instance_path.exists()


def test_a_refusal_does_not_reveal_values_of_the_sample(instance_path):
    sample = np.where(NUMBERS > 1, "confidential", NUMBERS.astype(object))
    with pytest.raises(NotPublishable) as refused:
        flaskml.publish(fitted_line(), sample, instance_path=instance_path)
    assert "confidential" not in refused.value.detail and not instance_path.exists()


def test_a_wrong_number_of_targets_is_refused(instance_path):
    with pytest.raises(NotPublishable, match="5"):
        flaskml.publish(fitted_line(), NUMBERS, TARGET[:5], instance_path=instance_path)
    assert not instance_path.exists()


@pytest.mark.parametrize("name", ["../x", "A b", "", "x/y", "é"])
def test_an_invalid_name_is_refused(instance_path, name):
    with pytest.raises(FlaskmlError):
        flaskml.publish(fitted_line(), NUMBERS, name=name, instance_path=instance_path)
    assert not instance_path.exists()


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
    result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.thorough
def test_definitions_of_a_script_are_refused_before_they_are_stored(tmp_path, instance_path):
    printed = run_script(tmp_path, FLASKML_INSTANCE_PATH=str(instance_path))
    for line, name in zip(printed[:2], ("Mine", "double"), strict=True):
        assert line.startswith(f"{name} is defined in a notebook or script")
        assert "Move it into a module that is installed or lies beside wsgi.py" in line
    assert printed[2] == "done" and not instance_path.exists()


@pytest.mark.thorough
def test_a_script_in_an_empty_folder_creates_the_instance_folder_there(tmp_path):
    """Copy the package out of the checkout first, so that it runs like an installed one."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CHECKOUT / "flaskml", tmp_path / "site/flaskml", ignore=ignored)
    folder = tmp_path / "empty"
    folder.mkdir()
    assert run_script(folder, "publish", PYTHONPATH=str(tmp_path / "site"))[-1] == "1"
    assert sorted(path.name for path in folder.iterdir()) == ["instance", "script.py"]
    assert load_active(ModelStore(folder / "instance"), "default").manifest.estimator == "LinearRegression"
