"""The listening sockets of `flask serve`: on a TCP port, one per worker, or on a Unix socket that all workers share."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from typing import Any

from flaskml.errors import AddressUnavailable

LISTEN_BACKLOG = 2048
"""Connections that the kernel keeps for a listening socket until they are accepted."""

ALL_ADDRESSES = ("", "*", "::")
"""Values of `host` that mean all IPv6 and IPv4 addresses of this machine."""

MAX_UNIX_PATH_BYTES = 107
"""Bytes of the longest path of a Unix socket on Linux."""

UNIX_SOCKET_MODE = 0o600
"""Permissions of a Unix socket: a client needs the right to write."""

IPV4_MAPPED_PREFIX = "::ffff:"
"""Beginning of the address of an IPv4 client on an IPv6 socket (RFC 4291, section 2.5.5.2)."""

_REASONS = {
    errno.EADDRINUSE: "another process listens there; stop it, choose another --port, or share the port (--reuse-port)",
    errno.EACCES: "this user may not listen on it; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "this machine does not have that address; choose another --host",
}


def open_tcp_sockets(count: int, host: str, port: int, *, shares_port: bool = False) -> list[socket.socket]:
    """Return `count` listening sockets on one address, among which the kernel spreads connections (SO_REUSEPORT).

    Port 0 chooses a free one. With `shares_port`, servers of the same user may listen on the address too. Raises
    `AddressUnavailable`.
    """
    sockets: list[socket.socket] = []
    try:
        family, address = _resolve(host, port)
        if not shares_port:
            with _bind(family, address, shares_port=False) as probe:  # Fails if any other server listens there.
                address = probe.getsockname()
        for _ in range(count):
            sockets.append(_bind(family, address, shares_port=True))
            address = sockets[0].getsockname()
        for sock in sockets:
            sock.listen(LISTEN_BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise AddressUnavailable(f"{host or '*'}:{port}", _reason(error, host)) from error
    return sockets


def open_unix_socket(path: str, mode: int = UNIX_SOCKET_MODE, group: str | None = None) -> socket.socket:
    """Return a listening Unix socket with these permissions, in the place of one without a server.

    Raises `AddressUnavailable`, also if the path holds any other file or the socket of a running server.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
            raise AddressUnavailable(path, f"a path may have at most {MAX_UNIX_PATH_BYTES} bytes")
        _remove_unused(path)
        umask = os.umask(0o777)  # Until the group is set, no other user may connect.
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        if group is not None:
            shutil.chown(path, group=group)
        os.chmod(path, mode)
        sock.setblocking(False)
        sock.listen(LISTEN_BACKLOG)
    except (OSError, LookupError, AddressUnavailable) as error:
        sock.close()
        if isinstance(error, AddressUnavailable):
            raise
        reason = f'there is no group "{group}"' if isinstance(error, LookupError) else _text(error)
        raise AddressUnavailable(path, reason) from error
    return sock


def url_of(sock: socket.socket) -> str:
    """Return the URL that reaches a listening socket from this machine; for a Unix socket, `unix:` and its path."""
    name: Any = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(name[0], name[0])
    return f"http://[{host}]:{name[1]}" if ":" in host else f"http://{host}:{name[1]}"


def is_wildcard(sock: socket.socket) -> bool:
    """Return whether a listening socket accepts connections on all addresses of this machine."""
    return sock.family != socket.AF_UNIX and sock.getsockname()[0] in ("::", "0.0.0.0")


def without_ipv4_mapping(host: str) -> str:
    """Return the IPv4 address of a client that an IPv6 socket shows in its mapped form; any other address unchanged."""
    mapped = host.removeprefix(IPV4_MAPPED_PREFIX)
    return mapped if "." in mapped else host


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """Return address family and address to bind. A name with addresses of both families means the IPv4 address."""
    if host in ALL_ADDRESSES:
        return (socket.AF_INET6, ("::", port)) if _has_ipv6() else (socket.AF_INET, ("0.0.0.0", port))
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def _bind(family: int, address: Any, *, shares_port: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_unused(path: str) -> None:
    """Remove a Unix socket that no server listens on. Raises `AddressUnavailable` for anything else at the path."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AddressUnavailable(path, "there is a file that is not a socket; remove it, or choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise AddressUnavailable(path, "another process listens there; stop it, or choose another path")


def _reason(error: OSError, host: str) -> str:
    if isinstance(error, socket.gaierror):
        return f'there is no host "{host}"; choose another --host'
    return _REASONS.get(error.errno or 0, _text(error))


def _text(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
