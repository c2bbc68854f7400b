"""The engine of `flask serve`: made, with its limits, on top of waitress's own classes."""

from __future__ import annotations

import socket
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from flaskml.errors import EngineUnavailable
from flaskml.server.policy import ServerPolicy

if TYPE_CHECKING:
    from flaskml.server.loop import EventLoop


WAITRESS_ADJUSTMENTS: dict[str, Any] = {
    "connection_limit": 10_000,
    "cleanup_interval": 1,
    "max_request_header_size": 16_384,
    "channel_request_lookahead": 0,
    "inbuf_overflow": 64 * 2**20,
    "outbuf_overflow": 64 * 2**20,
    "recv_bytes": 65_536,
    "backlog": 2048,
    "clear_untrusted_proxy_headers": False,
    "ident": "flaskml",
}
"""How the engine differs from waitress's defaults.

Deadlines are looked at each second. Headers of 16 KiB are what other servers take, and cost at most a few milliseconds.
No body and no answer below 64 MiB opens a temporary file; and forwarding headers are
refused where they would matter (`access`) instead of being removed from each request.
"""


DEFAULT_POLICY = ServerPolicy()
"""How the engine treats those who ask, if nothing else is said."""


RESERVED_DESCRIPTORS = 256
"""Descriptors for all that is no connection: models, jobs, logs, children."""


def is_supported() -> bool:
    """Whether what the engine needs is here: greenlets, and epoll, which Linux has."""
    import select

    return find_spec("greenlet") is not None and hasattr(select, "epoll")


def build_server(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    unix_socket: str | None = None,
    listening: socket.socket | None = None,
    policy: ServerPolicy = DEFAULT_POLICY,
    **limits: Any,
) -> EventLoop:
    """An engine that listens, and serves once told to `run`, in the thread that made it.

    `listening` is a socket that is bound already, instead of an address. `limits` are waitress's own, instead of
    `WAITRESS_ADJUSTMENTS`. Raises `EngineUnavailable`, or OSError for the address.
    """
    check_waitress()
    from waitress.adjustments import Adjustments

    from flaskml.server.loop import TcpServer, UnixServer

    if unix_socket is not None:
        adj = Adjustments(unix_socket=unix_socket, **{**WAITRESS_ADJUSTMENTS, **limits})
        return UnixServer(app, adj, (socket.AF_UNIX, socket.SOCK_STREAM, None, None), policy)
    adj = Adjustments(host=host, port=port, **{**WAITRESS_ADJUSTMENTS, **limits})
    return TcpServer(app, adj, _described(listening) if listening else adj.listen[0], policy, listening)


def _described(sock: socket.socket) -> tuple[Any, ...]:
    """A bound socket as waitress describes the address that it listens on."""
    return (sock.family, sock.type, sock.proto, sock.getsockname())


def max_connections() -> int:
    """How many connections this process can bear, after its limit of descriptors is raised as far as it may be."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # Some kernels refuse what they say is the limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    most: int = WAITRESS_ADJUSTMENTS["connection_limit"]
    return most if soft == resource.RLIM_INFINITY else min(most, max(soft - RESERVED_DESCRIPTORS, soft // 2))


def check_waitress() -> None:
    """Raises `EngineUnavailable` unless waitress has inside what the engine builds on."""
    from waitress import channel, parser, receiver, server, task

    needed = {
        channel.HTTPChannel: ("_flush_some", "_flush_exception", "_flush_outbufs_below_high_watermark", "service"),
        parser.HTTPRequestParser: ("received", "parse_header", "get_body_stream"),
        receiver.ChunkedReceiver: ("received", "getfile", "getbuf"),
        task.WSGITask: ("get_environment", "build_response_header", "has_body"),
        server.TcpWSGIServer: ("add_task", "pull_trigger", "maintenance", "handle_accept"),
    }
    missing = [f"{kind.__name__}.{name}" for kind, names in needed.items() for name in names if not hasattr(kind, name)]
    found = version("waitress")
    if missing or not found.startswith("3."):
        raise EngineUnavailable(found, missing)
