"""Golden rows: training rows with the answers that the estimator gave where it was trained.

They travel with a version. Whether it gives the same answers from another process, machine or library is measured by
replaying them, not believed from version numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flaskml.schema.features import Schema, Table, Value
from flaskml.schema.tables import TableMaker, plain_rows, plain_value

GOLDEN_FILE = "golden.json"

ROWS_KEPT = 32
"""How many rows a version keeps, spread over the training table."""

RELATIVE = 1e-6
ABSOLUTE = 1e-9
"""How far a number may be off: as a share of itself, or of the largest answer, beside which it may be rounding alone.

Libraries for other processors round otherwise, and no user would call that wrong.
"""


class Golden(BaseModel):
    """Rows in schema order, null for missing, and one answer to each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[Any, ...]

    def replay(self, schema: Schema, predict: Any) -> Difference | None:
        """The first row that `predict` answers otherwise, in one batch or alone; None if all answers are the same."""
        maker, absolute = TableMaker(schema), ABSOLUTE * largest(self.answers)
        batch = plain(predict(maker.table(self.rows)))
        alone = [plain(predict(maker.table([row])))[0] for row in self.rows]
        for answers, is_alone in ((batch, False), (alone, True)):
            for index, (expected, answered) in enumerate(zip(self.answers, answers, strict=True)):
                if not same(expected, answered, absolute):
                    return Difference(row=index, expected=expected, answered=answered, alone=is_alone)
        return None


class Difference(BaseModel):
    """A golden row that was not answered as in training."""

    row: int
    expected: Any
    answered: Any
    alone: bool = False
    """Whether it was answered alone, and in a batch as expected."""


def record(schema: Schema, table: Table, predict: Any) -> Golden:
    """Golden rows of a table that the estimator takes, and what it answers to them.

    The rows are kept as requests would send them; that they become the same table again is part of what is tried.
    """
    part = some_rows(table)
    return Golden(rows=tuple(plain_rows(schema, part)), answers=tuple(plain(predict(part))))


def some_rows(table: Any, most: int = ROWS_KEPT) -> Any:
    """A few dozen rows of a table, or `most`, from the first to the last."""
    count = len(table)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    return table.iloc[chosen] if hasattr(table, "iloc") else table[chosen]


def plain(answers: Any) -> list[Any]:
    """Answers as JSON has them; a number that is not finite is null."""
    return [_plain(value) for value in (answers.tolist() if isinstance(answers, np.ndarray) else answers)]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    value = plain_value(value)
    return None if isinstance(value, float) and math.isinf(value) else value


def largest(answer: Any) -> float:
    """The largest magnitude of the numbers in an answer."""
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return max(map(largest, answer), default=0.0)
    return abs(answer) if isinstance(answer, float) else 0.0


def same(expected: Any, answered: Any, absolute: float = 0.0, relative: float = RELATIVE) -> bool:
    """Whether two answers are the same: numbers nearly, labels exactly, lists and objects item by item."""
    if isinstance(expected, Mapping) and isinstance(answered, Mapping):
        return list(expected) == list(answered) and same(
            list(expected.values()), list(answered.values()), absolute, relative
        )
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(answered, Sequence) or isinstance(answered, str) or len(expected) != len(answered):
            return False
        return all(same(one, other, absolute, relative) for one, other in zip(expected, answered, strict=True))
    if isinstance(expected, float) and isinstance(answered, (int, float)) and not isinstance(answered, bool):
        return math.isclose(expected, answered, rel_tol=relative, abs_tol=absolute)
    return type(expected) is type(answered) and bool(expected == answered)
