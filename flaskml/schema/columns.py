"""The columns of a table: the values of a feature in all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np


@dataclass(frozen=True, slots=True)
class CodedColumn:
    """Values of few kinds, such as categories: the distinct values, and the position of each row's value in them."""

    distinct: np.ndarray
    """Distinct values, an array of objects; None is null."""

    codes: np.ndarray
    """Shape (rows,)."""

    def __len__(self) -> int:
        return len(self.codes)

    def used(self) -> list[Any]:
        """Return the distinct values that rows have."""
        values: list[Any] = self.distinct[np.bincount(self.codes, minlength=len(self.distinct)) > 0].tolist()
        return values

    def tolist(self) -> list[Any]:
        """Return the value of each row."""
        values: list[Any] = self.distinct[self.codes].tolist()
        return values


Column: TypeAlias = "np.ndarray | CodedColumn | Sequence[Any]"
"""The values of a feature in all rows: an array of doubles for numbers and booleans, NaN for null; or values, which
may be coded, None for null."""

Columns: TypeAlias = Sequence[Column]
"""A column for each feature in schema order, all of one length."""
