"""Imports stay light, and only packages from web on import Flask."""

from shutil import rmtree

import pytest

from tests.support.checkout import run_python
from tests.support.packages import MODULES, PACKAGES, imports_of, package_of

HEAVY_LIBRARIES = ("sklearn", "pandas", "scipy", "flask", "numpy")


def heavy_imports_of(code):
    names = run_python(f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})")
    return set(names.split()) & set(HEAVY_LIBRARIES)


def test_importing_the_package_loads_no_heavy_library():
    assert heavy_imports_of("import flaskml") == set()


def test_importing_the_commands_loads_only_flask():
    assert heavy_imports_of("import flaskml.cli") <= {"flask"}


@pytest.mark.parametrize("arguments", [["train"], ["predict", "rows.csv"]])
def test_training_and_scoring_from_a_shell_import_no_web_package(instance, tmp_path, arguments):
    (tmp_path / "rows.csv").write_text("feature\n0.5\n")
    code = """
import os, sys
from click.testing import CliRunner
from flaskml.cli.predict import predict_command
from flaskml.cli.train import train_command
os.chdir(sys.argv[1])
command = {"train": train_command, "predict": predict_command}[sys.argv[2]]
result = CliRunner().invoke(command, sys.argv[3:])
assert result.exit_code == 0, result.output
print(sum(name.startswith(("flaskml.web", "flaskml.blueprints")) for name in sys.modules))
"""
    assert run_python(code, tmp_path, *arguments, FLASKML_INSTANCE_PATH=str(instance)) == "0\n"


def test_a_numeric_model_needs_no_pandas(instance):
    rmtree(instance / "models/homes")
    code = """
import sys
class NoPandas:  # Without it, scikit-learn itself imports an installed pandas.
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, NoPandas())
from flaskml import create_app
app = create_app({"INSTANCE_PATH": sys.argv[1]})
print(app.test_client().post("/predict", json={"feature": 1}).status_code)
"""
    assert run_python(code, instance) == "200\n"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_packages_before_web_do_not_import_flask(module):
    frameworks = {imported.split(".")[0] for imported in imports_of(MODULES[module])} & {"flask", "werkzeug", "click"}
    order = list(PACKAGES)
    assert not frameworks or order.index(package_of(module)) >= order.index("web")
