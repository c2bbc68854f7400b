"""The child process of a training job: `python -m flaskml.training`.

It reads one `TrainingOrder` as a line of JSON from standard input and writes `TrainingMessage`s, one line each, to
standard output. It ends when its standard input does: a job never outlives the server that started it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from flaskml.errors import FlaskmlError
from flaskml.training.messages import TrainingMessage, TrainingOrder
from flaskml.training.trainer import BUILT_IN_SOURCE, Stage, TrainingSource, run_training

NICENESS = 10
"""A fit yields the processor to the predictions of the server that started it."""


def _main() -> None:
    """Runs the ordered training and tells how it went."""
    order = TrainingOrder.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    tell = _teller(sys.stdout)
    sys.stdout = sys.stderr  # What an estimator prints is not a message.
    tell(_run(order, tell))


def _run(order: TrainingOrder, tell: Callable[[TrainingMessage], None]) -> TrainingMessage:
    def report(stage: Stage) -> None:
        tell(TrainingMessage(stage=stage.name, progress=stage.fraction))

    source = TrainingSource(Path(order.file), order.file_name) if order.file else BUILT_IN_SOURCE
    try:
        training = run_training(order.spec, order.settings, report, source)
    except FlaskmlError as error:
        return TrainingMessage(failure=error.detail)
    manifest = training.manifest
    return TrainingMessage(version=manifest.version, score=manifest.score)


def _teller(stream: TextIO) -> Callable[[TrainingMessage], None]:
    def tell(message: TrainingMessage) -> None:
        stream.write(message.model_dump_json() + "\n")
        stream.flush()

    return tell


def _end_with(stream: TextIO) -> None:
    """Waits for the end of the stream, which is the end of the parent."""
    stream.read()
    os._exit(1)


if __name__ == "__main__":
    _main()
