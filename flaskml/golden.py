"""Golden rows: training rows with the answers that the estimator gave where it was trained.

They travel with a version. Whether it gives the same answers from another process, machine or library is measured by
replaying them, not believed from version numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flaskml.schema import Schema, Table, Value

GOLDEN_FILE = "golden.json"

ROWS_KEPT = 32
"""How many rows a version keeps, spread over the training table."""

RELATIVE = 1e-6
ABSOLUTE = 1e-9
"""How far a number may be off: libraries for other processors round otherwise, and no user would call that wrong."""


class Golden(BaseModel):
    """Rows in schema order, null for missing, and one answer to each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[Any, ...]

    def replay(self, schema: Schema, predict: Any) -> Difference | None:
        """The first row that `predict` answers otherwise, in one batch or alone; None if all answers are the same."""
        batch = plain(predict(schema.table(self.rows)))
        alone = [plain(predict(schema.table([row])))[0] for row in self.rows]
        for answers in (batch, alone):
            for index, (expected, answered) in enumerate(zip(self.answers, answers, strict=True)):
                if not same(expected, answered):
                    return Difference(row=index, expected=expected, answered=answered)
        return None


class Difference(BaseModel):
    """A golden row that was not answered as in training."""

    row: int
    expected: Any
    answered: Any


def record(table: Table, original: Any, predict: Any) -> Golden:
    """Golden rows of a training table, and what the estimator answers to them.

    `original` are the same rows as the estimator was given them; that `table` stands for them is part of what is tried.
    """
    count = len(table)
    chosen = np.unique(np.linspace(0, count - 1, min(count, ROWS_KEPT)).round().astype(int))
    part = _take(table, chosen)
    values = part.tolist() if isinstance(part, np.ndarray) else part.itertuples(index=False, name=None)
    rows = tuple(tuple(plain_value(value) for value in row) for row in values)
    return Golden(rows=rows, answers=tuple(plain(predict(_take(original, chosen)))))


def _take(table: Any, rows: np.ndarray) -> Any:
    return table.iloc[rows] if hasattr(table, "iloc") else np.asarray(table)[rows]


def plain(answers: Any) -> list[Any]:
    """Answers as JSON has them; a number that is not finite is null."""
    values = np.asarray(answers).tolist()
    return [plain_value(value) for value in values]


def plain_value(value: Any) -> Any:
    """A value as JSON has it: numpy's scalars by their value, NaN and its like as null."""
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def same(expected: Any, answered: Any) -> bool:
    """Whether two answers are the same: numbers nearly, labels exactly, lists item by item."""
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(answered, Sequence) or isinstance(answered, str) or len(expected) != len(answered):
            return False
        return all(same(one, other) for one, other in zip(expected, answered, strict=True))
    if isinstance(expected, float) and isinstance(answered, (int, float)) and not isinstance(answered, bool):
        return math.isclose(expected, answered, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(expected) is type(answered) and bool(expected == answered)
