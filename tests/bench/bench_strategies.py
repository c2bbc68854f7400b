"""Measure when a Flask app should read its model: five strategies, two file formats, a small and a large model.

Each of the twenty cells is a fresh waitress process, loaded by keep-alive connections from one other process. All
cells use the same Python client, as wrk drops the requests in flight at its end and so the whole of a cell whose
requests take longer than the measurement. Model files are warm in the page cache. A first request of a strategy that
reads on demand also imports scikit-learn, as it does in an app that only unpickles.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from arguments import some_of
from bar_chart import BarChart
from bench_models import large_model, small_model, write_model
from harness import (
    Launch,
    Load,
    Server,
    ServerError,
    ask,
    exit_on_terminate,
    load_with_python,
    memory_mb,
    serve,
    short_number,
)
from strategies_app import STRATEGIES

APP = Path(__file__).with_name("strategies_app.py")
BODY = '{"feature": 0.5}'
FORMATS = ("pickle", "joblib")
MODELS = ("small", "large")
HEADINGS = (
    "model",
    "format",
    "strategy",
    "p50 ms",
    "p99 ms",
    "requests/s",
    "first request ms",
    "start-up s",
    "RSS MB",
    "opens/request",
)


@dataclass(frozen=True, order=True)
class Cell:
    """One combination to measure."""

    model: str
    model_format: str
    strategy: str

    @property
    def series(self) -> str:
        """The model and its format, as the chart names them."""
        return f"{self.model}, {self.model_format}"


@dataclass(frozen=True)
class Figures:
    """Measurements of one cell; memory is that of the process after the load, in megabytes."""

    p50_ms: float
    p99_ms: float
    requests_per_second: float
    first_request_ms: float
    startup_seconds: float
    rss_mb: float
    pss_mb: float
    opens_per_request: float
    requests: float


Results = Mapping[Cell, Figures]


def main() -> None:
    """Run the benchmark as the command line asks."""
    exit_on_terminate()
    options = _parse()
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = write_models(options, Path(folder))
            results = measure_all(files, options)
    except ServerError as error:
        sys.exit(str(error))
    _report(results, options)


def write_models(options: argparse.Namespace, folder: Path) -> dict[tuple[str, str], Path]:
    """Write each model in each format to the folder and return the paths by model and format."""
    files = {}
    for name in options.models:
        begin = time.perf_counter()
        model = small_model() if name == "small" else large_model(options.large_mb)
        for model_format in options.formats:
            files[name, model_format] = path = folder / f"{name}.{model_format}"
            write_model(model, model_format, path)
        _say(f"{name} model: {path.stat().st_size / 1e6:.3g} MB, made in {time.perf_counter() - begin:.1f} s")
    return files


def measure_all(files: Mapping[tuple[str, str], Path], options: argparse.Namespace) -> dict[Cell, Figures]:
    """Measure every cell once a round, so that a slow minute is shared by all, and return the medians of the rounds."""
    cells = {Cell(*key, strategy): path for key, path in files.items() for strategy in STRATEGIES}
    load = Load("/predict", BODY, options.connections, options.seconds, options.requests)
    rounds: dict[Cell, list[Figures]] = {cell: [] for cell in cells}
    for number in range(options.rounds):
        for cell, path in cells.items():
            rounds[cell].append(measure(cell, path, load))
            _say(f"round {number + 1}: {cell.series}, {cell.strategy}: p50 {short_number(rounds[cell][-1].p50_ms)} ms")
    return {cell: _medians(figures) for cell, figures in rounds.items()}


def measure(cell: Cell, path: Path, load: Load) -> Figures:
    """Serve one cell and return its figures; raise ServerError when any request fails."""
    command = [sys.executable, str(APP), cell.strategy, cell.model_format, str(path), "{port}"]
    with serve(Launch(command)) as server:
        ask(server, "/ping")
        startup = time.perf_counter() - server.born
        first = _first_request_ms(server, load)
        return _measure_load(server, load, first, startup)


def markdown(results: Results) -> str:
    """Return the results as a Markdown table."""
    rows = [HEADINGS, *(_row(cell, figures) for cell, figures in results.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = HEADINGS.index("strategy")
    rule = ["-" * width if index <= left else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    lines = [[_pad(text, widths[index], index <= left) for index, text in enumerate(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def chart(results: Results) -> str:
    """Return the median latencies as an SVG document."""
    values = {(cell.strategy, cell.series): figures.p50_ms for cell, figures in results.items()}
    series = list(dict.fromkeys(cell.series for cell in results))
    slowest, fastest = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    ends = [f"{' with '.join(key)}, {short_number(values[key])} ms" for key in (slowest, fastest)]
    description = f"Bars for {len(STRATEGIES)} strategies, from the slowest ({ends[0]}) to the fastest ({ends[1]})."
    heading = "Median latency of a prediction by when the model is read (ms, log scale)"
    return BarChart(heading, description, "ms", list(STRATEGIES), series, values).to_svg()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of load for each cell and round")
    parser.add_argument("--requests", type=int, default=5000, help="most requests for each cell and round, 0: any")
    parser.add_argument("--connections", type=int, default=4, help="keep-alive connections, each with its thread")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians over the rounds")
    parser.add_argument("--models", type=some_of(MODELS), default=MODELS, help="small, large or small,large")
    parser.add_argument("--formats", type=some_of(FORMATS), default=FORMATS, help="pickle, joblib or pickle,joblib")
    parser.add_argument("--large-mb", type=float, default=300, help="size of the large model's file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a bar chart to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table alone, to paste it")
    return parser.parse_args()


def _first_request_ms(server: Server, load: Load) -> float:
    begin = time.perf_counter()
    ask(server, load.path, load.body)
    return (time.perf_counter() - begin) * 1e3


def _measure_load(server: Server, load: Load, first: float, startup: float) -> Figures:
    before = _opens(server)
    outcome = load_with_python(server, load)
    opens = _opens(server) - before
    if outcome.errors or not outcome.requests:
        raise ServerError(f"{outcome.errors} of {outcome.requests} requests failed")
    return Figures(
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        requests_per_second=outcome.throughput,
        first_request_ms=first,
        startup_seconds=startup,
        rss_mb=memory_mb(server, "Rss"),
        pss_mb=memory_mb(server, "Pss"),
        opens_per_request=opens / outcome.requests,
        requests=outcome.requests,
    )


def _opens(server: Server) -> int:
    return int(json.loads(ask(server, "/opens"))["opens"])


def _medians(rounds: Sequence[Figures]) -> Figures:
    columns = ([getattr(figures, field.name) for figures in rounds] for field in fields(Figures))
    return Figures(*map(statistics.median, columns))


def _row(cell: Cell, figures: Figures) -> tuple[str, ...]:
    return (
        cell.model,
        cell.model_format,
        cell.strategy,
        short_number(figures.p50_ms),
        short_number(figures.p99_ms),
        f"{figures.requests_per_second:.1f}",
        f"{figures.first_request_ms:.1f}",
        f"{figures.startup_seconds:.2f}",
        f"{figures.rss_mb:.0f}",
        f"{figures.opens_per_request:.2f}",
    )


def _pad(text: str, width: int, to_left: bool) -> str:
    return text.ljust(width) if to_left else text.rjust(width)


def _report(results: Results, options: argparse.Namespace) -> None:
    if not options.markdown:
        print(*_conditions(options), sep="\n", end="\n\n")
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(cell) | asdict(results[cell]) for cell in results], indent=2) + "\n")
    if options.svg:
        options.svg.write_text(chart(results), encoding="utf-8")


def _conditions(options: argparse.Namespace) -> Iterator[str]:
    yield f"{options.connections} keep-alive connections, Python client in its own process, waitress with 4 threads;"
    yield f"at most {options.seconds:g} s or {options.requests} requests a cell; medians of {options.rounds} rounds."


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
