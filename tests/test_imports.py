"""What an import costs, and which packages may import Flask."""

from shutil import rmtree

import pytest

from tests.support.checkout import run_python
from tests.support.packages import MODULES, PACKAGES, imports_of, package_of

HEAVY = ("sklearn", "pandas", "scipy", "flask", "numpy")


def loaded(code):
    names = run_python(f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})")
    return set(names.split()) & set(HEAVY)


def test_the_package_alone_is_light():
    assert loaded("import flaskml") == set()


def test_the_commands_are_light_until_one_runs():
    assert loaded("import flaskml.cli") <= {"flask"}


def test_a_model_of_numbers_needs_no_pandas(instance):
    rmtree(instance / "models/homes")
    code = """
import sys
class NoPandas:  # scikit-learn itself imports one that is there.
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
def test_only_the_web_and_what_builds_on_it_imports_flask(module):
    used = {imported.split(".")[0] for imported in imports_of(MODULES[module])} & {"flask", "werkzeug", "click"}
    order = list(PACKAGES)
    assert not used or order.index(package_of(module)) >= order.index("web")
