"""A bare ASGI callable for mixed columns: a msgspec struct, and an ONNX graph with one input for each column."""

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
from given import FEATURES, KINDS, PREDICTION, session

JSON = (b"content-type", b"application/json")
Row = msgspec.defstruct("Row", list(zip(FEATURES, KINDS, strict=True)), gc=False)
DTYPES = [(name, np.float32 if kind is float else object) for name, kind in zip(FEATURES, KINDS, strict=True)]
decoder = msgspec.json.Decoder(Row)
run = session().run


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]):
    """Answer `POST /predict`."""
    event = await receive()
    body = event["body"]
    while event["more_body"]:
        event = await receive()
        body += event.get("body", b"")
    row = decoder.decode(body)
    inputs = {name: np.array([[getattr(row, name)]], dtype) for name, dtype in DTYPES}
    text = msgspec.json.encode({"prediction": PREDICTION(run(None, inputs)[0].ravel()[0])})
    headers = [JSON, (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


gc.collect()
gc.freeze()
