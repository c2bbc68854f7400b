"""Samples of long lists of cases: CI runs a part of them, the gauntlet all."""

import pytest


def sampled(cases, every):
    """Return cases as parameters. Each `every`-th runs always, the others with `-m gauntlet`.

    A case that is a tuple is one set of arguments.
    """
    marks = pytest.mark.gauntlet
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks if number % every else ())
        for number, case in enumerate(cases)
    ]
