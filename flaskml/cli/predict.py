"""`flask predict`: predict the rows of a file, without a server."""

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

from flaskml.cli import open_cli_store

if TYPE_CHECKING:
    from flaskml.errors import Problem
    from flaskml.inference.file_scoring import ScoredPart
    from flaskml.inference.predictor import Predictor
    from flaskml.inference.row_files import RowFile
    from flaskml.settings import Settings
    from flaskml.store.model_store import ModelStore

MAX_PRINTED_PROBLEMS = 20
"""Problems that the summary prints; `--refused` writes all."""

OUTPUT_FORMATS = ("csv", "jsonl")

FILE_PATH = click.Path(dir_okay=False, path_type=Path)


@click.command("predict")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=FILE_PATH, help="Write to this file instead of standard output.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(OUTPUT_FORMATS),
    help="Format of the output; by default from the suffix of its file, else csv.",
)
@click.option("--name", help="The model; by default the setting MODEL_NAME.")
@click.option("--version", help="The version of the model; by default the active one.")
@click.option("--method", help="The method, such as predict_proba; by default the model's first.")
@click.option("--strict", is_flag=True, help="Stop at the first refused row and write no output.")
@click.option("--refused", type=FILE_PATH, help="Write every problem to this file, one line of JSON each.")
def predict_command(
    file: Path,
    output: Path | None,
    output_format: str | None,
    name: str | None,
    version: str | None,
    method: str | None,
    strict: bool,
    refused: Path | None,
) -> None:
    """Predict each row of FILE (.csv, .jsonl, .npy or .parquet), which may be larger than memory.

    The output has one line for each row, in order. A row that the model refuses gets a line with empty cells (CSV) or
    with null (JSON Lines). The first 20 problems are printed at the end.
    """
    from flaskml.inference.file_scoring import score_rows
    from flaskml.inference.row_files import open_row_file

    if output and refused and output.resolve() == refused.resolve():
        raise click.BadParameter("--output and --refused need different files.")
    with open_cli_store() as (store, settings), ExitStack() as stack:
        predictor = _load_predictor(store, settings, name or settings.model_name, version)
        table = stack.enter_context(open_row_file(file, predictor))
        method = predictor.resolve_method(method)
        out = stack.enter_context(_open_buffered_stdout() if strict and output is None else _open_output(output))
        writer = WRITERS[output_format or _format_of(output)](out)
        report = _Report(stack.enter_context(_open_output(refused)) if refused else None, strict=strict)
        for part in stack.enter_context(_with_progress_bar(table, score_rows(predictor, table, method))):
            report.add(part)
            writer.write(part.values)
        writer.finish()
    if table.ignored_columns:
        click.echo(f"ignored columns: {', '.join(table.ignored_columns)}", err=True)
    report.print_summary(f"{predictor.manifest.model} version {predictor.manifest.version}")


def _load_predictor(store: ModelStore, settings: Settings, name: str, version: str | None) -> Predictor:
    """Return the predictor of a version after its trial in this environment."""
    from flaskml.inference.predictor import open_predictor
    from flaskml.publishing.publish import trial_limits
    from flaskml.publishing.trial import ensure_accepted

    chosen = version or store.state(name).active
    if chosen is None:
        raise store.no_active_version(name)
    ensure_accepted(store, name, chosen, trial_limits(settings))
    return open_predictor(store.load(name, chosen), max_rows=settings.max_rows)


def _format_of(output: Path | None) -> str:
    suffix = output.suffix.lower().lstrip(".") if output else "csv"
    if suffix not in OUTPUT_FORMATS:
        raise click.BadParameter(f"{output} ends in neither .csv nor .jsonl; give the format with --format.")
    return suffix


