"""`flask predict`: a file of rows, offline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from flaskml.cli import opened_store

if TYPE_CHECKING:
    from flaskml.errors import Problem
    from flaskml.model import Predictor
    from flaskml.scoring import Scored, Table

TOLD = 20
"""Problems that are told; a file of refusals has all."""

FORMATS = ("csv", "jsonl")

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=FILE, help="Write here instead of to the screen.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: as the output's name ends, else csv.")
@click.option("--name", help="The model; by default the one that answers when none is named.")
@click.option("--version", help="Its version; by default the active one.")
@click.option("--method", help="predict_proba, for one; by default what the model offers first.")
@click.option("--strict", is_flag=True, help="Stop at the first refused row, and leave no output.")
@click.option("--refused", type=FILE, help="Write every problem here, a line of JSON for each.")
def predict(
    file: Path,
    output: Path | None,
    form: str | None,
    name: str | None,
    version: str | None,
    method: str | None,
    strict: bool,
    refused: Path | None,
) -> None:
    """Predict each row of FILE (.csv, .jsonl, .npy or .parquet), which may be larger than memory.

    The answer has a line for each row, in order; that of a row which the model refuses is empty, and the reason is
    told at the end.
    """
    from flaskml import scoring

    with opened_store() as (store, settings), ExitStack() as stack:
        predictor = _load(store, settings, name or settings.model_name, version)
        table = scoring.open_table(file, stack.enter_context(file.open("rb")), predictor)
        method = predictor.method(method)
        if table.left_out:
            click.echo(f"without the columns {', '.join(table.left_out)}", err=True)
        out = stack.enter_context(_written(output))
        write = _writer(out, form or _format_of(output))
        report = _Report(stack.enter_context(_written(refused)) if refused else None, strict=strict)
        for scored in stack.enter_context(_watched(table, scoring.score(predictor, table, method))):
            report.take(scored)
            write(scored.values)
    report.tell(f"{predictor.manifest.model} version {predictor.manifest.version}")


def _load(store: Any, settings: Any, name: str, version: str | None) -> Predictor:
    """The predictor of a version, which has been tried in this environment or is now."""
    from flaskml.model import open_predictor
    from flaskml.publishing import trial_limits
    from flaskml.trial import ensure_accepted

    chosen = version or store.state(name).active
    if chosen is None:
        raise store.nothing_active(name)
    ensure_accepted(store, name, chosen, trial_limits(settings))
    return open_predictor(store.load(name, chosen), max_rows=settings.max_rows)


def _format_of(output: Path | None) -> str:
    suffix = output.suffix.lower().lstrip(".") if output else "csv"
    if suffix not in FORMATS:
        raise click.BadParameter(f"{output} ends in neither .csv nor .jsonl; say which it is with --format.")
    return suffix


@contextmanager
def _written(path: Path | None) -> Iterator[IO[bytes]]:
    """A file that takes its name when all was written; standard output without one."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


def _writer(out: IO[bytes], form: str) -> Callable[[list[Any]], None]:
    """What writes values, one a row."""
    from flaskml.answers import cells, csv_line, encoded

    header: list[str] = []
    blank = 0

    def write_csv(values: list[Any]) -> None:
        nonlocal blank
        for value in values:
            flat = {} if value is None else cells(value, "prediction")
            if flat and not header:  # What the columns are is known with the first answer.
                header.extend(flat)
                out.write(csv_line(header) + csv_line([None] * len(header)) * blank)
            if header:
                out.write(csv_line([flat.get(column) for column in header]))
            else:
                blank += 1

    def write_jsonl(values: list[Any]) -> None:
        out.writelines(b'{"prediction":%b}\n' % encoded(value) for value in values)

    return write_csv if form == "csv" else write_jsonl


class _Report:
    """Counts rows and what was refused of them."""

    def __init__(self, file: IO[bytes] | None, *, strict: bool) -> None:
        self._file, self._strict = file, strict
        self._rows = self._refused = 0
        self._first: list[Problem] = []

    def take(self, scored: Scored) -> None:
        """Takes in what became of some rows; raises ClickException where none may be refused."""
        if scored.refused and self._strict:
            raise click.ClickException(f"{_sentence(scored.refused[0])}. Nothing was written.")
        self._rows += len(scored.values)
        self._refused += len({problem.row for problem in scored.refused})
        self._first += scored.refused[: TOLD - len(self._first)]
        if self._file:
            lines = ({"row": p.row, "feature": p.feature, "detail": p.detail} for p in scored.refused)
            self._file.writelines(json.dumps(line).encode() + b"\n" for line in lines)

    def tell(self, by: str) -> None:
        """Says what was done, and what was refused."""
        for problem in self._first:
            click.echo(_sentence(problem), err=True)
        click.echo(f"{self._rows:,} rows, {self._refused:,} refused, by {by}", err=True)


def _sentence(problem: Problem) -> str:
    return f"row {problem.row}: {problem.detail}"


@contextmanager
def _watched(table: Table, results: Iterator[Scored]) -> Iterator[Iterator[Scored]]:
    """The results, with a bar on the screen that says how far they are, if somebody watches."""
    if not sys.stderr.isatty():
        yield results
        return
    with click.progressbar(length=table.size, label="Predicting", file=sys.stderr) as bar:

        def watched() -> Iterator[Scored]:
            for scored in results:
                bar.update(table.position() - bar.pos)
                yield scored

        yield watched()
