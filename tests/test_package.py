"""The wheel and the sdist work outside the checkout."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.server_processes import Server


def run(*command, **options):
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and an sdist, built from the files that git tracks."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    files = run("git", "ls-files", "-z", cwd=CHECKOUT).split("\0")
    for name in filter(None, files):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source)
    return target


def test_the_archives_hold_the_package_files(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"flaskml/py.typed", "flaskml/templates/index.html", "flaskml/static/style.css"} <= names
    assert not [name for name in names if name.startswith(("tests/", "instance/"))]
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "flaskml/templates/index.html"} <= names


@pytest.fixture(scope="module")
def python(built, tmp_path_factory):
    """The interpreter of a virtual environment with the wheel, which shares the dependencies of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    interpreter = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", interpreter, "install", "--no-index", "--no-deps", wheel)
    purelib = run(interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    import flask

    (Path(purelib) / "dependencies.pth").write_text(str(Path(flask.__file__).parent.parent))
    return interpreter


def test_the_wheel_trains_and_serves_in_an_empty_directory(python, tmp_path):
    imported_file = run(python, "-c", "import flaskml; print(flaskml.__file__)", cwd=tmp_path)
    assert str(CHECKOUT) not in imported_file
    output = run(python, "-m", "flask", "train", cwd=tmp_path)
    assert "stored     instance/models/default/1" in output
    assert "next       waitress-serve --call flaskml:create_app" in output
    command = [python, "-m", "waitress", "--listen=127.0.0.1:0", "--call", "flaskml:create_app"]
    server = Server(command, cwd=tmp_path)
    try:
        assert server.json("POST", "/predict", {"feature": 0.5})[1]["version"] == "1"
        assert b"<form" in server.request("GET", "/")[2]
        assert server.request("GET", "/static/style.css")[0] == 200
    finally:
        server.stop()
