"""A bare ASGI callable for many rows: lists of numbers with msgspec, and one call of onnxruntime."""

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
from given import PREDICTION, session

Body = msgspec.defstruct("Body", [("instances", list[list[float]])], gc=False)
Answer = msgspec.defstruct("Answer", [("predictions", list[PREDICTION]), ("model", str), ("version", str)], gc=False)
decoder, encoder = msgspec.json.Decoder(Body), msgspec.json.Encoder()
graph = session()
feed, outputs = graph.get_inputs()[0].name, [graph.get_outputs()[0].name]


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]):
    """Answer `POST /predict`."""
    event = await receive()
    body = event["body"]
    while event["more_body"]:
        event = await receive()
        body += event.get("body", b"")
    rows = np.array(decoder.decode(body).instances, np.float32)
    text = encoder.encode(Answer(graph.run(outputs, {feed: rows})[0].ravel().tolist(), "default", "1"))
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


gc.collect()
gc.freeze()
