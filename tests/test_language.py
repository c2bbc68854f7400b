"""Plain English in the field's own terms: openings, words, names and units.

The rules are for everything that people read: docstrings, comments, messages, pages, the README and docs/.
"""

import ast
import io
import re
import tokenize
from collections import defaultdict
from itertools import pairwise

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.packages import MODULES

UNPOLISHED = (
    "flaskml/codecs/csv_tables.py",
    "flaskml/training/",
)
"""Code that is about to be replaced; it was moved as it is."""

SOURCES = sorted(
    path.relative_to(CHECKOUT).as_posix()
    for path in MODULES.values()
    if not path.relative_to(CHECKOUT).as_posix().startswith(UNPOLISHED)
)
TEXTS = sorted(
    path.relative_to(CHECKOUT).as_posix()
    for path in [
        *CHECKOUT.glob("*.md"),
        *CHECKOUT.glob("docs/*.md"),
        *CHECKOUT.glob("flaskml/templates/*.html"),
        CHECKOUT / "setup.cfg",
    ]
)

BANNED_WORDS = re.compile(r"\b(whoever|nobody|somebody|anybody|everybody|told|untold)\b", re.IGNORECASE)
"""Subjects that are neither a part of the code nor the reader, and a word of the former dialect."""

BANNED_SUBJECTS = re.compile(r"(?:^|[.:;!?]\s+)(What|Who|Those who)\b(?! if\b)(?![^.]*\?)")
"""A sentence about something unnamed. A question may begin so."""

BANNED_PHRASES = re.compile(
    r"holds? the interpreter|interpreter lock|look at the door|says? no in time|is sent on\b|read differently"
    r"|holds? up (?:nobody|others|everybody)|\bof a name\b|\bother?wise than\b",
    re.IGNORECASE,
)
"""Paraphrases of terms that the field has: GIL, listening socket, load shedding, redirect, request smuggling."""

BANNED_OPENINGS = frozenset({"What", "Has", "Who", "Lets", "Where", "How", "Whether", "Why"})
"""First words that no docstring has."""

NOUN_OPENINGS = frozenset(
    {
        *("A", "All", "An", "Any", "As", "At", "By", "Each", "Every", "For", "From", "Here", "If", "In", "It", "Its"),
        *("Needs", "No", "Nothing", "Of", "On", "One", "Seconds", "So", "Something", "Such", "That", "The", "Their"),
        *("These", "They", "This", "Those", "To", "Which", "With"),
    }
)
"""First words that a docstring of a function does not have: it begins with a verb."""

TERMS = (
    *("atomic", "backpressure", "content negotiation", "copy-on-write", "event loop", "GIL", "graceful shutdown"),
    *("hot reload", "idempotent", "keep-alive", "latency", "load shedding", "request smuggling", "rolling restart"),
    *("slow client", "throughput", "warm-up", "readiness", "percentile", "race"),
)
"""Terms that a reader greps for."""

UNITS = re.compile(
    r"(BYTES|CHARACTERS|COLUMNS|DESCRIPTORS|DIGITS|FEATURES|FIELDS|LINES|MICROSECONDS|ROWS|SECONDS|VALUES)(_|\Z)"
)
MEASURED_NAMES = re.compile(
    r"(AGE|DEADLINE|DELAY|GRACE|INTERVAL|LARGE|LIMIT|MEMORY|PATIENCE|PAUSE|PERIOD|SIZE|TIME|TIMEOUT|WAIT)(_|\Z)"
)
MEASURED_DOCUMENTATION = re.compile(r"(Seconds|Bytes|Milliseconds|Microseconds)\b")


def sentences_of(source):
    """Yield (line, text) for every docstring, comment and message of Python source."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:|!)", token.string):
            yield token.start[0], re.sub(r"\s*#\s*(noqa|type: ignore).*", "", token.string.lstrip("# "))


def faults_in(text):
    """Return the banned words and phrases of a text, without what stands in code."""
    prose = re.sub(r"`[^`]*`", "``", text)
    return [m[0].strip() for rx in (BANNED_WORDS, BANNED_SUBJECTS, BANNED_PHRASES) for m in rx.finditer(prose)]


def documented(tree):
    """Yield (line, kind, docstring) of every module, class, property and function."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            names = {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])}
            is_function = isinstance(node, ast.FunctionDef) and not names & {"property", "cached_property"}
            yield getattr(node, "lineno", 1), "function" if is_function else "thing", text


