"""Scoring of files: their rows are predicted in parts, so a file may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flaskml.codecs.rows import Rows
from flaskml.errors import FlaskmlError, InvalidInput, Problem
from flaskml.inference.predictor import Predictor
from flaskml.inference.row_files import RowFile, RowPart


@dataclass(frozen=True, slots=True)
class ScoredPart:
    """The answers to consecutive rows."""

    values: list[Any]
    """One JSON value per row; None for a refused row."""

    problems: list[Problem]
    """The problems of the refused rows, each with the number of its row in the file."""


def score_rows(predictor: Predictor, file: RowFile, method: str) -> Iterator[ScoredPart]:
    """Yield the answers of a file part by part. A refused row does not affect the other rows of its part."""
    start = 0
    for part in file.parts:
        try:
            yield ScoredPart(_predict_part(predictor, file, part, method), [])
        except FlaskmlError:
            yield _score_one_by_one(predictor, file, part.read_rows(), method, start)
        start += part.row_count


def _predict_part(predictor: Predictor, file: RowFile, part: RowPart, method: str) -> list[Any]:
    """Return the JSON values of a part. Raises a `FlaskmlError` for an invalid row, or one that the model refuses."""
    columns = part.read_columns()
    if columns is not None:
        return predictor.json_values(predictor.predict_columns(columns, method), method)
    return _predict_rows(predictor, file.parse(part.read_rows()), method)


def _predict_rows(predictor: Predictor, rows: Rows, method: str) -> list[Any]:
    return predictor.json_values(predictor.predict(rows, method), method)


def _score_one_by_one(predictor: Predictor, file: RowFile, rows: Sequence[Any], method: str, start: int) -> ScoredPart:
    values: list[Any] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, start):
        try:
            values += _predict_rows(predictor, file.parse([row]), method)
        except InvalidInput as error:
            values.append(None)
            problems += [Problem(number, problem.feature, problem.detail) for problem in error.problems]
        except FlaskmlError as error:
            values.append(None)
            problems.append(Problem(number, None, error.detail))
    return ScoredPart(values, problems)
