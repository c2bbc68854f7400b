"""The staircase: a module imports only from lower steps, and only the upper ones know Flask."""

import ast

import pytest

from tests.conftest import CHECKOUT

STEPS = {
    "flaskml.errors": 0,
    "flaskml.settings": 1,
    "flaskml.store.disk": 1,
    "flaskml.child_process": 1,
    "flaskml.schema.features": 1,
    "flaskml.server.start_line": 2,
    "flaskml.server.deadlines": 1.8,
    "flaskml.server.policy": 1.9,
    "flaskml.server.supervisor": 2,
    "flaskml.server.error_responses": 1.9,
    "flaskml.server.http_validation": 2,
    "flaskml.server.http_parser": 2.1,
    "flaskml.server.wsgi_task": 2,
    "flaskml.server.greenlets": 2,
    "flaskml.server.connection": 2.2,
    "flaskml.server.loop": 2.3,
    "flaskml.server": 2.4,
    "flaskml.store.state": 1,
    "flaskml.store.permissions": 1,
    "flaskml.store.signing": 2,
    "flaskml.store.golden_rows": 2,
    "flaskml.schema.tables": 1.5,
    "flaskml.schema.from_sample": 2,
    "flaskml.schema.corrections": 2,
    "flaskml.codecs.answers": 1.6,
    "flaskml.inference.batching": 1.7,
    "flaskml.codecs.range_warnings": 3.1,
    "flaskml.codecs.validation_report": 2,
    "flaskml.codecs.text_values": 2,
    "flaskml.codecs.npy": 2,
    "flaskml.codecs.parser": 3,
    "flaskml.inference.warmup": 3.1,
    "flaskml.store.manifest": 4,
    "flaskml.hot_reload.roster": 4,
    "flaskml.web.template_filters": 1,
    "flaskml.web.json_schema": 3.1,
    "flaskml.web.openapi": 4.1,
    "flaskml.runtimes.base": 4,
    "flaskml.runtimes.onnx_export.graph_writer": 4,
    "flaskml.runtimes.onnx_export.trees": 4.1,
    "flaskml.runtimes.onnx_export.linear": 4.1,
    "flaskml.runtimes.onnx": 5,
    "flaskml.runtimes.sklearn": 4.5,
    "flaskml.runtimes.onnx_export.conversion": 5.1,
    "flaskml.runtimes.onnx_import": 5.2,
    "flaskml.runtimes": 5.3,
    "flaskml.store.version_folder": 4.5,
    "flaskml.store.model_store": 5,
    "flaskml.inference.predictor": 6,
    "flaskml.publishing.inspection": 6,
    "flaskml.publishing.trial": 6.1,
    "flaskml.runtimes.equivalence": 2.1,
    "flaskml.runtimes.selection": 6.1,
    "flaskml.inference.file_scoring": 7,
    "flaskml.hot_reload.registry": 7,
    "flaskml.publishing.publish": 7,
    "flaskml.publishing.importers": 8,
    "flaskml.training": 2,
    "flaskml.training.datasets": 2,
    "flaskml.training.estimators": 5,
    "flaskml.training.columns": 5,
    "flaskml.training.trainer": 8,
    "flaskml.training.messages": 8.1,
    "flaskml.training.__main__": 8.2,
    "flaskml.training.job_table": 8.2,
    "flaskml.training.jobs": 8.3,
    "flaskml.web.access": 9.05,
    "flaskml.web.lean": 9,
    "flaskml.web.negotiation": 9,
    "flaskml.web.setup": 9.1,
    "flaskml.blueprints": 10.1,
    "flaskml.cli": 10,
    "flaskml.cli.train": 10.1,
    "flaskml.cli.models": 10.1,
    "flaskml.cli.predict": 10.1,
    "flaskml.cli.serve": 13,
    "flaskml": 12,
}
"""The step of each module; one that is not named stands where its package does, a blueprint's file at 10."""

FLASK_FROM = 9
"""The first step that may import Flask or Werkzeug."""

PACKAGE = CHECKOUT / "flaskml"
MODULES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def step(module):
    if module.startswith("flaskml.blueprints."):
        return 10
    while module not in STEPS:
        module = module.rpartition(".")[0]
    return STEPS[module]


def imports(path):
    """What a file imports when it runs; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_lower_steps(module):
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] == "flaskml":
            assert step(imported) < step(module), f"{module} imports {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_lower_steps_do_not_know_flask(module):
    used = {imported.split(".")[0] for imported in imports(MODULES[module])} & {"flask", "werkzeug", "click"}
    assert not used or step(module) >= FLASK_FROM


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