def attribute_documentation(tree):
    """Yield (line, text) of every string that follows an assignment."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for before, after in pairwise(body if isinstance(body, list) else []):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(before, (ast.Assign, ast.AnnAssign)) and is_text and isinstance(after.value.value, str):
                yield after.lineno, after.value.value


def bad_openings_in(tree):
    """Return (line, text) of every docstring that begins with a banned word."""
    found = []
    for line, kind, text in [
        *documented(tree),
        *((line, "thing", text) for line, text in attribute_documentation(tree)),
    ]:
        first = re.match(r"[`\w-]*", text)[0]
        if first in BANNED_OPENINGS or (kind == "function" and first in NOUN_OPENINGS):
            found.append((line, text.splitlines()[0][:60]))
    return found


def missing_units_in(tree):
    """Return (line, name) of every constant of time or size without a unit."""
    return [
        (line, name)
        for line, name, text in constants(tree)
        if (MEASURED_NAMES.search(name) or MEASURED_DOCUMENTATION.match(text)) and not UNITS.search(name)
    ]


def public_names(tree):
    """Yield the public classes, functions and constants that a module defines."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name) and target.id[0].isupper()]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def constants(tree):
    """Yield (line, name, documentation) of every numeric constant of a module."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        name = getattr(targets[0], "id", "")
        value = getattr(node, "value", None)
        if re.fullmatch(r"_?[A-Z][A-Z0-9_]*", name) and value is not None and is_number(value):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            yield node.lineno, name, str(after.value.value) if is_text else ""


def is_number(node):
    allowed = (ast.Constant, ast.BinOp, ast.operator, ast.UnaryOp, ast.unaryop)
    is_arithmetic = all(isinstance(part, allowed) for part in ast.walk(node))
    return is_arithmetic and all(
        type(part.value) in (int, float) for part in ast.walk(node) if isinstance(part, ast.Constant)
    )


@pytest.mark.parametrize("file", SOURCES)
def test_source_avoids_banned_words(file):
    found = [(line, fault) for line, text in sentences_of((CHECKOUT / file).read_text()) for fault in faults_in(text)]
    assert not found


def test_tests_avoid_banned_words():
    found = []
    for path in sorted((CHECKOUT / "tests").rglob("*.py")):
        if path.name != "test_language.py":
            source, file = path.read_text(), path.relative_to(CHECKOUT).as_posix()
            found += [(file, line, fault) for line, text in sentences_of(source) for fault in faults_in(text)]
            openings = ((line, re.match(r"[`\w-]*", text)[0]) for line, _, text in documented(ast.parse(source)))
            found += [(file, line, first) for line, first in openings if first in BANNED_OPENINGS]
    assert not found


@pytest.mark.parametrize("file", TEXTS)
def test_texts_avoid_banned_words(file):
    text = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), (CHECKOUT / file).read_text(), flags=re.DOTALL)
    found = [(number, fault) for number, line in enumerate(text.splitlines(), 1) for fault in faults_in(line)]
    assert not found


@pytest.mark.parametrize("file", SOURCES)
def test_docstrings_begin_with_a_verb_or_name_the_thing(file):
    assert not bad_openings_in(ast.parse((CHECKOUT / file).read_text()))


@pytest.mark.parametrize("file", SOURCES)
def test_constants_of_time_or_size_name_their_unit(file):
    assert not missing_units_in(ast.parse((CHECKOUT / file).read_text()))


def test_a_public_name_is_defined_in_one_module():
    homes = defaultdict(list)
    for module, path in MODULES.items():
        for name in public_names(ast.parse(path.read_text())):
            homes[name].append(module)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("term", TERMS)
def test_a_reader_finds_the_term(term):
    files = [*MODULES.values(), *CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]
    pattern = re.compile(rf"\b{term}", re.IGNORECASE if term.islower() else 0)
    assert any(pattern.search(" ".join(file.read_text().split())) for file in files)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""Closes it. Who waits is answered."""', 1),
        ("x = 'nobody waits for it'", 1),
        ("y = 1  # whoever asks gets it", 1),
        ('"""Return the reason."""', 0),
        ("z = 'What does it cost?'", 0),
    ],
)
def test_the_check_finds_faults(source, count):
    assert len([fault for _, text in sentences_of(source) for fault in faults_in(text)]) == count


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (bad_openings_in, 'def f():\n    """Whether it is."""', 'def f():\n    """Return whether it is."""'),
        (bad_openings_in, 'def f():\n    """The sum."""', 'class F:\n    """The sum."""'),
        (bad_openings_in, 'A = 1\n"""How much."""', 'A = 1\n"""The amount."""'),
        (missing_units_in, "PATIENCE = 600", "PATIENCE_SECONDS = 600"),
        (missing_units_in, "LARGE = 16 * 2**20", "LARGE_BYTES = 16 * 2**20"),
        (missing_units_in, 'FIRST = 0.5\n"""Seconds to wait."""', 'FIRST_SECONDS = 0.5\n"""Seconds to wait."""'),
    ],
)
def test_the_checks_find_planted_faults(check, bad, good):
    assert len(check(ast.parse(bad))) == 1 and not check(ast.parse(good))


def test_public_names_are_found():
    source = "class A: ...\ndef b(): ...\nC: int = 1\n_D = 2\ne = 3\n"
    assert list(public_names(ast.parse(source))) == ["A", "b", "C"]
