"""The shape of the source: small documented modules, and nothing dangerous."""

import ast

import pytest

from tests.support.packages import MODULES


def test_modules_stay_small():
    sizes = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    del sizes["flaskml.errors"]  # A flat list of classes, read by looking one up.
    assert max(sizes.values()) <= 300, max(sizes, key=sizes.get)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_everything_public_is_documented(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name}"
            methods = [item for item in getattr(node, "body", []) if isinstance(item, ast.FunctionDef)]
            for method in methods if isinstance(node, ast.ClassDef) else []:
                assert method.name.startswith("_") or ast.get_docstring(method), f"{module}.{node.name}.{method.name}"


def test_nothing_dangerous_is_called():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert name not in {"eval", "exec", "system", "popen"}, path
                assert not [word for word in node.keywords if word.arg == "shell"], path
