"""A version in memory, and the place that the current one is read from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

from flaskml.codecs.answers import Answer, encode_json, json_answers
from flaskml.codecs.parser import Parser, Rows
from flaskml.codecs.range_warnings import RangeWarnings
from flaskml.errors import MethodNotOffered, RowsRefused
from flaskml.inference.batching import Batcher
from flaskml.inference.warmup import EXAMPLE_ROWS, example_rows, warm_up
from flaskml.runtimes import open_runtime
from flaskml.schema.features import Schema
from flaskml.store.manifest import LoadedVersion, Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictor:
    """One version, ready to answer, never changed. Whoever answers a request holds one from its start to its end."""

    manifest: Manifest
    parser: Parser
    batcher: Batcher
    range_warnings: RangeWarnings
    signature: bytes
    """The end of every JSON answer: which model and version gave it."""

    @property
    def schema(self) -> Schema:
        """The features that a row has."""
        return self.manifest.schema_

    def parse(self, body: bytes) -> Rows:
        """The rows in a JSON body. Raises `NotParseable`, `InvalidInput` or `TooManyRows`."""
        return self.parser.parse_json(body)

    def predict(self, rows: Rows, method: str | None = None) -> Answer:
        """One item per row: shape (rows,), or (rows, columns), or a list of such for several outputs.

        Without a `method`, the first one of the manifest answers. Raises `RowsRefused` for rows that the estimator
        refuses.
        """
        if not rows.values:
            return np.empty(0)
        try:
            return self.batcher.ask(rows, method or self.manifest.methods[0])
        except MemoryError:
            raise
        except Exception as error:  # An estimator may raise anything at rows that it does not like.
            # What it says may hold values of rows.
            raised = type(error).__name__
            logger.warning("%s version %s refused rows (%s)", self.manifest.model, self.manifest.version, raised)
            raise RowsRefused from error

    def warm(self) -> None:
        """Finds what it costs to answer made-up rows, so that no client does. Raises what the estimator does."""
        some = self.parser.parse_table(example_rows(self.schema, EXAMPLE_ROWS)).values
        warm_up(self.batcher, self.parser.table_builder, some, self.manifest.methods)

    def method(self, name: str | None) -> str:
        """The method of that name; of none, the one that answers then. Raises `MethodNotOffered`."""
        if name is not None and name not in self.manifest.methods:
            raise MethodNotOffered(name, self.manifest.methods)
        return name or self.manifest.methods[0]

    def values(self, answer: Answer, method: str, top: int | None = None) -> list[Any]:
        """What the method answered as values for JSON, one a row; of probabilities the `top` most probable."""
        return json_answers(answer, method, self.manifest.classes, top)

    def answer(self, rows: Rows, values: list[Any], warnings: Sequence[Mapping[str, Any]] = ()) -> bytes:
        """The values as JSON of the native contract; what is not finite becomes null."""
        start, value = (b'{"prediction":', values[0]) if rows.is_single else (b'{"predictions":', values)
        if not warnings:
            return b"".join((start, encode_json(value), self.signature))
        return b"".join((start, encode_json(value), self.signature[:-1], b',"warnings":', encode_json(warnings), b"}"))


def open_predictor(bundle: LoadedVersion, *, max_rows: int) -> Predictor:
    """The predictor of a bundle: all that can be computed before the first request is computed here."""
    manifest = bundle.manifest
    runtime = open_runtime(bundle)
    parser = Parser(manifest.schema_, max_rows=max_rows, table_builder=runtime.table_builder)
    signature = to_json({"model": manifest.model, "version": manifest.version})
    return Predictor(
        manifest=manifest,
        parser=parser,
        batcher=Batcher(runtime.compute, runtime.table_builder.build, manifest.methods),
        range_warnings=RangeWarnings(manifest.schema_),
        signature=b"," + signature[1:],
    )
