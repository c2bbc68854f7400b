"""Golden rows: training rows with the answers that the estimator gave where it was trained.

They travel with a version. Whether it gives the same answers from another process, machine or library is measured by
replaying them, not believed from version numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flaskml.codecs.answer_equality import ABSOLUTE_TOLERANCE, answers_equal, largest_magnitude
from flaskml.schema.features import Schema, Table, Value
from flaskml.schema.tables import SchemaTableBuilder, json_rows, json_value

GOLDEN_FILE = "golden.json"

MAX_GOLDEN_ROWS = 32
"""How many rows a version keeps, spread over the training table."""

REPLAY_RELATIVE_TOLERANCE = 1e-6
"""Relative tolerance of a number: libraries for other processors round differently."""


class GoldenRows(BaseModel):
    """Rows in schema order, null for missing, and one answer to each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[Any, ...]

    def replay(self, schema: Schema, predict: Any) -> ReplayMismatch | None:
        """The first row that `predict` answers otherwise, in one batch or alone; None if all answers are the same."""
        table_builder, absolute = SchemaTableBuilder(schema), ABSOLUTE_TOLERANCE * largest_magnitude(self.answers)
        batch = finite_json(predict(table_builder.build(self.rows)))
        alone = [finite_json(predict(table_builder.build([row])))[0] for row in self.rows]
        for answers, is_alone in ((batch, False), (alone, True)):
            for index, (expected, answered) in enumerate(zip(self.answers, answers, strict=True)):
                if not answers_equal(expected, answered, relative=REPLAY_RELATIVE_TOLERANCE, absolute=absolute):
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
