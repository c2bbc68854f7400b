"""Regular expressions for ISO 8601 dates and times in requests, valid in Python and in JSON Schema."""

from __future__ import annotations

_DATE = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"

DATETIME_PATTERN = f"{_DATE}([T ]{_TIME})?"
"""A date, or a date and a time."""

UTC_OFFSET_PATTERN = r"(Z|[+-][0-9]{2}:[0-5][0-9])"
"""An offset from UTC."""
