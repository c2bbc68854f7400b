"""What schemathesis is told: what a schema cannot say of a body."""

from contextlib import suppress

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """Whether a schema can tell good from bad: it says what JSON may be, but not what CSV and arrays may be.

    Nor can it of a whole number between two doubles: it is rounded before it is compared with a bound.
    """
    return case.media_type not in ("text/csv", "application/x-npy") and all(map(_is_held, _leaves(case.body)))


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
