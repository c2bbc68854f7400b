"""Sample tables of every column type, each with an estimator fitted on it, and a server of all of them."""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import flaskml
from flaskml.publishing import trial
from flaskml.runtimes import selection
from flaskml.store.model_store import ModelStore
from flaskml.training.transformers import date_parts
from tests.support.server_processes import start_server
from tests.support.stores import create_once, run_trial_in_process
from tests.support.tables import mixed_table

ROWS = 220
"""Rows of each table; more than the largest batch of a test."""

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


@dataclass(frozen=True)
class Case:
    """A fitted estimator with the rows that it was fitted on."""

    estimator: object
    X: object

    @property
    def names(self):
        """The feature names in requests."""
        return list(self.X.columns) if isinstance(self.X, pd.DataFrame) else [f"x{i}" for i in range(self.X.shape[1])]

    @property
    def methods(self):
        return [method for method in METHODS if hasattr(self.estimator, method)]

    def answers(self, method):
        """Return the answers of the estimator called directly, as a list with one item per row."""
        with np.errstate(divide="ignore"):  # The logarithm of probability 0.
            answer = getattr(self.estimator, method)(self.X)
        if isinstance(answer, list):
            return [list(row) for row in zip(*answer, strict=True)]
        return list(answer.toarray() if hasattr(answer, "toarray") else np.asarray(answer))


def rng():
    return np.random.default_rng(7)


def iris():
    data = datasets.load_iris()
    return Case(LogisticRegression(max_iter=500).fit(data.data, data.target_names[data.target]), data.data)


def diabetes():
    X, y = datasets.load_diabetes(return_X_y=True, as_frame=True)
    X, y = X[:ROWS], y[:ROWS]
    return Case(make_pipeline(StandardScaler(), Ridge()).fit(X, y), X)


def wine():
    X = datasets.load_wine(as_frame=True).data
    return Case(make_pipeline(StandardScaler(), PCA(3)).fit(X), X)


def breast_cancer():
    X, y = datasets.load_breast_cancer(return_X_y=True, as_frame=True)
    return Case(GradientBoostingClassifier(n_estimators=20, random_state=0).fit(X[:ROWS], y[:ROWS] == 1), X[:ROWS])


def digits():
    X, y = datasets.load_digits(return_X_y=True)
    return Case(KNeighborsClassifier(3).fit(X[:ROWS].astype(np.float32), y[:ROWS]), X[:ROWS].astype(np.float32))


def mixed():
    """Return a table of numbers, categories, booleans and texts with missing values, under names that need quoting."""
    frame = mixed_table(ROWS).dropna(subset=["sold"]).drop(columns="empty")
    target = frame.pop("sold")
    frame.columns = ["Größe, in m²", 'the "rooms"', "home\ncity", " member's ", "名前 = 🏠"]
    frame["名前 = 🏠"] = frame["名前 = 🏠"].fillna('=1+1, "quoted"\nand broken')
    size, rooms, city, member, note = frame.columns
    frame[city] = frame[city].astype(object).where(frame[city].notna(), None)
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), [size, rooms, member]),
        (OneHotEncoder(handle_unknown="ignore"), [city]),
        (TfidfVectorizer(), note),
    )
    return Case(make_pipeline(columns, LogisticRegression()).fit(frame, target), frame)


def dates():
    """Return datetimes without an offset and with missing values, and datetimes of a zone with daylight saving time."""
    days = pd.Series(pd.date_range("2023-01-31 06:30", periods=ROWS, freq="37h"))
    frame = pd.DataFrame({"sold": days, "seen": days.dt.tz_localize("Europe/Oslo").dt.as_unit("ns")})
    target = frame["sold"].dt.month.to_numpy() + frame["seen"].dt.hour.to_numpy()
    frame.loc[::9, "sold"] = pd.NaT
    pipeline = make_pipeline(FunctionTransformer(date_parts), SimpleImputer(), StandardScaler(), Ridge())
    return Case(pipeline.fit(frame, target), frame)


def wide():
    X = pd.DataFrame(rng().normal(size=(ROWS, 500)), columns=[f"gene {i}" for i in range(500)])
    return Case(Ridge().fit(X, X.sum(axis=1)), X)


def one_column():
    X = np.arange(ROWS, dtype=np.float64).reshape(-1, 1)
    return Case(LinearRegression().fit(X, X[:, 0] * 3 + 1), X)


def texts():
    """Return distinct texts, one of them empty."""
    frame = pd.DataFrame({"note": [f"{'good' if i % 3 else 'bad'} case {i}, naïve “quoted”" for i in range(ROWS)]})
    frame.loc[5, "note"] = ""
    pipeline = make_pipeline(make_column_transformer((TfidfVectorizer(), "note")), LogisticRegression())
    return Case(pipeline.fit(frame, frame["note"].str.startswith("good")), frame)


