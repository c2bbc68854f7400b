"""Data sets: the built-in ones and CSV files."""

import gzip

import pytest

from flaskml.errors import InvalidTraining
from flaskml.training.datasets import BUILT_IN, built_in, read_csv_dataset

SIZES = {"regression": (100, 1), "iris": (150, 4), "wine": (178, 13), "diabetes": (442, 10), "breast_cancer": (569, 30)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_data_sets_have_their_known_shapes(name):
    dataset = built_in(name)
    assert dataset.features.shape == SIZES[name] and len(dataset.target) == SIZES[name][0]


def test_the_regression_data_set_is_make_regression():
    from sklearn.datasets import make_regression

    values, target = make_regression(n_samples=100, n_features=1, noise=0.1, random_state=42)
    dataset = built_in("regression")
    assert dataset.features["feature"].tolist() == values[:, 0].tolist() and dataset.target.tolist() == target.tolist()


def test_classes_are_named():
    assert set(built_in("iris").target) == {"setosa", "versicolor", "virginica"}


def read(tmp_path, content, target="y"):
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv_dataset(path, "table.csv", target)


def test_rows_without_target_and_empty_columns_are_dropped(tmp_path):
    dataset = read(tmp_path, "a,b,y\n1,,1\n2,,\n,,3\n")
    assert dataset.features.columns.tolist() == ["a"] and dataset.target.tolist() == [1.0, 3.0]
    assert (dataset.dropped_rows, dataset.dropped_columns) == (1, ("b",))


def test_na_is_a_missing_value_among_numbers_only(tmp_path):
    dataset = read(tmp_path, "n,country,y\n1,NA,1\nNA,SE,2\n2,,3\n")
    assert dataset.features["n"].isna().tolist() == [False, True, False] and dataset.features["n"].sum() == 3
    assert dataset.features["country"].tolist()[:2] == ["NA", "SE"] and dataset.features["country"].isna()[2]


def test_a_byte_order_mark_is_not_part_of_a_column_name(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbfa,y\n1,2\n").features.columns.tolist() == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a CSV table"),
        (b"\xff\xfe\x00", "not a CSV table"),
        (b"a,y\n1,2\n1,2,3\n", "not a CSV table"),
        (gzip.compress(b"a,y\n1,2\n", mtime=0), "not a CSV table"),
        ("a,b\n1,2\n", 'no column "y"'),
        ("a,y\n1,2,3\n4,5,6\n", "not a CSV table"),
        ("a,y\n1,2,\n4,5,\n", "not a CSV table"),
        ("y,a,y\n1,2,3\n", 'more than one column called "y"'),
        ("y\n1\n", "no column with values"),
        ("a,y\n1,2\ninf,3\n", '"a".*infinite'),
        ("a,y\n1,inf\n", '"y".*infinite'),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, content, message):
    with pytest.raises(InvalidTraining, match=message):
        read(tmp_path, content)


def test_the_nearest_column_name_is_suggested(tmp_path):
    with pytest.raises(InvalidTraining, match='did you mean "price"'):
        read(tmp_path, "a,price\n1,2\n", target="prize")
    with pytest.raises(InvalidTraining, match="is the target"):
        read(tmp_path, "a,price\n1,2\n", target=None)
