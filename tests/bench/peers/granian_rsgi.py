"""The prediction by hand on granian's own interface: its Rust threads read and write HTTP beside Python's thread."""

import gc
from typing import Any

from by_hand import answer

HEADERS = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    """Answer `POST /predict`."""
    if scope.method != "POST" or scope.path != "/predict":
        status, text = 404, b"{}"
    else:
        status, text = answer(await protocol())
    protocol.response_bytes(status, HEADERS, text)


gc.collect()
gc.freeze()
