"""Golden rows: training rows stored with the answers that the estimator gave where it was trained.

They are part of a version. Replaying them measures whether the version gives the same answers in another process, on
another machine or with another release of a library. Equal version numbers would not prove that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flaskml.codecs.answer_equality import ABSOLUTE_TOLERANCE, answers_equal, largest_absolute_number
from flaskml.schema.features import Schema, Table, Value
from flaskml.schema.tables import json_rows, json_value

GOLDEN_FILE = "golden.json"

MAX_GOLDEN_ROWS = 32
"""The number of rows stored with a version, spread over the training table."""

REPLAY_RELATIVE_TOLERANCE = 1e-6
"""The relative tolerance of a number: libraries built for other processors round differently."""


class GoldenRows(BaseModel):
    """Rows with their values in schema order (None for a missing value), and one answer for each row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[tuple[Value, ...], ...]
    answers: tuple[Any, ...]

    def replay(self, build: Callable[[Sequence[Any]], Any], predict: Any) -> ReplayMismatch | None:
        """Replay the rows, first as one batch, then each row alone. Return the first mismatch, or None.

        `build` makes a table of rows; `predict` takes a table and returns one answer for each row.
        """
        absolute = ABSOLUTE_TOLERANCE * largest_absolute_number(self.answers)
        batch_answers = finite_json(predict(build(self.rows)))
        single_answers = [finite_json(predict(build([row])))[0] for row in self.rows]
        for answers, is_alone in ((batch_answers, False), (single_answers, True)):
            for index, (expected, answered) in enumerate(zip(self.answers, answers, strict=True)):
                if not answers_equal(expected, answered, relative=REPLAY_RELATIVE_TOLERANCE, absolute=absolute):
                    return ReplayMismatch(row=index, expected=expected, answered=answered, is_alone=is_alone)
        return None


class ReplayMismatch(BaseModel):
    """A golden row whose answer differs from the answer in training."""

    row: int
    expected: Any
    answered: Any
    is_alone: bool = False
    """True if the row was computed alone. In the batch its answer was as expected."""


def record_golden_rows(schema: Schema, table: Table, predict: Any) -> GoldenRows:
    """Return a sample of the table's rows and the answers of `predict` to them.

    The rows are stored as requests send them. A replay converts them to a table, so it tests that conversion too.
    """
    sample = sample_rows(table)
    return GoldenRows(rows=tuple(json_rows(schema, sample)), answers=tuple(finite_json(predict(sample))))


def sample_rows(table: Any, limit: int = MAX_GOLDEN_ROWS) -> Any:
    """Return at most `limit` rows of a table, evenly spread from the first row to the last."""
    count = len(table)
    indices = np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))
    return table.iloc[indices] if hasattr(table, "iloc") else table[indices]


def finite_json(answers: Any) -> list[Any]:
    """Return answers as values of strict JSON: None for NaN and infinities."""
    return [_finite_value(value) for value in (answers.tolist() if isinstance(answers, np.ndarray) else answers)]


def _finite_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite_value(item) for item in value]
    value = json_value(value)
    return None if isinstance(value, float) and math.isinf(value) else value
