"""Functions that stored pipelines call, such as the one that takes dates apart.

A pickled pipeline names each function by its module path, so this module never moves, and a function in it never
changes its result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def date_parts(frame: pd.DataFrame) -> np.ndarray:
    """Four numbers for each datetime of a frame, NaN for a missing one: shape (rows, 4 * columns).

    They are seconds since 1970, the month, the day of the week and the hour, which models can compute with. Stored
    models name this function by its place: it stays here, and goes on returning the same.
    """
    parts = []
    for _, column in frame.items():
        moments = column.dt
        parts += [_seconds(column), moments.month, moments.day_of_week, moments.hour]
    return np.column_stack([np.asarray(part, dtype=np.float64) for part in parts])


def _seconds(column: pd.Series) -> pd.Series:
    """Seconds since 1970 in UTC."""
    import pandas as pd

    return (column - pd.Timestamp(0, tz="UTC" if column.dt.tz else None)).dt.total_seconds()
