"""The manifest of a version: recorded facts, JSON and format number."""

import json

import pytest
from pydantic import ValidationError

from flaskml.store.formats import MANIFEST_FORMAT
from flaskml.store.manifest import Manifest, current_environment


def test_a_manifest_records_environment_score_files_and_schema(instance):
    stored = json.loads((instance / "models/homes/1/manifest.json").read_bytes())
    assert stored["format"] == MANIFEST_FORMAT == 1
    assert {"python", "scikit-learn", "numpy", "joblib", "flaskml"} <= stored["environment"].keys()
    assert stored["score"]["metric"] == "accuracy" and stored["score"]["value"] > 0.8
    assert stored["files"]["model.joblib"]["size"] == (instance / "models/homes/1/model.joblib").stat().st_size
    assert [feature["name"] for feature in stored["schema"]["features"]][:2] == ["age", "rooms"]
    assert (stored["model"], stored["version"], stored["target"], stored["data"]) == ("homes", "1", "sold", "homes.csv")


def test_a_manifest_round_trips_through_json(store):
    manifest = store.manifest("homes", "1")
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


def test_an_unknown_format_number_is_rejected(store):
    document = json.loads(store.manifest("homes", "1").to_json()) | {"format": 2}
    with pytest.raises(ValidationError, match="format"):
        Manifest.model_validate_json(json.dumps(document))


def test_the_environment_has_the_installed_versions():
    import sklearn

    assert current_environment()["scikit-learn"] == sklearn.__version__
