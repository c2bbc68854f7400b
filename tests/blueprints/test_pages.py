"""The pages: the prediction form, content negotiation, and the history of a model."""

import datetime as dt
import json
import re
from html.parser import HTMLParser

import pytest
from werkzeug.test import Client

from flaskml import create_app
from tests.support.sample_tables import OWN, cases, tables_store  # noqa: F401 - fixtures
from tests.support.stores import stop

pytestmark = pytest.mark.contract


class Form(HTMLParser):
    """The fields that a browser sends for the last form of a page, without any input."""

    def __init__(self, page):
        super().__init__()
        self.fields = {}
        self._select_name = None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.fields = {}
        elif tag == "input":
            self.fields[attributes["name"]] = attributes["value"]
        elif tag == "select":
            self._select_name = attributes["name"]
        elif tag == "option" and (self._select_name not in self.fields or "selected" in attributes):
            self.fields[self._select_name] = attributes["value"]

    def encoded(self):
        """Return the fields with newlines in names as browsers send them: CR LF."""
        return {re.sub("\r?\n", "\r\n", name): value for name, value in self.fields.items()}


def test_the_form_has_a_field_for_each_feature(homes):
    page = homes.get("/").text
    assert re.search(r'<input [^>]*name="age" type="number" step="any"\s+min="[\d.]+" max="[\d.]+"', page)
    assert re.search(r'<input [^>]*name="rooms" type="number" step="1"', page)
    assert re.search(r'<select [^>]*name="home city"', page)
    assert '<option value="São Paulo">São Paulo</option>' in page
    assert page.count('<label for="field-') == 5 and "may be left empty" in page
    assert "homes" in page and "Version 1" in page and "accuracy" in page
    assert "just now" in page or "ago" in page


def test_the_preset_values_are_accepted(homes):
    page = homes.get("/").text
    fields = dict(re.findall(r'<input [^>]*name="([^"]+)"[^>]*?value="([^"]*)"', page, re.DOTALL))
    for name, options in re.findall(r'<select [^>]*name="([^"]+)".*?>(.*?)</select>', page, re.DOTALL):
        if name == "model":
            continue
        fields[name] = re.findall(r'<option value="([^"]*)" selected>', options)[0]
    assert homes.post("/predict", data=fields).status_code == 200


def test_the_preset_values_of_every_table_are_accepted(tables_store):  # noqa: F811
    app = create_app({"INSTANCE_PATH": tables_store.instance_path, "MODEL_NAME": "iris"})
    try:
        client = app.test_client()
        for name in [make.__name__ for make in OWN]:
            form = Form(client.get(f"/?model={name}").text)
            assert list(form.fields) == list(tables_store.manifest(name, "1").schema_.names)
            answer = client.post(f"/models/{name}/predict", data=form.encoded(), headers={"Accept": "text/html"})
            assert answer.status_code == 200 and "<output>" in answer.text, answer.text
            assert Form(answer.text).fields == form.fields
    finally:
        stop(app)


def test_a_value_outside_the_training_range_gives_a_warning(homes, home):
    answer = homes.post("/predict", data={**home, "age": 400}, headers={"Accept": "text/html"})
    assert answer.status_code == 200 and "is outside the range of the training data" in answer.text


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}

JAVA = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
"""The default Accept header of Java's HttpURLConnection."""


def test_a_json_request_gets_json_whatever_it_accepts(homes):
    answer = homes.post("/predict", json={"age": "x"}, headers={"Accept": JAVA})
    assert answer.status_code == 422 and answer.mimetype == "application/problem+json"
    answer = homes.put("/models/homes/active", json={"version": "1"}, headers={"Accept": JAVA})
    assert answer.status_code == 200 and answer.json["active"] == "1"


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        ("application/json; charset=utf-8, text/html;q=0.1", "application/json"),
        ("text/html; charset=utf-8, application/json;q=0.9", "text/html"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("Text/HTML, application/json;q=0.5", "text/html"),
        ("application/json;q=0, */*", "text/html"),
    ],
)
def test_the_accept_header_selects_page_or_json(homes, accepted, kind):
    assert homes.get("/models", headers={"Accept": accepted}).mimetype == kind


def test_negotiated_answers_vary_by_accept(homes):
    for path in ("/nowhere", "/models/nowhere", "/models", "/jobs"):
        for kind in ("text/html", "application/json"):
            assert "Accept" in homes.get(path, headers={"Accept": kind}).headers["Vary"], (path, kind)


def test_redirects_keep_the_path_prefix(make_app):
    client = Client(make_app())
    prefix = {"SCRIPT_NAME": "/ml", "REMOTE_ADDR": "127.0.0.1"}
    data = {"version": "1"}
    answer = client.post("/models/homes/active", data=data, headers=BROWSER, environ_overrides=prefix)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/ml/models/homes")


def test_a_damaged_state_still_shows_the_manifest(homes, instance):
    (instance / "models/homes/state.json").write_text("{")
    for kind in ("text/html", "application/json"):
        assert homes.get("/models/homes/versions/1", headers={"Accept": kind}).status_code == 200


def shown_time(homes, instance, timestamp):
    """Return the text that the history shows for an activation at `timestamp`."""
    state = instance / "models/homes/state.json"
    document = json.loads(state.read_text())
    document["history"][0]["at"] = timestamp
    state.write_text(json.dumps(document))
    answer = homes.get("/models/homes", headers=BROWSER)
    assert answer.status_code == 200
    return re.search(f'<time datetime="{re.escape(timestamp)}">([^<]*)</time>', answer.text)[1]


def test_an_invalid_timestamp_is_shown_unchanged(homes, instance):
    assert shown_time(homes, instance, "long ago") == "long ago"


def test_a_timestamp_without_offset_is_utc(homes, instance):
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    assert shown_time(homes, instance, (now - dt.timedelta(hours=5, minutes=30)).isoformat()) == "5 hours ago"
    assert shown_time(homes, instance, (now - dt.timedelta(days=1, hours=1)).isoformat()) == "1 day ago"


def test_without_a_model_the_page_shows_how_to_train_one(make_app):
    answer = make_app(MODEL_NAME="absent").test_client().get("/")
    assert answer.status_code == 503 and "flask train --name absent" in answer.text and "default, homes" in answer.text
    assert "<h1>No model</h1>" in answer.text and ">Train a model</a>" in answer.text


def test_pages_are_small(homes):
    with homes.get("/") as page, homes.get("/static/style.css") as style:
        assert len(page.data) + len(style.data) < 30_000
