"""A bare ASGI callable with msgspec and onnxruntime, without a framework: the fastest that is written by hand."""

import gc
from collections.abc import Awaitable, Callable
from typing import Any

from by_hand import answer

JSON = (b"content-type", b"application/json")


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]):
    """Answer `POST /predict`."""
    if scope["method"] != "POST" or scope["path"] != "/predict":
        status, text = 404, b"{}"
    else:
        event = await receive()
        body = event["body"]
        while event["more_body"]:
            event = await receive()
            body += event.get("body", b"")
        status, text = answer(body)
    headers = [JSON, (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


gc.collect()
gc.freeze()
