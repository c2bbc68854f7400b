"""A temporary folder that is missing or full: predictions do not need it, and an upload that does is refused (507)."""

import json

import pytest

from tests.support.sampling import sampled

pytestmark = pytest.mark.contract

FAULTS = {
    "missing": "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']",
    "full": "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))",
}
"""Statements that a server runs at its start. A file beyond the limit is refused as by a full disk."""

FILE = b"a,y\n" + b"1,2\n" * 129_000
"""A file that Werkzeug does not keep in memory, in a body that waitress does keep there (512 KiB)."""


@pytest.fixture(params=sampled(FAULTS, 2))
def server(serve, tmp_path, request):
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text(FAULTS[request.param])
    return serve(PYTHONPATH=str(tmp_path / "start"))


def send_form(server, path, file=None, **fields):
    """Send a multipart form, perhaps with a file; return the status and the JSON body."""
    parts = [(f'name="{name}"', text.encode()) for name, text in fields.items()]
    if file is not None:
        parts.append(('name="data"; filename="t.csv"', file))
    lines = [b"--f\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts]
    headers = {"Content-Type": "multipart/form-data; boundary=f"}
    status, _, content = server.request("POST", path, b"".join([*lines, b"--f--\r\n"]), headers)
    return status, json.loads(content)


def test_predictions_need_no_temporary_folder(server):
    assert send_form(server, "/predict", feature="0.5")[1]["prediction"] == pytest.approx(20.8956816)
    status, problem = send_form(server, "/predict", FILE, feature="0.5")
    assert status == 422 and '"data" is a file' in problem["detail"]
    assert server.json("POST", "/predict", [{"feature": 1.5}] * 9_000)[0] == 200
    assert send_form(server, "/models/default/active", FILE, version="1")[0] == 200


def test_an_upload_that_cannot_be_spooled_is_507(server):
    status, problem = send_form(server, "/train", FILE, target="y")
    assert (status, problem["title"]) == (507, "Storage failed")
    assert problem["detail"].startswith("The temporary folder cannot be written: ")
    assert "/nonexistent" not in problem["detail"]
    assert server.json("GET", "/jobs") == (200, {"jobs": []})
    assert "Traceback" not in server.log
