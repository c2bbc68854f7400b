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
from flaskml.schema.tables import SchemaTableBuilder, json_rows, json_value

GOLDEN_FILE = "golden.json"

MAX_GOLDEN_ROWS = 32
"""How many rows a version keeps, spread over the training table."""

REPLAY_RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
"""How far a number may be off: as a share of itself, or of the largest answer, beside which it may be rounding alone.

Libraries for other processors round otherwise, and no user would call that wrong.
"""


class GoldenRows(BaseModel):
    """Rows in schema order, null for missing, and one answer to each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[Any, ...]

    def replay(self, schema: Schema, predict: Any) -> ReplayMismatch | None:
        """The first row that `predict` answers otherwise, in one batch or alone; None if all answers are the same."""
        maker, absolute = SchemaTableBuilder(schema), ABSOLUTE_TOLERANCE * largest_magnitude(self.answers)
        batch = finite_json(predict(maker.table(self.rows)))
        alone = [finite_json(predict(maker.table([row])))[0] for row in self.rows]
        for answers, is_alone in ((batch, False), (alone, True)):
            for index, (expected, answered) in enumerate(zip(self.answers, answers, strict=True)):
                if not answers_equal(expected, answered, absolute):
                    return ReplayMismatch(row=index, expected=expected, answered=answered, alone=is_alone)
        return None


class ReplayMismatch(BaseModel):
    """A golden row that was not answered as in training."""

    row: int
    expected: Any
    answered: Any
    alone: bool = False
    """Whether it was answered alone, and in a batch as expected."""


def record_golden_rows(schema: Schema, table: Table, predict: Any) -> GoldenRows:
    """Golden rows of a table that the estimator takes, and what it answers to them.

    The rows are kept as requests would send them; that they become the same table again is part of what is tried.
    """
    part = sample_rows(table)
    return GoldenRows(rows=tuple(json_rows(schema, part)), answers=tuple(finite_json(predict(part))))


def sample_rows(table: Any, most: int = MAX_GOLDEN_ROWS) -> Any:
    """A few dozen rows of a table, or `most`, from the first to the last."""
    count = len(table)
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    return table.iloc[chosen] if hasattr(table, "iloc") else table[chosen]


def finite_json(answers: Any) -> list[Any]:
    """Answers as JSON has them; a number that is not finite is null."""
    return [_plain(value) for value in (answers.tolist() if isinstance(answers, np.ndarray) else answers)]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    value = json_value(value)
    return None if isinstance(value, float) and math.isinf(value) else value


def largest_magnitude(answer: Any) -> float:
    """The largest magnitude of the numbers in an answer."""
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return max(map(largest_magnitude, answer), default=0.0)
    return abs(answer) if isinstance(answer, float) else 0.0


def answers_equal(
    expected: Any, answered: Any, absolute: float = 0.0, relative: float = REPLAY_RELATIVE_TOLERANCE
) -> bool:
    """Whether two answers are the same: numbers nearly, labels exactly, lists and objects item by item."""
    if isinstance(expected, Mapping) and isinstance(answered, Mapping):
        return list(expected) == list(answered) and answers_equal(
            list(expected.values()), list(answered.values()), absolute, relative
        )
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        if not isinstance(answered, Sequence) or isinstance(answered, str) or len(expected) != len(answered):
            return False
        return all(answers_equal(one, other, absolute, relative) for one, other in zip(expected, answered, strict=True))
    if isinstance(expected, float) and isinstance(answered, (int, float)) and not isinstance(answered, bool):
        return math.isclose(expected, answered, rel_tol=relative, abs_tol=absolute)
    return type(expected) is type(answered) and bool(expected == answered)
