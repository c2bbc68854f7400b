"""Format numbers of the files on disk, and the numbers that this code can read.

Raise a number when a reader of the old format could not read, or would misread, a new file. Readers refuse unknown
fields, so a new field needs a new number. Then:

- keep the old number readable: convert in memory, never on disk;
- add a stored file of the old format to the tests, which must continue to load it.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

MANIFEST_FORMAT = 1
"""The format number that is written to `manifest.json`; it covers the version's folder too."""

STATE_FORMAT = 1
"""The format number that is written to `state.json`."""

_READABLE_MANIFESTS = frozenset({1})
_READABLE_STATES = frozenset({1})


def _readable(numbers: frozenset[int]) -> AfterValidator:
    def check(number: int) -> int:
        if number not in numbers:
            raise ValueError(f"format {number} is not readable here; install the version of flaskml that wrote it")
        return number

    return AfterValidator(check)


ManifestFormat: TypeAlias = Annotated[int, Field(strict=True), _readable(_READABLE_MANIFESTS)]
StateFormat: TypeAlias = Annotated[int, Field(strict=True), _readable(_READABLE_STATES)]