def whole_numbers():
    """Return integers that differ only beyond float64 precision, booleans, a constant column and int8 codes."""
    order = rng().permutation(ROWS)
    frame = pd.DataFrame({"id": 2**60 + order, "yes": order % 2 == 0, "always": 1, "code": (order % 5).astype(np.int8)})
    columns = make_column_transformer((OrdinalEncoder(), ["id"]), remainder="passthrough")
    return Case(make_pipeline(columns, DecisionTreeClassifier(random_state=0)).fit(frame, 2**60 + order // 4), frame)


def nullable():
    """Return a table of the nullable dtypes of pandas, with missing values."""
    random = rng()
    frame = pd.DataFrame(
        {
            "count": pd.array(random.integers(0, 9, ROWS), dtype="Int64"),
            "share": pd.array(random.random(ROWS), dtype="Float64"),
            "member": pd.array(random.random(ROWS) > 0.5, dtype="boolean"),
            "town": pd.array(random.choice(["Oslo", "Rome"], ROWS), dtype="string"),
        }
    )
    for index, name in enumerate(frame.columns[:3]):
        frame.loc[index :: 7 + index, name] = pd.NA
    numbers = ["count", "share", "member"]
    columns = make_column_transformer((SimpleImputer(), numbers), (OneHotEncoder(), ["town"]))
    target = (frame["share"].fillna(0) > 0.5).to_numpy(dtype=bool)
    return Case(make_pipeline(columns, SVC()).fit(frame, target), frame)


def categoricals():
    """Return categorical columns of strings, of numbers and of ordered categories, with missing values."""
    random = rng()
    sizes = pd.CategoricalDtype(["small", "medium", "large"], ordered=True)
    frame = pd.DataFrame(
        {
            "size": pd.Series(random.choice(list(sizes.categories), ROWS), dtype=sizes),
            "town": pd.Series(random.choice(["Oslo", "Rome", "São Paulo"], ROWS), dtype="category"),
            "floor": pd.Series(random.choice([1, 2, 10], ROWS), dtype="category"),
            "area": random.random(ROWS),
        }
    )
    frame.loc[::8, "town"] = None
    target = np.where((frame["size"] > "small") & (frame["area"] > 0.3), "dear", "cheap")
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=10, random_state=0)
    return Case(model.fit(frame, target), frame)


def outputs():
    X = rng().normal(size=(ROWS, 3))
    return Case(DecisionTreeRegressor(random_state=0).fit(X, np.c_[X.sum(axis=1), X[:, 0]]), X)


def labels():
    """Return a classifier with several outputs, each with its own classes."""
    X = rng().normal(size=(ROWS, 3))
    y = np.c_[np.where(X[:, 0] > 0, "ja", "nein"), np.where(X[:, 1] > 0, "yes", "no")]
    return Case(RandomForestClassifier(5, random_state=0).fit(X, y), X)


def lightgbm_categoricals():
    from lightgbm import LGBMClassifier

    case = categoricals()
    return Case(LGBMClassifier(n_estimators=5, verbose=-1).fit(case.X, case.X["area"] > 0.4), case.X)


def xgboost_categoricals():
    from xgboost import XGBClassifier

    case = categoricals()
    return Case(XGBClassifier(n_estimators=5, enable_categorical=True).fit(case.X, case.X["area"] > 0.4), case.X)


OWN = (
    iris, diabetes, wine, breast_cancer, digits, mixed, dates, wide, one_column, texts, whole_numbers, nullable,
    categoricals, outputs, labels,
)  # fmt: skip
"""Functions that make the cases of scikit-learn. Each call returns a new, equal case."""

FOREIGN = (lightgbm_categoricals, xgboost_categoricals)
"""Functions that make the cases of other libraries."""

TABLES = OWN + FOREIGN

FORCED = tuple((make.__name__, runtime) for make in (iris, diabetes, breast_cancer) for runtime in ("sklearn", "onnx"))
"""Tables with an ONNX graph that are also published for each runtime."""

HAS_GRAPHS = bool(find_spec("onnxruntime") and find_spec("skl2onnx"))


def name_of(table, runtime=None):
    """Return the model name of a table, published for the fastest runtime or for the named one."""
    return table if runtime is None else f"{table}.{runtime}"


class Cases(dict):
    """The cases by name. A case whose library is not installed skips the test."""

    def __missing__(self, name):
        pytest.skip(f"{name} needs a library that is not installed")


@pytest.fixture(scope="session")
def cases():
    installed = [make for make in FOREIGN if find_spec(make.__name__.partition("_")[0])]
    return Cases({make.__name__: make() for make in (*OWN, *installed)})


@pytest.fixture(scope="session")
def tables_store(cases, tmp_path_factory, worker_id):
    """A store with every table published under its own name, and some tables published for each runtime too."""

    def make(instance):
        for name, case in cases.items():
            flaskml.publish(case.estimator, case.X, name=name, instance_path=instance)
        for name, runtime in FORCED:
            if runtime != "onnx" or HAS_GRAPHS:
                case = cases[name]
                model = name_of(name, runtime)
                flaskml.publish(case.estimator, case.X, name=model, instance_path=instance, runtime=runtime)

    with pytest.MonkeyPatch.context() as patch:
        # A trial in this process saves the second that a child process takes to start.
        patch.setattr(trial, "run_trial", run_trial_in_process)
        # Few timed calls save time; the slower of two runtimes may then be chosen.
        patch.setattr(selection, "MAX_TIMED_CALLS", selection.CALLS_PER_TURN)
        return ModelStore(create_once(tmp_path_factory, worker_id, "tables", make))


SERVERS = ("flask serve", pytest.param("waitress-serve", marks=pytest.mark.gauntlet))


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tables_store):
    """A server of all tables: `flask serve`, which batches, and in the gauntlet `waitress-serve` too."""
    settings = {"FLASKML_MODEL_NAME": "iris", "FLASKML_MAX_BODY": str(2**23)}
    server = start_server(tables_store.instance_path, request.param, **settings)
    yield server
    server.stop()
