"""Template filters that format numbers and times."""

from __future__ import annotations

import datetime as dt


def short_number(bound: float | str) -> str:
    """Return a bound as text: a float with six significant digits and no trailing zeros."""
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound)


def time_ago(timestamp: str) -> str:
    """Return the age of an ISO 8601 timestamp in its largest unit ("3 days ago"). Other text is returned unchanged.

    A timestamp without an offset is UTC.
    """
    try:
        then = dt.datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    then = then if then.tzinfo else then.replace(tzinfo=dt.UTC)
    seconds = (dt.datetime.now(dt.UTC) - then).total_seconds()
    for unit, unit_seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= unit_seconds:
            count = int(seconds // unit_seconds)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return "just now"
