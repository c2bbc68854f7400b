"""The numbers of the on-disk formats, and which of them this code reads.

Raise a number when a reader of the old one would misread a new file. Then:

- keep the old number readable: convert in memory, never on disk;
- add a stored file of the old format to the tests, which must go on loading.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator

MANIFEST_FORMAT = 1
"""The format of `manifest.json` and of the version's folder that is written."""

STATE_FORMAT = 1
"""The format of `state.json` that is written."""

_READABLE_MANIFESTS = frozenset({1})
_READABLE_STATES = frozenset({1})


def _readable(numbers: frozenset[int]) -> AfterValidator:
    def check(number: int) -> int:
        if number not in numbers:
            raise ValueError(f"format {number} is not readable here; install the version of flaskml that wrote it")
        return number

    return AfterValidator(check)


ManifestFormat: TypeAlias = Annotated[int, _readable(_READABLE_MANIFESTS)]
StateFormat: TypeAlias = Annotated[int, _readable(_READABLE_STATES)]
