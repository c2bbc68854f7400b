"""How pages write numbers and moments."""

from __future__ import annotations

import datetime as dt


def short_number(bound: float | str) -> str:
    """A bound for people: a float in six digits, without the zeros that say nothing."""
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound)


def time_ago(moment: str) -> str:
    """How long ago a moment in ISO 8601 was, in its largest unit; what is none, as it stands."""
    try:
        then = dt.datetime.fromisoformat(moment)
    except ValueError:
        return moment
    then = then if then.tzinfo else then.replace(tzinfo=dt.UTC)
    seconds = (dt.datetime.now(dt.UTC) - then).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