@contextmanager
def _open_output(path: Path | None) -> Iterator[IO[bytes]]:
    """Yield a file that an atomic rename moves to `path` after the block; standard output without a path."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # A pipe or a device is written to directly.
        with _os_errors_as_messages(path), path.open("wb") as file:
            yield file
        return
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with _os_errors_as_messages(path):
        file = part.open("wb")
    try:
        with file:
            yield file
        with _os_errors_as_messages(path):
            part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _os_errors_as_messages(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}.") from error


@contextmanager
def _open_buffered_stdout() -> Iterator[IO[bytes]]:
    """Yield a temporary file that is copied to standard output after the block, and not at all after an error."""
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


class _CsvWriter:
    """A writer of predictions as lines of CSV; the first prediction determines the columns."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._header: list[str] = []
        self._rows_before_header = 0

    def write(self, values: list[Any]) -> None:
        """Write a line for each value, with empty cells for None."""
        from flaskml.codecs.answers import encode_csv_column, encode_csv_lines, flatten_cells, has_plain_cells

        if has_plain_cells(values) and self._header in ([], ["prediction"]):
            if not self._header:
                self._write_header(["prediction"])
            self._out.write(encode_csv_column(values))
            return
        rows = [{} if value is None else flatten_cells(value, "prediction") for value in values]
        if not self._header and (first := next(filter(None, rows), None)):
            self._write_header(list(first))
        if self._header:
            self._out.write(encode_csv_lines([row.get(column) for column in self._header] for row in rows))
        else:
            self._rows_before_header += len(rows)

    def finish(self) -> None:
        """Write the header and the lines of the refused rows, if there was no prediction."""
        if not self._header:
            self._write_header(["prediction"])

    def _write_header(self, header: list[str]) -> None:
        """Write the header, and a line with empty cells for each refused row before the first prediction."""
        from flaskml.codecs.answers import encode_csv_lines

        self._header = header
        self._out.write(encode_csv_lines([header]))
        empty = encode_csv_lines([[None] * len(header)])
        self._out.writelines(repeat(empty, self._rows_before_header))


class _JsonWriter:
    """A writer of predictions as lines of JSON."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, values: list[Any]) -> None:
        """Write a line for each value, with null for None."""
        from flaskml.codecs.answers import encode_json

        self._out.writelines(b'{"prediction":%b}\n' % encode_json(value) for value in values)

    def finish(self) -> None:
        """Do nothing: every line is already written."""


WRITERS: Mapping[str, Callable[[IO[bytes]], _CsvWriter | _JsonWriter]] = {"csv": _CsvWriter, "jsonl": _JsonWriter}
"""The writer of each output format."""


class _Report:
    """The counts of predicted and refused rows, and the first problems."""

    def __init__(self, file: IO[bytes] | None, *, strict: bool) -> None:
        self._file, self._strict = file, strict
        self._row_count = self._refused_count = self._problem_count = 0
        self._first_problems: list[Problem] = []

    def add(self, part: ScoredPart) -> None:
        """Count the rows of a part and write its problems. Raises `ClickException` at a refused row with `strict`."""
        if part.problems and self._strict:
            raise click.ClickException(f"{_problem_line(part.problems[0])}. Nothing was written.")
        self._row_count += len(part.values)
        self._refused_count += len({problem.row for problem in part.problems})
        self._problem_count += len(part.problems)
        self._first_problems += part.problems[: MAX_PRINTED_PROBLEMS - len(self._first_problems)]
        if self._file:
            lines = ({"row": p.row, "feature": p.feature, "detail": p.detail} for p in part.problems)
            self._file.writelines(json.dumps(line).encode() + b"\n" for line in lines)

    def print_summary(self, version: str) -> None:
        """Print the first problems and the counts."""
        for problem in self._first_problems:
            click.echo(_problem_line(problem), err=True)
        predicted = f"{self._row_count - self._refused_count:,} rows predicted by {version}"
        has_more = self._problem_count > len(self._first_problems)
        hint = "; --refused FILE writes every problem" if has_more and self._file is None else ""
        click.echo(f"{predicted}, {self._refused_count:,} refused{hint}", err=True)


def _problem_line(problem: Problem) -> str:
    return f"row {problem.row}: {problem.detail}"


@contextmanager
def _with_progress_bar(table: RowFile, parts: Iterator[ScoredPart]) -> Iterator[Iterator[ScoredPart]]:
    """Yield the parts; if standard error is a terminal, reading them advances a progress bar."""
    if not sys.stderr.isatty():
        yield parts
        return
    with click.progressbar(length=table.size, label="Predicting", file=sys.stderr) as bar:

        def advance_bar() -> Iterator[ScoredPart]:
            for part in parts:
                bar.update(table.position() - bar.pos)
                yield part

        yield advance_bar()
