"""Files read by column get the answers and the problems that they get row by row."""

import csv
import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from flaskml import publish
from flaskml.codecs.column_checks import ColumnChecks
from flaskml.errors import NotParseable
from flaskml.inference import row_files
from flaskml.inference.file_scoring import score_rows
from flaskml.inference.predictor import open_predictor
from flaskml.inference.row_files import open_row_file
from flaskml.store.model_store import ModelStore
from tests.support.sampling import sampled

ROW_COUNT = 200
RNG = np.random.default_rng(5)
TABLE = pd.DataFrame(
    {
        "size": RNG.normal(size=ROW_COUNT).round(3),
        "rooms": RNG.integers(1, 9, ROW_COUNT),
        "floor": pd.Series(RNG.integers(0, 9, ROW_COUNT), dtype="Int64").mask(RNG.random(ROW_COUNT) < 0.1),
        "is new": RNG.random(ROW_COUNT) < 0.5,
        "city": pd.Series(RNG.choice(["Oslo", "Rome", 'é, "x"', "nan"], ROW_COUNT), dtype=object),
        "note": pd.Series(RNG.choice(["a", "b", None], ROW_COUNT), dtype=object),
        "grade": pd.Categorical(RNG.choice([1, 2, 3], ROW_COUNT)),
        "built": pd.Series(pd.date_range("2020-01-01", periods=ROW_COUNT, freq="h")).dt.as_unit("us"),
        "share": RNG.random(ROW_COUNT).astype(np.float32),
    }
)
TARGET = np.where(TABLE["size"] + TABLE["rooms"] > 5, "high", "low")


