"""The packages of flaskml in their order, the imports between them, and the picture in docs/architecture.md.

`python -m tests.support.packages` writes the picture and the list of modules into docs/architecture.md.
"""

import ast
import re
from functools import cache

from tests.support.checkout import CHECKOUT

PACKAGES = {
    "errors": "every error",
    "settings": "the table of settings",
    "child_process": "child processes with limits",
    "schema": "the features an estimator takes",
    "codecs": "bytes to rows, answers to bytes",
    "store": "versions on disk",
    "runtimes": "the code that computes predictions",
    "inference": "one version in memory",
    "publishing": "an estimator becomes a version",
    "server": "flask serve",
    "hot_reload": "processes follow the store",
    "training": "a table becomes a version",
    "web": "the parts that all blueprints share",
    "blueprints": "the routes, one blueprint each",
    "__init__": "create_app()",
    "cli": "the commands",
}
"""A package, or a module at the root, imports only from those above it."""

MODULES = {
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((CHECKOUT / "flaskml").rglob("*.py"))
}
"""The file of each module, by its dotted name."""


def package_of(module):
    """Return the entry of `PACKAGES` that the module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def imports_of(path):
    """Return the modules that a file imports, `flaskml.a.b` for `from flaskml.a import b` where b is a module.

    Imports for type checkers count: they say what the code knows.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found


@cache
def module_imports():
    """Return the set of pairs (module, imported module) within flaskml."""
    return {
        (module, imported)
        for module, path in MODULES.items()
        for imported in imports_of(path)
        if imported in MODULES and imported != module
    }


def package_imports():
    """Return the set of pairs (package, imported package)."""
    pairs = {(package_of(module), package_of(imported)) for module, imported in module_imports()}
    return {(package, imported) for package, imported in pairs if package != imported}


def direct_imports():
    """Return the transitive reduction of `package_imports`: without the pairs that a longer path implies."""
    pairs = package_imports()

    def reaches(start, goal):
        return any(after == goal or reaches(after, goal) for before, after in pairs if before == start)

    return {
        (package, imported)
        for package, imported in pairs
        if not any(reaches(other, imported) for before, other in pairs if before == package and other != imported)
    }


def mermaid():
    """Return the packages as a Mermaid flowchart, an arrow from each to those that it builds on directly."""
    order = list(PACKAGES)
    lines = ["flowchart TD"]
    lines += [f'    {name.strip("_")}["<b>{name}</b><br>{text}"]' for name, text in PACKAGES.items()]
    pairs = sorted(direct_imports(), key=lambda pair: [order.index(name) for name in pair])
    lines += [f"    {package.strip('_')} --> {imported.strip('_')}" for package, imported in pairs]
    return "\n".join(lines)


def module_list():
    """Return a Markdown table for each package: its modules, the first lines of their docstrings, and their names."""
    tables = []
    for package, text in PACKAGES.items():
        modules = {module: path for module, path in MODULES.items() if package_of(module) == package}
        files = {path.relative_to(CHECKOUT / "flaskml").as_posix(): path for path in modules.values()}
        rows = [
            f"| `{file}` | {summary(path)} | {', '.join(f'`{name}`' for name in public_definitions(path))} |"
            for file, path in files.items()
            if has_code(path)
        ]
        tables.append("\n".join([f"| {package} | {text} | defines |", "|---|---|---|", *rows]))
    return "\n\n".join(tables)


def has_code(path):
    """Return whether a module holds more than its docstring."""
    return len(ast.parse(path.read_text()).body) > 1


def public_definitions(path):
    """Return the public classes and functions that a module defines."""
    nodes = ast.parse(path.read_text()).body
    names = [node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    return [name for name in names if not name.startswith("_")]


def summary(path):
    """Return the first line of a module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]


def with_generated_parts(text):
    """Return the text of docs/architecture.md with its generated parts made anew."""
    parts = {"packages": f"```mermaid\n{mermaid()}\n```", "modules": module_list()}
    for name, content in parts.items():
        pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda found, new=content: f"{found[1]}{new}\n{found[2]}", text, flags=re.DOTALL)
    return text


ARCHITECTURE = CHECKOUT / "docs/architecture.md"

if __name__ == "__main__":
    ARCHITECTURE.write_text(with_generated_parts(ARCHITECTURE.read_text()))
