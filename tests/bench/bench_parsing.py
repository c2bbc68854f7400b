"""Measure how long the JSON of a request takes to become the table that an estimator takes.

Run `python tests/bench/bench_parsing.py`; nothing is served. `Parser.parse_json` and the table of its rows are timed on
one row and on many in each form of a body, with all rows good and with a bad value at the very end, which makes it
raise InvalidInput. Beside it stand a yardstick, `json.loads` of the same bytes, and two ways that were rejected
(`with_models`, `with_loop`). All of them take turns in every round and change order between rounds, so that a slow
second falls on each; a ratio is taken in each round before its median is. Garbage is collected meanwhile, as in a
server. Numbers have four decimals: with more digits json.loads takes longer, and the ratios to it look better.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from harness import short_number
from pydantic import ConfigDict, FiniteFloat, RootModel, Strict, TypeAdapter, create_model

from flaskml.codecs.parser import Parser
from flaskml.errors import InvalidInput
from flaskml.schema.features import Schema, Value
from flaskml.schema.from_sample import schema_from_frame, with_array_layout
from flaskml.schema.tables import json_rows

SEED = 42
FEATURES = 20
SAMPLE_ROWS = 1000
ROW_TARGET = "≤ 15 µs"
"""Limit of the parser's time for one row of 20 floats."""

ROWS_TARGET = "≤ 3 × json.loads"
"""Limit of its time for a thousand of them."""

FORMS = OBJECT, LIST, INSTANCES, LISTS = (
    "object",
    "[objects]",
    '{"instances": [objects]}',
    '{"instances": [lists]}',
)

Call = Callable[[bytes], Any]
Row = Sequence[Value]


@dataclass(frozen=True)
class Case:
    """One body and what is timed on it: the yardstick first, then the parser, then the alternatives to it."""

    form: str
    rows: int
    good: bool
    body: bytes
    calls: Mapping[str, Call]
    target: str = ""


Result = tuple[Case, list[dict[str, float]]]
"""A case and, for each round, the microseconds of each of its calls by name."""


def with_parser(parser: Parser) -> Call:
    """Return what parses as a request does, up to the table that the estimator takes: rows make theirs when asked."""
    return lambda body: parser.parse_json(body).table


def with_models(schema: Schema, form: str) -> Call:
    """Return what parses with a pydantic model class made from the schema, and reads the attributes into an array.

    Rejected: an instance is made for every row only to be taken apart, so that a body of many objects takes nearly
    twice as long as with the parser. One row is a microsecond or two faster, as the form is known and only an array
    returned, and a bad one much faster, as nothing is put into words. A feature may have any name, and names such as
    `_x` or `model_config` would need aliases.
    """
    number = Annotated[FiniteFloat, Strict()]
    if form == LISTS:
        row: Any = RootModel[tuple[(number,) * len(schema.names)]]
        values_of = attrgetter("root")
    else:
        row = create_model("Row", __config__=ConfigDict(extra="forbid"), **dict.fromkeys(schema.names, (number, ...)))
        values_of = attrgetter(*schema.names)
    if form == OBJECT:
        one = TypeAdapter(row)
        return lambda body: np.array([values_of(one.validate_json(body))])
    if form == LIST:
        many = TypeAdapter(list[row])
        return lambda body: np.array([values_of(row) for row in many.validate_json(body)])
    request = create_model("Request", __config__=ConfigDict(extra="forbid"), instances=(list[row], ...))
    return lambda body: np.array([values_of(row) for row in request.model_validate_json(body).instances])


def with_loop(schema: Schema, form: str) -> Call:
    """Return what reads with json.loads and checks names and values in plain Python.

    Rejected: every value is looked at in Python, so that good rows take two to five times as long as with the parser.
    Bad ones are faster, as it stops at the first of them where the parser tells of all.
    """
    names = schema.names
    known = set(names)

    def values(row: Any) -> Sequence[Any]:
        if isinstance(row, dict):
            if row.keys() != known:
                raise ValueError(f"not the features: {sorted(row.keys() ^ known)}")
            row = [row[name] for name in names]
        if len(row) != len(names):
            raise ValueError(f"{len(row)} values for {len(names)} features")
        for name, value in zip(names, row, strict=True):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number")
        return row

    def parse(body: bytes) -> np.ndarray:
        document = json.loads(body)
        rows = [document] if form == OBJECT else document if form == LIST else document["instances"]
        return np.array([values(row) for row in rows], dtype=float)

    return parse


def array_cases(count: int) -> Iterator[Case]:
    """Yield the cases of 20 float features in an array: one row, and `count` of them in each form."""
    numbers = np.random.default_rng(SEED).normal(size=(SAMPLE_ROWS, FEATURES)).round(4)
    sample = pd.DataFrame(numbers, columns=[f"feature_{index:02}" for index in range(FEATURES)])
    schema = with_array_layout(schema_from_frame(sample), "float64")
    parser = Parser(schema, max_rows=max(1, count))
    good = _repeated(json_rows(schema, numbers), count)
    bad = [*good[:-1], (*good[-1][:-1], "1.5")]
    for form in FORMS:
        calls = {
            "json.loads": json.loads,
            "parser": with_parser(parser),
            "models": with_models(schema, form),
            "loop": with_loop(schema, form),
        }
        refusing = {name: call if name == "json.loads" else _refusing(call) for name, call in calls.items()}
        size, target = (1, ROW_TARGET) if form == OBJECT else (count, ROWS_TARGET)
        yield Case(form, size, True, _body(schema, form, good[-size:]), calls, target)
        yield Case(form, size, False, _body(schema, form, bad[-size:]), refusing)