def pipeline(final_step):
    texts = make_pipeline(SimpleImputer(strategy="constant", fill_value="?"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer(
        (SimpleImputer(), ["size", "rooms", "floor", "share"]),
        (OneHotEncoder(handle_unknown="ignore"), ["grade"]),
        (texts, ["city", "note"]),
        ("passthrough", ["is new"]),
    )
    return make_pipeline(columns, final_step)


MODELS = {
    "a graph": (pipeline(LogisticRegression(max_iter=500)), TABLE, None),
    "a frame": (pipeline(RandomForestClassifier(10, random_state=0)), TABLE, "sklearn"),
    "doubles": (LogisticRegression(), TABLE[["size", "rooms"]].to_numpy(dtype=float), "sklearn"),
    "integers": (LogisticRegression(), TABLE[["rooms"]].to_numpy(dtype=np.int64), "sklearn"),
    "objects": (
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()),
        TABLE[["rooms", "city"]].to_numpy(dtype=object),
        "sklearn",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def predictor(request, tmp_path_factory):
    estimator, rows, runtime = MODELS[request.param]
    path = tmp_path_factory.mktemp("files")
    estimator.fit(rows, TARGET)
    publish(estimator, rows, instance_path=path, runtime=runtime)
    store = ModelStore(path)
    return open_predictor(store.load("default", "1"), max_rows=10_000)


def scores(path, predictor, method):
    """Return the answers and the problems of a file, and the number of parts that were read by column."""
    by_column = []
    with open_row_file(path, predictor) as file:

        def counted(part):
            def read_columns():
                columns = part.read_columns()
                by_column.append(columns is not None)
                return columns

            return replace(part, read_columns=read_columns)

        file = replace(file, parts=map(counted, file.parts))
        parts = list(score_rows(predictor, file, method))
    return [part.values for part in parts], [part.problems for part in parts], sum(by_column)


def both(path, predictor, monkeypatch, method="predict"):
    """Return the number of parts read by column, whose answers and problems are those of single rows."""
    monkeypatch.setattr(row_files, "PART_ROWS", 20)
    *fast, by_column = scores(path, predictor, method)
    with monkeypatch.context() as patch:
        patch.setattr(ColumnChecks, "are_valid", lambda *_: False)
        *slow, by_column_of_slow = scores(path, predictor, method)
    assert fast == slow and by_column_of_slow == 0
    return by_column


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_valid_files_are_read_by_column(predictor, tmp_path, monkeypatch, suffix):
    path, table = tmp_path / f"rows{suffix}", table_for(predictor.schema)
    if suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    for method in ("predict", "predict_proba"):
        assert both(path, predictor, monkeypatch, method) == ROW_COUNT // 20


def table_for(schema):
    """Return the rows of the table with the names of a schema."""
    names = [name for name in schema.names if name in TABLE]
    if names:
        table = TABLE[names].copy()
    elif len(schema.names) == 1:
        table = TABLE[["rooms"]].set_axis(schema.names, axis="columns")
    else:
        last = "city" if schema.features[1].kind in ("category", "text") else "rooms"
        table = TABLE[["rooms", last] if last == "city" else ["size", "rooms"]].set_axis(schema.names, axis="columns")
    if "built" in table:
        table["built"] = table["built"].map(lambda moment: moment.isoformat())
    return table


CELLS = (
    "", "0", "1", "-1", "1.0", "1.5", "+2", ".5", "5.", "1e2", "1e400", "nan", "NaN", "inf", "1_0", " 1", "1 ",
    "1\n", "٣", "--1", "e5", "1e", "9007199254740993", "9" * 25, "true", "True", "FALSE", "yes", "x", "Oslo",
    "a", "é", "None", "2", "2020-01-01", "2020-01-01T00:00:00", "2020-02-30", "2020-01-01T00:00:00+01:00", "x" *
    100_001, "3.5e38", "-0.0", "0x1",
)  # fmt: skip


@pytest.mark.parametrize(
    "count", [pytest.param(16, marks=pytest.mark.thorough), pytest.param(600, marks=pytest.mark.gauntlet)]
)
def test_parts_with_unusual_cells_get_the_same_answers_and_problems(predictor, tmp_path, monkeypatch, count):
    rng, path, parts = random.Random(3), tmp_path / "rows.csv", 0
    table = table_for(predictor.schema).astype(object)
    rows = [[*row] for row in table.where(table.notna(), "").iloc[:20].to_numpy().tolist()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["other", *table.columns])
        for number in range(count):
            changed = [["o", *row] for row in rows]
            if number % 2:
                changed[rng.randrange(20)][rng.randrange(len(table.columns)) + 1] = rng.choice(CELLS)
            if number % 8 == 0:
                changed[rng.randrange(20)].append("too many")
            writer.writerows(changed)
            parts += 1
    assert parts / 4 < both(path, predictor, monkeypatch) < parts


@pytest.mark.parametrize("name", sampled(["floor", "city", "is new", "built", "size", "grade", "rooms"], 2))
def test_parquet_columns_of_other_types_get_the_same_answers_and_problems(predictor, tmp_path, monkeypatch, name):
    if name not in predictor.schema.names:
        return
    path, table = tmp_path / "rows.parquet", table_for(predictor.schema)
    columns = [
        TABLE["rooms"].astype("int8"), TABLE["rooms"].astype(float), TABLE["size"], TABLE["is new"], TABLE["city"],
        TABLE["city"].astype("category"), TABLE["built"], TABLE["built"].dt.as_unit("ns"), TABLE["grade"],
        TABLE["floor"], TABLE["built"].dt.tz_localize("UTC"), TABLE["built"].dt.date, TABLE["size"] * np.inf,
        TABLE["rooms"] * 2**58, pd.Series([None] * ROW_COUNT, dtype=object), TABLE["note"],
        pd.Series([b"x"] * ROW_COUNT), TABLE["share"], pd.Series([[1.0]] * ROW_COUNT), TABLE["built"].dt.time,
        TABLE["size"].map(json.dumps),
    ]  # fmt: skip
    for column in columns:
        table.assign(**{name: column.to_numpy() if column.dtype == object else column}).iloc[:40].to_parquet(path)
        both(path, predictor, monkeypatch)


def test_a_planted_difference_is_found(predictor, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    table_for(predictor.schema).to_csv(path, index=False)
    answers = iter(range(10**6))
    monkeypatch.setattr(type(predictor), "predict_columns", lambda *_: np.array([next(answers)] * 20))
    with pytest.raises(AssertionError):
        both(path, predictor, monkeypatch)


def test_values_of_parquet_that_python_does_not_have_are_an_error(predictor, tmp_path):
    if "city" not in predictor.schema.names or "built" not in predictor.schema.names:
        return
    table, path = pa.Table.from_pandas(table_for(predictor.schema).iloc[:4]), tmp_path / "rows.parquet"
    far = pa.array([10**15] * 4, pa.timestamp("ms"))
    pq.write_table(table.set_column(table.schema.get_field_index("built"), "built", far), path)
    with pytest.raises(NotParseable, match="a value cannot be read"):
        scores(path, predictor, "predict")
    octets = pa.array([b"x", b"\xff"] * 2).dictionary_encode()
    pq.write_table(table.set_column(table.schema.get_field_index("city"), "city", octets), path)
    values, problems, by_column = scores(path, predictor, "predict")
    assert values == [[None] * 4] and len(problems[0]) == 4 and by_column == 0
