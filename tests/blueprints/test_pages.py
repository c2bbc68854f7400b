"""The page with the form."""

import re


def test_the_form_is_made_from_the_schema(homes):
    page = homes.get("/").text
    assert re.search(r'<input [^>]*name="age" type="number" step="any"\s+min="[\d.]+" max="[\d.]+"', page)
    assert re.search(r'<input [^>]*name="rooms" type="number" step="1"', page)
    assert re.search(r'<select [^>]*name="home city"', page)
    assert '<option value="São Paulo">São Paulo</option>' in page
    assert page.count("<label for=") == 5 and "may be left empty" in page
    assert "homes" in page and "Version 1" in page and "accuracy" in page


def test_what_the_page_offers_is_accepted(homes):
    page = homes.get("/").text
    fields = dict(re.findall(r'<input [^>]*name="([^"]+)"[^>]*?value="([^"]*)"', page, re.DOTALL))
    for name, options in re.findall(r'<select [^>]*name="([^"]+)".*?>(.*?)</select>', page, re.DOTALL):
        fields[name] = re.findall(r'<option value="([^"]*)" selected>', options)[0]
    assert homes.post("/predict", data=fields).status_code == 200


def test_without_a_model(make_app):
    answer = make_app(MODEL_NAME="absent").test_client().get("/")
    assert answer.status_code == 503 and "flask train --name absent" in answer.text and "default, homes" in answer.text


def test_pages_are_small(homes):
    with homes.get("/") as page, homes.get("/static/style.css") as style:
        assert len(page.data) + len(style.data) < 30_000
