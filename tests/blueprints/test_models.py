"""What the store holds, over HTTP."""

from flaskml.training.trainer import TrainingSpec, train
from tests.conftest import ignore


def test_list(client):
    models = client.get("/models").json["models"]
    assert [(model["name"], model["active"], model["versions"], model["serving"]) for model in models] == [
        ("default", "1", ["1"], "1"),
        ("homes", "1", ["1"], None),
    ]


def test_one(client, store):
    train(TrainingSpec(), store, ignore)
    model = client.get("/models/default").json
    assert (model["active"], model["versions"], model["serving"], model["generation"]) == ("2", ["1", "2"], "1", 2)
    assert [(entry["version"], entry["reason"]) for entry in model["history"]] == [
        ("1", "trained on regression"),
        ("2", "trained on regression"),
    ]
    assert [feature["name"] for feature in model["features"]] == ["feature"]


def test_unknown(client):
    answer = client.get("/models/hommes")
    assert answer.status_code == 404 and "homes" in answer.json["detail"]
    for name in ("..", "%2e%2e", "A", "a" * 64, "a%00", "a%0a", "%EF%BC%A1", "a%2fb"):
        assert client.get(f"/models/{name}").status_code == 404


def test_an_empty_store(make_app, tmp_path):
    client = make_app(INSTANCE_PATH=tmp_path / "new").test_client()
    assert client.get("/models").json == {"models": []} and not (tmp_path / "new").exists()


def test_no_text_of_a_row_leaves(client, make_app, homes):
    for path in ("/models/homes", "/models", "/"):
        assert "case 1" not in homes.get(path).text
