"""`flask predict`: a file of rows, offline."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from flaskml.cli import open_store_here

if TYPE_CHECKING:
    from flaskml.errors import Problem
    from flaskml.inference.file_scoring import RowFile, ScoredChunk
    from flaskml.inference.predictor import Predictor

MAX_SHOWN_PROBLEMS = 20
"""Problems that are told; a file of refusals has all."""

OUTPUT_FORMATS = ("csv", "jsonl")

FILE_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command("predict")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=FILE_PATH, help="Write here instead of to the screen.")
@click.option(
    "--format", "form", type=click.Choice(OUTPUT_FORMATS), help="Default: as the output's name ends, else csv."
)
@click.option("--name", help="The model; by default the one that answers when none is named.")
@click.option("--version", help="Its version; by default the active one.")
@click.option("--method", help="predict_proba, for one; by default what the model offers first.")
@click.option("--strict", is_flag=True, help="Stop at the first refused row, and leave no output.")
@click.option("--refused", type=FILE_PATH, help="Write every problem here, a line of JSON for each.")
def predict_command(
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
    from flaskml.inference import file_scoring as scoring

    if output and refused and output.resolve() == refused.resolve():
        raise click.BadParameter("The answers and what was refused cannot go to the same file.")
    with open_store_here() as (store, settings), ExitStack() as stack:
        predictor = _load(store, settings, name or settings.model_name, version)
        table = stack.enter_context(scoring.open_row_file(file, predictor))
        method = predictor.method(method)
        out = stack.enter_context(_kept_until_whole() if strict and output is None else _written(output))
        writer = WRITERS[form or _format_of(output)](out)
        report = _Report(stack.enter_context(_written(refused)) if refused else None, strict=strict)
        for scored in stack.enter_context(_watched(table, scoring.score_rows(predictor, table, method))):
            report.take(scored)
            writer.write(scored.values)
        writer.finish()
    if table.left_out:
        click.echo(f"without the columns {', '.join(table.left_out)}", err=True)
    report.tell(f"{predictor.manifest.model} version {predictor.manifest.version}")


def _load(store: Any, settings: Any, name: str, version: str | None) -> Predictor:
    """The predictor of a version, which has been tried in this environment or is now."""
    from flaskml.inference.predictor import open_predictor
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import ensure_accepted

    chosen = version or store.state(name).active
    if chosen is None:
        raise store.nothing_active(name)
    ensure_accepted(store, name, chosen, trial_limits(settings))
    return open_predictor(store.load(name, chosen), max_rows=settings.max_rows)


def _format_of(output: Path | None) -> str:
    suffix = output.suffix.lower().lstrip(".") if output else "csv"
    if suffix not in OUTPUT_FORMATS:
        raise click.BadParameter(f"{output} ends in neither .csv nor .jsonl; say which it is with --format.")
    return suffix


@contextmanager
def _written(path: Path | None) -> Iterator[IO[bytes]]:
    """A file that takes its name when all was written; standard output without one."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # A pipe or a device is written to as it stands.
        with _told_of(path), path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _told_of(path):
        file = part.open("wb")
    try:
        with file:
            yield file
        with _told_of(path):
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}.") from error


@contextmanager
def _kept_until_whole() -> Iterator[IO[bytes]]:
    """Standard output that gets nothing unless it gets all."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class _CsvWriter:
    """Writes values as lines of CSV. What the columns are is known with the first answer."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._header: list[str] = []
        self._blank = 0

    def write(self, values: list[Any]) -> None:
        """A line for each value; one that is None has an empty one."""
        from flaskml.codecs.answers import encode_csv_line, flatten_cells

        for value in values:
            flat = {} if value is None else flatten_cells(value, "prediction")
            if flat and not self._header:
                self._begin(list(flat))
            if self._header:
                self._out.write(encode_csv_line([flat.get(column) for column in self._header]))
            else:
                self._blank += 1

    def finish(self) -> None:
        """Writes what waits for a header."""
        if not self._header:
            self._begin(["prediction"])

    def _begin(self, header: list[str]) -> None:
        from flaskml.codecs.answers import encode_csv_line

        self._header = header
        self._out.write(encode_csv_line(header))
        empty = encode_csv_line([None] * len(header))
        self._out.writelines(repeat(empty, self._blank))


class _JsonWriter:
    """Writes values as lines of JSON."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, values: list[Any]) -> None:
        """A line for each value; one that is None has null."""
        from flaskml.codecs.answers import encode_json

        self._out.writelines(b'{"prediction":%b}\n' % encode_json(value) for value in values)

    def finish(self) -> None:
        """There is nothing left."""


WRITERS: Mapping[str, Callable[[IO[bytes]], _CsvWriter | _JsonWriter]] = {"csv": _CsvWriter, "jsonl": _JsonWriter}
"""What writes each format."""


class _Report:
    """Counts rows and what was refused of them."""

    def __init__(self, file: IO[bytes] | None, *, strict: bool) -> None:
        self._file, self._strict = file, strict
        self._rows = self._refused = 0
        self._first: list[Problem] = []

    def take(self, scored: ScoredChunk) -> None:
        """Takes in what became of some rows; raises ClickException where none may be refused."""
        if scored.refused and self._strict:
            raise click.ClickException(f"{_sentence(scored.refused[0])}. Nothing was written.")
        self._rows += len(scored.values)
        self._refused += len({problem.row for problem in scored.refused})
        self._first += scored.refused[: MAX_SHOWN_PROBLEMS - len(self._first)]
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
def _watched(table: RowFile, results: Iterator[ScoredChunk]) -> Iterator[Iterator[ScoredChunk]]:
    """The results, with a bar on the screen that says how far they are, if somebody watches."""
    if not sys.stderr.isatty():
        yield results
        return
    with click.progressbar(length=table.size, label="Predicting", file=sys.stderr) as bar:

        def watched() -> Iterator[ScoredChunk]:
            for scored in results:
                bar.update(table.position() - bar.pos)
                yield scored

        yield watched()
