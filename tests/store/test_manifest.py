"""The manifest."""

import json

import pytest
from pydantic import ValidationError

from flaskml.store.formats import MANIFEST_FORMAT
from flaskml.store.manifest import Manifest, current_environment


def test_what_a_version_records(instance):
    stored = json.loads((instance / "models/homes/1/manifest.json").read_bytes())
    assert stored["format"] == MANIFEST_FORMAT == 1
    assert {"python", "scikit-learn", "numpy", "joblib", "flaskml"} <= stored["environment"].keys()
    assert stored["score"]["metric"] == "accuracy" and stored["score"]["value"] > 0.8
    assert stored["files"]["model.joblib"]["size"] == (instance / "models/homes/1/model.joblib").stat().st_size
    assert [feature["name"] for feature in stored["schema"]["features"]][:2] == ["age", "rooms"]
    assert (stored["model"], stored["version"], stored["target"], stored["data"]) == ("homes", "1", "sold", "homes.csv")


def test_a_manifest_comes_back_as_it_was(store):
    manifest = store.manifest("homes", "1")
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


def test_another_format_is_refused(store):
    document = json.loads(store.manifest("homes", "1").to_json()) | {"format": 2}
    with pytest.raises(ValidationError, match="format"):
        Manifest.model_validate_json(json.dumps(document))


def test_environment_names_what_runs():
    import sklearn

    assert current_environment()["scikit-learn"] == sklearn.__version__
