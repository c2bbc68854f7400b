"""The instance folder of the tests of servers, without a model that needs scikit-learn: so a server starts quickly."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.stores import create_once, train_into


@pytest.fixture(scope="session")
def served(tmp_path_factory, worker_id):
    """An instance folder with a `default` model of one number, which is a graph if the extra `fast` is installed."""
    runtime = "onnx" if find_spec("onnxruntime") and find_spec("skl2onnx") else "sklearn"
    return create_once(tmp_path_factory, worker_id, "served", lambda path: train_into(path, runtime=runtime))


@pytest.fixture
def instance(served, tmp_path):
    """A copy of that folder, which the test may change."""
    return Path(shutil.copytree(served, tmp_path / "instance"))
