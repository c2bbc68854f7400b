"""What schemathesis is told: what a schema cannot say of a body."""

import os
from contextlib import suppress

import schemathesis

KIND = os.environ.get("SCHEMATHESIS_BODIES")
"""The only media type of bodies that are sent; unset for all."""


@schemathesis.hook
def filter_case(context, case):
    """Whether the schema can tell good from bad: a number between two doubles is rounded before it is compared."""
    return case.media_type in (KIND or case.media_type, None) and all(map(_is_held, _leaves(case.body)))


def _leaves(value):
    if isinstance(value, dict | list):
        for within in value.values() if isinstance(value, dict) else value:
            yield from _leaves(within)
    else:
        yield value


def _is_held(value):
    """Whether a double holds the number, or it is none, or beyond all doubles."""
    with suppress(OverflowError):
        return not isinstance(value, int) or float(value) == value
    return True
