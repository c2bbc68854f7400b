"""Measure what one and several server processes on one large model hold: do they share the pages of its arrays?

Each model is published into a store of its own, trial included, and served by `waitress-serve wsgi:app`: by one
process, then by several, each of which has answered one prediction. PSS counts a page that several processes map in
equal parts, so its sum is what the machine spends on all of them. A page of a mapped file counts once it has been read:
a search tree reads few for one row, a product of matrices all. The tiny model of the first row shows what a process
holds without one. Memory does not depend on how busy the machine is.

With `--flask-serve`, the processes are the workers of one `flask serve` and their supervisor. They are measured again
after the model was published three more times.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_models import SEED, large_model, small_model
from harness import Launch, Server, ServerError, ask, exit_on_terminate, memory_mb, serve
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.svm import SVR

from flaskml import publish
from flaskml.store.manifest import MODEL_FILE
from flaskml.store.model_store import ModelStore, environment_key

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = ("waitress-serve", "--listen=127.0.0.1:{port}", "wsgi:app")
FLASK_SERVE = ("flask", "serve", "--port", "{port}", "--workers")
SWAPS = 3
ASKED = 40
"""Requests, each on a connection of its own, after which every worker has answered some."""

SWAP_SECONDS = 120
SAMPLE_ROWS = 40
DOUBLE = 8


@dataclass(frozen=True)
class Figures:
    """Measurements of one model, in megabytes of 1,000,000 bytes; PSS by the number of processes."""

    file_mb: float
    mapped: bool
    pss_mb: Mapping[int, float]
    swapped_mb: float | None = None
    """PSS of all processes after the swaps, where workers were measured."""


def neighbours(algorithm: str, features: int) -> Callable[[float], Any]:
    """Return what makes a kNN regressor of about some bytes; a tree holds the rows a second time, in its own order."""

    def build(size: float) -> KNeighborsRegressor:
        copies = 1 if algorithm == "brute" else 2
        rows = max(SAMPLE_ROWS, round(size / DOUBLE / (copies * features + copies)))
        table = sample(features, rows)
        return KNeighborsRegressor(algorithm=algorithm).fit(table, table.sum(axis=1))

    return build


def linear(size: float, features: int = 128) -> LogisticRegression:
    """Return a linear classifier of about that many bytes: three classes are fitted, all others made up."""
    classes = max(3, round(size / DOUBLE / (features + 2)))
    table = sample(features)
    model = LogisticRegression().fit(table, np.arange(SAMPLE_ROWS) % 3)
    model.classes_ = np.arange(classes)
    model.coef_ = sample(features, classes)
    model.intercept_ = np.zeros(classes)
    return model


def support_vectors(size: float, features: int = 32) -> SVR:
    """Return an SVR of about that many bytes: fitted to a few rows, and with made-up vectors in place of theirs."""
    count = max(SAMPLE_ROWS, round(size / DOUBLE / (features + 2.5)))
    table = sample(features)
    model = SVR().fit(table, table.sum(axis=1))
    model.support_vectors_ = sample(features, count)
    model.support_ = np.arange(count, dtype=np.int32)
    model.dual_coef_ = model._dual_coef_ = np.resize(model.dual_coef_, (1, count))
    model._n_support = np.array([count, 0], dtype=np.int32)
    model.shape_fit_ = (count, features)
    return model


def network(size: float, features: int = 32) -> MLPRegressor:
    """Return a network of about that many bytes with two wide layers: fitted narrow, widened with made-up weights."""
    width = max(2, round(math.sqrt(size / DOUBLE)))
    table = sample(features)
    model = MLPRegressor(hidden_layer_sizes=(2, 2), solver="lbfgs", max_iter=1000).fit(table, table.sum(axis=1))
    model.hidden_layer_sizes = (width, width)
    model.coefs_ = [sample(width, features), sample(width, width) / math.sqrt(width), sample(1, width)]
    model.intercepts_ = [np.zeros(width), np.zeros(width), np.zeros(1)]
    return model


def sample(features: int, rows: int = SAMPLE_ROWS) -> np.ndarray:
    """Return a table of normal numbers, the same each time."""
    return np.random.default_rng(SEED).normal(size=(rows, features))


ESTIMATORS: Mapping[str, Callable[[float], Any]] = {
    "tiny": lambda size: small_model(),
    "knn-tree": neighbours("kd_tree", features=8),
    "knn-brute": neighbours("brute", features=32),
    "linear": linear,
    "svm": support_vectors,
    "mlp": network,
    "forest": lambda size: large_model(size / 1e6),
}
"""Factories of estimators, each of about the given number of bytes on disk."""


def main() -> None:
    """Run the benchmark as the command line asks, and print its table."""
    exit_on_terminate()
    options = _parse()
    print(*_head(options.processes, is_flask_serve=options.flask_serve), sep="\n", flush=True)
    for name in options.estimators:
        model = ESTIMATORS[name](options.size_mb * 1e6)
        with tempfile.TemporaryDirectory() as folder:
            try:
                measured = measure_workers if options.flask_serve else measure
                figures = measured(model, Path(folder) / "instance", options.processes)
            except ServerError as error:
                sys.exit(f"{name}: {error}")
        print(_row(f"{type(model).__name__} ({name})", figures, options.processes), flush=True)


def measure(model: Any, instance: Path, processes: int) -> Figures:
    """Publish the model into a new instance folder and serve it by one process and by several."""
    table = sample(model.n_features_in_)
    version = publish(model, table, instance_path=instance, runtime="sklearn")
    store = ModelStore(instance)
    verdict = store.state("default").verdict(version, environment_key())
    size = store.manifest("default", version).files[MODEL_FILE].size
    body = json.dumps({"instances": table[:1].tolist()})
    pss = {count: pss_mb(instance, body, count) for count in sorted({1, processes})}
    return Figures(size / 1e6, verdict is not None and verdict.mapped, pss)


def pss_mb(instance: Path, body: str, processes: int) -> float:
    """Return the PSS of all processes together, each of which has answered the body."""
    launch = Launch(COMMAND, CHECKOUT, {"FLASKML_INSTANCE_PATH": str(instance)})
    with ExitStack() as stack:
        servers = [stack.enter_context(serve(launch)) for _ in range(processes)]
        for server in servers:
            ask(server, "/predict", body)
        return sum(memory_mb(server, "Pss") for server in servers)


def measure_workers(model: Any, instance: Path, processes: int) -> Figures:
    """Publish the model and serve it by one worker and by several; publish it again and again while these serve."""
    table = sample(model.n_features_in_)
    body = json.dumps({"instances": table[:1].tolist()})
    publish(model, table, instance_path=instance, runtime="sklearn")
    size = ModelStore(instance).size("default", "1")
    variables = {"FLASKML_INSTANCE_PATH": str(instance)}
    pss = {}
    for count in sorted({1, processes}):
        with serve(Launch((*FLASK_SERVE, str(count)), CHECKOUT, variables)) as server:
            _ask_all(server, body)
            pss[count] = memory_mb(server, "Pss")
            for _ in range(SWAPS if count == processes else 0):
                version = publish(model, table, instance_path=instance, runtime="sklearn")
                _await_version(server, body, version)
            _ask_all(server, body)
            swapped = memory_mb(server, "Pss")
    return Figures(size / 1e6, True, pss, swapped)


def _ask_all(server: Server, body: str) -> set[str]:
    return {json.loads(ask(server, "/predict", body))["version"] for _ in range(ASKED)}


def _await_version(server: Server, body: str, version: str) -> None:
    """Wait until every worker answers with the new version and the old workers have ended."""
    end = time.monotonic() + SWAP_SECONDS
    while _ask_all(server, body) != {version}:
        if time.monotonic() > end:
            raise ServerError(f"version {version} did not come into service")
        time.sleep(0.5)
    time.sleep(3)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size-mb", type=float, default=300, help="about how large each model file is (default 300)")
    parser.add_argument("--processes", type=int, default=4, help="how many processes share a model (default 4)")
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS), metavar="NAME")
    parser.add_argument("--flask-serve", action="store_true", help="measure the workers of flask serve")
    return parser.parse_args()


def _head(processes: int, *, is_flask_serve: bool) -> Iterator[str]:
    swapped = (f" after {SWAPS} swaps | ratio |", " ---: | ---: |") if is_flask_serve else ("", "")
    yield f"| estimator | file MB | mapped | PSS of 1, MB | PSS of {processes}, MB | ratio |{swapped[0]}"
    yield f"| --- | ---: | --- | ---: | ---: | ---: |{swapped[1]}"


def _row(name: str, figures: Figures, processes: int) -> str:
    one, several = figures.pss_mb[1], figures.pss_mb[processes]
    mapped = "yes" if figures.mapped else "no"
    swapped = "" if figures.swapped_mb is None else f" {figures.swapped_mb:.0f} | {figures.swapped_mb / one:.2f} |"
    return f"| {name} | {figures.file_mb:.3g} | {mapped} | {one:.0f} | {several:.0f} | {several / one:.2f} |{swapped}"


if __name__ == "__main__":
    main()
