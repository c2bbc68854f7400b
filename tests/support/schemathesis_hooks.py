"""Hooks of schemathesis: skip the generated bodies that a JSON Schema cannot classify."""

import os
from contextlib import suppress

import schemathesis

MEDIA_TYPE = os.environ.get("SCHEMATHESIS_BODIES")
"""The only media type of the generated bodies; None for all."""


@schemathesis.hook
def filter_case(context, case):
    """Return whether to send the case. A float64 bound cannot classify an integer that no float64 holds."""
    return case.media_type in (MEDIA_TYPE or case.media_type, None) and all(map(_is_exact, _leaves(case.body)))


def _leaves(value):
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _is_exact(value):
    """Return whether a float64 holds the integer exactly. Other values and integers beyond float64 count as exact."""
    with suppress(OverflowError):
        return not isinstance(value, int) or float(value) == value
    return True
