"""The ladder of packages: each imports only from those above it in the list."""

from graphlib import TopologicalSorter

from tests.support.packages import MODULES, PACKAGES, module_imports, package_imports, package_of

MOST_PACKAGE_PAIRS = 80
"""Pairs of packages (or modules at the root) where one imports the other; 16 of them could form 120 pairs."""


def test_every_package_is_in_the_list():
    assert {package_of(module) for module in MODULES} == set(PACKAGES)


def test_a_package_imports_only_from_those_above_it():
    order = list(PACKAGES)
    pairs = {(one, other) for one, other in module_imports() if package_of(one) != package_of(other)}
    assert not {p for p in pairs if order.index(package_of(p[0])) < order.index(package_of(p[1]))}


def test_there_are_no_circular_imports():
    graph = {module: set() for module in MODULES}
    for module, imported in module_imports():
        graph[module].add(imported)
    TopologicalSorter(graph).prepare()


def test_package_dependencies_are_limited():
    assert len(package_imports()) <= MOST_PACKAGE_PAIRS
