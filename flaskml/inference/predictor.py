"""The predictor: one version in memory, which parses rows and answers them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from pydantic_core import to_json

from flaskml.codecs.answers import Answer, encode_json, json_answers
from flaskml.codecs.parser import Parser
from flaskml.codecs.range_warnings import RangeWarnings
from flaskml.codecs.rows import Rows
from flaskml.errors import MethodNotOffered, Problem, RowsRefused
from flaskml.inference.batching import Batcher
from flaskml.inference.warmup import EXAMPLE_ROWS, example_rows, warm_up
from flaskml.runtimes import open_runtime
from flaskml.schema.columns import Columns
from flaskml.schema.features import Schema
from flaskml.store.manifest import LoadedVersion, Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """One version in memory, ready to answer and immutable. A request uses one predictor from its start to its end."""

    manifest: Manifest
    parser: Parser
    batcher: Batcher
    range_warnings: RangeWarnings
    json_suffix: bytes
    """The end of every JSON answer: the names of the model and the version that gave it."""

    @property
    def schema(self) -> Schema:
        """The schema of a row."""
        return self.manifest.schema_

    def parse(self, body: bytes) -> Rows:
        """Return the rows of a JSON body. Raises `NotParseable`, `InvalidInput` or `TooManyRows`."""
        return self.parser.parse_json(body)

    def predict(self, rows: Rows, method: str | None = None) -> Answer:
        """Return one item per row: shape (rows,) or (rows, columns), or a list of such arrays for several outputs.

        Without `method`, the first method of the manifest answers. Raises `RowsRefused` for rows that the estimator
        refuses.
        """
        if not rows.values:
            return np.empty(0)
        return self._ask(lambda: self.batcher.ask(rows, method or self.manifest.methods[0]))

    def predict_columns(self, columns: Columns, method: str) -> Answer:
        """Return the same for columns with valid values of at least one row."""
        return self._ask(lambda: self.batcher.compute(self.parser.table_builder.build_columns(columns), method))

    def _ask(self, compute: Callable[[], Answer]) -> Answer:
        """Return the answer of the estimator. Raises `RowsRefused` if it raises an exception."""
        try:
            return compute()
        except MemoryError:
            raise
        except Exception as error:  # An estimator may raise any exception for rows that it refuses.
            # Only the type is logged: the message may contain values of the rows.
            raised = type(error).__name__
            logger.warning("%s version %s refused rows (%s)", self.manifest.model, self.manifest.version, raised)
            raise RowsRefused from error

    def warm_up(self) -> None:
        """Compute and time made-up rows, so that no client waits for it. Raises what the estimator raises."""
        example_values = self.parser.parse_table(example_rows(self.schema, EXAMPLE_ROWS)).values
        warm_up(self.batcher, self.parser.table_builder, example_values, self.manifest.methods)

    def resolve_method(self, name: str | None) -> str:
        """Return `name`, or the first method of the manifest for None. Raises `MethodNotOffered`."""
        if name is not None and name not in self.manifest.methods:
            raise MethodNotOffered(name, self.manifest.methods)
        return name or self.manifest.methods[0]

    def json_values(self, answer: Answer, method: str, top: int | None = None) -> list[Any]:
        """Return one JSON value per row of a method's answer; with `top`, only the `top` most probable classes."""
        return json_answers(answer, method, self.manifest.classes, top)

    def answer_batch(
        self,
        batch: Sequence[Rows],
        method: str,
        warnings_as_json: Callable[[Sequence[Problem]], Sequence[Mapping[str, Any]]],
        *,
        may_wait: bool = False,
    ) -> list[bytes]:
        """Return the JSON body of the native contract for each request of a batch, computed in one call.

        With `may_wait`, the call of a slow model is shared with other threads that ask for it. Raises what the
        estimator raises, and ValueError if it answers a different number of rows.
        """
        is_shared = len(batch) > 1
        rows = batch[0]
        if is_shared:
            values = list(chain.from_iterable(part.values for part in batch))
            rows = Rows(values, self.parser.table_builder, is_single=False)
        compute = self.batcher.ask if may_wait else self.batcher.compute_alone
        answers = self.json_values(compute(rows, method), method)
        if len(answers) != len(rows.values):
            raise ValueError("the estimator answered a different number of rows than it was given")
        bodies, start = [], 0
        for part in batch:
            end = start + len(part.values)
            warnings = self.range_warnings.find(part)
            part_answers = answers[start:end] if is_shared else answers
            bodies.append(self.encode_answer(part, part_answers, warnings_as_json(warnings) if warnings else ()))
            start = end
        return bodies

    def encode_answer(self, rows: Rows, values: list[Any], warnings: Sequence[Mapping[str, Any]] = ()) -> bytes:
        """Return the JSON body of the native contract; a number that is not finite becomes null."""
        start, value = (b'{"prediction":', values[0]) if rows.is_single else (b'{"predictions":', values)
        if not warnings:
            return b"".join((start, encode_json(value), self.json_suffix))
        return b"".join(
            (start, encode_json(value), self.json_suffix[:-1], b',"warnings":', encode_json(warnings), b"}")
        )


def open_predictor(loaded: LoadedVersion, *, max_rows: int) -> Predictor:
    """Build the predictor of a loaded version. Computes here what can be computed before the first request."""
    manifest = loaded.manifest
    runtime = open_runtime(loaded)
    parser = Parser(manifest.schema_, max_rows=max_rows, table_builder=runtime.table_builder)
    model_and_version = to_json({"model": manifest.model, "version": manifest.version})
    return Predictor(
        manifest=manifest,
        parser=parser,
        batcher=Batcher(
            runtime.compute,
            runtime.table_builder.build,
            manifest.methods,
            is_thread_safe=runtime.is_thread_safe,
        ),
        range_warnings=RangeWarnings(manifest.schema_),
        json_suffix=b"," + model_and_version[1:],
    )