def frame_cases(count: int) -> Iterator[Case]:
    """Yield the cases of a frame of eight mixed columns, beside the frame that pandas makes without checking any."""
    sample = _mixed_sample()
    schema = schema_from_frame(sample)
    parser = Parser(schema, max_rows=max(1, count))
    rows = _repeated(json_rows(schema, sample), count)
    one = {"pd.DataFrame": lambda body: pd.DataFrame([json.loads(body)]), "parser": with_parser(parser)}
    many = {"pd.DataFrame": lambda body: pd.DataFrame(json.loads(body)), "parser": with_parser(parser)}
    yield Case(OBJECT, 1, True, _body(schema, OBJECT, rows[:1]), one)
    yield Case(LIST, count, True, _body(schema, LIST, rows), many)


def main() -> None:
    """Run the benchmark as the command line asks, and print its tables."""
    options = _parse()
    arrays, frames = list(array_cases(options.rows)), list(frame_cases(options.rows))
    results = measure([*arrays, *frames], options.rounds, options.seconds)
    print(f"Microseconds; figures and ratios are medians of {options.rounds} rounds.")
    print(*table(results[: len(arrays)]), *table(results[len(arrays) :]), sep="\n")
    if options.json:
        options.json.write_text(to_json(results) + "\n")


def measure(cases: Sequence[Case], rounds: int, seconds: float) -> list[Result]:
    """Return what every call of every case took in every round."""
    counts = [{name: _count(call, case.body, seconds) for name, call in case.calls.items()} for case in cases]
    results: list[Result] = [(case, []) for case in cases]
    for number in range(rounds):
        for (case, figures), count in zip(results, counts, strict=True):
            order = list(case.calls)[:: -1 if number % 2 else 1]
            spent = {name: _seconds(case.calls[name], case.body, count[name]) for name in order}
            figures.append({name: spent[name] / count[name] * 1e6 for name in case.calls})
    return results


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of a Markdown table of cases that have the same calls."""
    yardstick, parser, *others = results[0][0].calls
    ratios = [(parser, yardstick), *((other, parser) for other in others)]
    heads = ["form", "rows", "input", "target", yardstick, parser, *others, *map("/".join, ratios)]
    yield f"\n| {' | '.join(heads)} |"
    yield f"| --- | ---: | --- | --- |{' ---: |' * (len(heads) - 4)}"
    for case, rounds in results:
        cells = [case.form, str(case.rows), "good" if case.good else "bad at the end", case.target]
        cells += [short_number(statistics.median(figures[name] for figures in rounds)) for name in case.calls]
        cells += [f"{statistics.median(figures[a] / figures[b] for figures in rounds):.2f}" for a, b in ratios]
        yield f"| {' | '.join(cells)} |"


def to_json(results: Sequence[Result]) -> str:
    """Return the figures of every round as JSON."""
    cases = [
        {"form": case.form, "rows": case.rows, "good": case.good, "bytes": len(case.body), "microseconds": rounds}
        for case, rounds in results
    ]
    return json.dumps({"cases": cases}, indent=2)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1000, help="rows of a body with many (default 1000)")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each call")
    parser.add_argument("--seconds", type=float, default=0.02, help="least length of a measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of every round to FILE")
    return parser.parse_args()


def _mixed_sample() -> pd.DataFrame:
    generator = np.random.default_rng(SEED)
    numbers = generator.normal(size=(SAMPLE_ROWS, 3)).round(4)
    numbers[generator.random(numbers.shape) < 0.1] = math.nan
    days = np.datetime64("2024-01-01", "us") + generator.integers(0, 366 * 86_400, SAMPLE_ROWS) * np.timedelta64(1, "s")
    return pd.DataFrame(
        {
            "name": [f"name {index}" for index in range(SAMPLE_ROWS)],
            "colour": pd.Categorical(generator.choice(["red", "green", "blue"], SAMPLE_ROWS)),
            "member": generator.random(SAMPLE_ROWS) < 0.5,
            "visits": generator.integers(0, 1000, SAMPLE_ROWS),
            "since": days,
            "height": numbers[:, 0],
            "weight": numbers[:, 1],
            "income": numbers[:, 2],
        }
    )


def _repeated(rows: Sequence[Row], count: int) -> list[Row]:
    return list(islice(cycle(rows), count))


def _body(schema: Schema, form: str, rows: Sequence[Row]) -> bytes:
    objects = [dict(zip(schema.names, row, strict=True)) for row in rows]
    documents = {OBJECT: objects[0], LIST: objects, INSTANCES: {"instances": objects}, LISTS: {"instances": rows}}
    return json.dumps(documents[form]).encode()


def _refusing(call: Call) -> Call:
    def refuse(body: bytes) -> None:
        try:
            call(body)
        except (InvalidInput, ValueError):
            return
        raise AssertionError("the bad row was taken")

    return refuse


def _count(call: Call, body: bytes, seconds: float) -> int:
    """Return how many calls last that long at least; finding it warms them up."""
    count = 1
    while _seconds(call, body, count) < seconds:
        count *= 2
    return count


def _seconds(call: Call, body: bytes, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call(body)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
