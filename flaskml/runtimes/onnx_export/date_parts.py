"""The nodes that take dates apart as `flask train` does: seconds since 1970, month, day of the week, and hour.

The month follows from the number of the day by the arithmetic of the Gregorian calendar, whose years begin here in
March: the leap day is then the last day of a year (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
"""

from __future__ import annotations

from collections.abc import Sequence

from flaskml.runtimes.onnx_export.column_writer import Block, ColumnWriter

DAY_MICROSECONDS = 86_400e6
HOUR_MICROSECONDS = 3_600e6
SECOND_MICROSECONDS = 1e6

FIRST_WEEKDAY = 3.0
"""The day of the week of January 1st, 1970, a Thursday; Monday is 0."""

DAYS_BEFORE_1970 = 719_468.0
"""Days from March 1st of the year 0 to January 1st, 1970."""

ERA_DAYS = 146_097.0
"""Days of 400 years."""


def write_date_parts(writer: ColumnWriter, block: Block) -> Block:
    """Write four numbers for each column of microseconds since 1970, the four of the first column first."""
    return writer.join([_parts(writer, writer.take(block, [index])) for index in range(block.width)])


def _parts(writer: ColumnWriter, block: Block) -> Block:
    moment = block.tensor
    day = _floor_divide(writer, moment, DAY_MICROSECONDS)
    within_day = _combine(writer, [(1.0, moment), (-DAY_MICROSECONDS, day)])
    weekday = _remainder(writer, _shift(writer, day, FIRST_WEEKDAY), 7.0)
    seconds = writer.add("Div", [moment, writer.constant([SECOND_MICROSECONDS])])
    parts = [seconds, _month(writer, day), weekday, _floor_divide(writer, within_day, HOUR_MICROSECONDS)]
    return writer.join([writer.numbers(part, 1) for part in parts])


def _month(writer: ColumnWriter, day: str) -> str:
    """Write the month, 1 to 12, of a day counted from January 1st, 1970."""
    day = _remainder(writer, _shift(writer, day, DAYS_BEFORE_1970), ERA_DAYS)
    leap_days = [(1.0, _floor_divide(writer, day, divisor)) for divisor in (1_460.0, 36_524.0, 146_096.0)]
    signs = (-1.0, 1.0, -1.0)
    terms = [(1.0, day), *((sign, term) for sign, (_, term) in zip(signs, leap_days, strict=True))]
    year = _floor_divide(writer, _combine(writer, terms), 365.0)
    start = [(-365.0, year), (-1.0, _floor_divide(writer, year, 4.0)), (1.0, _floor_divide(writer, year, 100.0))]
    day_of_year = _combine(writer, [(1.0, day), *start])
    month = _floor_divide(writer, _shift(writer, _combine(writer, [(5.0, day_of_year)]), 2.0), 153.0)
    # Months are counted from March, so those from 10 on belong to the next year.
    return _shift(writer, _remainder(writer, _shift(writer, month, 2.0), 12.0), 1.0)


def _floor_divide(writer: ColumnWriter, tensor: str, divisor: float) -> str:
    return writer.add("Floor", [writer.add("Div", [tensor, writer.constant([divisor])])])


def _remainder(writer: ColumnWriter, tensor: str, divisor: float) -> str:
    return _combine(writer, [(1.0, tensor), (-divisor, _floor_divide(writer, tensor, divisor))])


def _shift(writer: ColumnWriter, tensor: str, number: float) -> str:
    return writer.add("Add", [tensor, writer.constant([number])])


def _combine(writer: ColumnWriter, terms: Sequence[tuple[float, str]]) -> str:
    """Write the sum of tensors, each multiplied by a number."""
    total = ""
    for factor, tensor in terms:
        term = tensor if factor == 1.0 else writer.add("Mul", [tensor, writer.constant([factor])])
        total = writer.add("Add", [total, term]) if total else term
    return total
