"""Construction of the server of `flask serve`: the settings of waitress, the address, the number of connections."""

from __future__ import annotations

import ctypes
import socket
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from flaskml.errors import UnsupportedWaitress
from flaskml.server.addresses import LISTEN_BACKLOG
from flaskml.server.direct_requests import DirectHandler
from flaskml.server.memory_account import MemoryAccount
from flaskml.server.policy import ServerPolicy

if TYPE_CHECKING:
    from waitress.adjustments import Adjustments

    from flaskml.server.loop import EventLoop
    from flaskml.server.request_bodies import BodyLimits, RequestBodies


WAITRESS_ADJUSTMENTS: dict[str, Any] = {
    "connection_limit": 10_000,
    "cleanup_interval": 1,
    "max_request_header_size": 16_384,
    "channel_request_lookahead": 0,
    "outbuf_overflow": 64 * 2**20,
    "outbuf_high_watermark": 4 * 2**20,
    "recv_bytes": 65_536,
    "backlog": LISTEN_BACKLOG,
    "clear_untrusted_proxy_headers": False,
    "ident": "flaskml",
}
"""Settings that differ from waitress's defaults.

The event loop checks deadlines each second. Other servers also accept 16 KiB of headers; parsing them costs at most a
few milliseconds. No response below 64 MiB opens a temporary file. A thread that streams waits for its client while 4
MiB are unsent, so 64 threads hold 256 MiB. Forwarding headers are not removed from each request: `access` refuses them
where they would matter.
"""


DEFAULT_POLICY = ServerPolicy()
"""The limits of a server for which the caller passes none."""


RESERVED_DESCRIPTORS = 256
"""File descriptors that connections do not use: models, jobs, logs and child processes need them."""


MALLOC_ARENAS = 1
"""Arenas of malloc in a server process. With two, large requests on several threads left half as much again in memory.
"""

MAPPED_ALLOCATION_BYTES = 2**18
"""Bytes from which an allocation is a memory mapping of its own, which is returned to the system when it is freed. By
default, the limit grows with the freed blocks, and large bodies leave holes in the heap."""

_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3


def is_supported() -> bool:
    """Return whether the event loop can run here: it needs epoll, which only Linux has."""
    import select

    return hasattr(select, "epoll")


def build_server(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    listening_socket: socket.socket | None = None,
    policy: ServerPolicy = DEFAULT_POLICY,
    handler: DirectHandler | None = None,
    body_limits: BodyLimits | None = None,
    **adjustments: Any,
) -> EventLoop:
    """Return a server that listens; its `run` serves in the thread that calls it.

    `handler` answers predictions on the event loop; without one, every request goes through WSGI. `listening_socket` is
    a bound TCP or Unix socket; it replaces `host` and `port`. `body_limits` are the limits of bodies by route; without
    them, `max_request_body_size` limits each body. `adjustments` are settings of waitress that override
    `WAITRESS_ADJUSTMENTS`. Raises `UnsupportedWaitress`, and OSError if the address cannot be bound.
    """
    check_waitress()
    from waitress.adjustments import Adjustments

    from flaskml.server.loop import TcpServer, UnixServer

    options = {**WAITRESS_ADJUSTMENTS, **adjustments}
    if listening_socket is not None and listening_socket.family == socket.AF_UNIX:
        adj = Adjustments(unix_socket=listening_socket.getsockname(), **options)
        adj.bodies = _request_bodies(adj, policy, body_limits)
        return UnixServer(app, adj, _sockinfo(listening_socket), policy, handler, listening_socket)
    adj = Adjustments(host=host, port=port, **options)
    adj.bodies = _request_bodies(adj, policy, body_limits)
    sockinfo = _sockinfo(listening_socket) if listening_socket else adj.listen[0]
    return TcpServer(app, adj, sockinfo, policy, handler, listening_socket)


def _request_bodies(adj: Adjustments, policy: ServerPolicy, limits: BodyLimits | None) -> RequestBodies:
    from flaskml.server.request_bodies import MAX_SMALL_BODY_BYTES, BodyLimit, EqualLimits, RequestBodies

    max_bytes = adj.max_request_body_size - 1  # Waitress refuses a body of this size.
    return RequestBodies(
        limits or EqualLimits(BodyLimit(max_bytes, "MAX_CONTENT_LENGTH")),
        MemoryAccount(policy.body_memory_bytes),
        min(MAX_SMALL_BODY_BYTES, max_bytes),
    )


def _sockinfo(sock: socket.socket) -> tuple[Any, ...]:
    """Return waitress's description of the address that a bound socket listens on."""
    return (sock.family, sock.type, sock.proto, sock.getsockname())


def max_connections() -> int:
    """Raise the soft limit of file descriptors to the hard limit; return how many connections that allows."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # Some kernels refuse the hard limit that they report.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    connection_limit: int = WAITRESS_ADJUSTMENTS["connection_limit"]
    if soft == resource.RLIM_INFINITY:
        return connection_limit
    return min(connection_limit, max(soft - RESERVED_DESCRIPTORS, soft // 2))


def configure_malloc() -> None:
    """Let all threads of this process allocate from one arena of the C library, and map large blocks by themselves.

    With an arena per thread, memory that one thread frees is not used by another one. The GIL leaves little contention.
    """
    with suppress(AttributeError):  # Only the C library of Linux has it.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, MALLOC_ARENAS)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_ALLOCATION_BYTES)


def check_waitress() -> None:
    """Raise `UnsupportedWaitress` unless waitress 3 is installed with the internals that the event loop overrides."""
    from waitress import channel, parser, receiver, server, task

    needed = {
        channel.HTTPChannel: ("_flush_some", "_flush_exception", "send_continue", "service"),
        parser.HTTPRequestParser: ("received", "parse_header", "get_body_stream"),
        receiver.ChunkedReceiver: ("received", "getfile", "getbuf"),
        task.WSGITask: ("get_environment", "build_response_header"),
        task.ThreadedTaskDispatcher: ("add_task", "set_thread_count"),
        server.TcpWSGIServer: ("add_task", "pull_trigger", "maintenance", "handle_accept"),
    }
    missing = [f"{kind.__name__}.{name}" for kind, names in needed.items() for name in names if not hasattr(kind, name)]
    installed_version = version("waitress")
    if missing or not installed_version.startswith("3."):
        raise UnsupportedWaitress(installed_version, missing)
