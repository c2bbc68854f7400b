"""The packages of flaskml in their order, the imports between them, and the picture in docs/architecture.md.

`python -m tests.support.packages` prints the picture.
"""

import ast
from functools import cache
from itertools import pairwise

from tests.support.checkout import CHECKOUT

PACKAGES = {
    "errors": "every error",
    "settings": "the table of settings",
    "child_process": "child processes with limits",
    "schema": "the features an estimator takes",
    "codecs": "bytes to rows, answers to bytes",
    "store": "versions on disk",
    "runtimes": "what computes",
    "inference": "one version in memory",
    "publishing": "an estimator becomes a version",
    "server": "flask serve",
    "hot_reload": "processes follow the store",
    "training": "a table becomes a version",
    "web": "what the blueprints share",
    "blueprints": "the doors",
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


def mermaid():
    """Return the ladder of packages as a Mermaid flowchart: the order, and the direct imports that skip no step."""
    lines = ["flowchart TD"]
    lines += [f'    {name.strip("_")}["<b>{name}</b><br>{text}"]' for name, text in PACKAGES.items()]
    lines += [f"    {above.strip('_')} --> {below.strip('_')}" for above, below in pairwise(PACKAGES)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())
