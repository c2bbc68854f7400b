"""docs/architecture.md is true."""

import re

from tests.support.packages import ARCHITECTURE, CHECKOUT, with_generated_parts

TEXT = ARCHITECTURE.read_text()


def test_the_generated_parts_are_up_to_date():
    assert {"packages", "modules"} == set(re.findall(r"<!-- generated: (\w+) -->", TEXT)) and TEXT.count(
        "<!-- end -->"
    ) == 2
    assert with_generated_parts(TEXT) == TEXT, "run python -m tests.support.packages"


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT))
    roots = (CHECKOUT / "flaskml", CHECKOUT)
    missing = {name for name in named if not any((root / name).is_file() for root in roots)}
    assert len(named) > 20 and not missing
