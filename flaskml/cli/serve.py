"""`flask serve`: parse the options, open the listening sockets, and run the supervisor."""

from __future__ import annotations

import logging
import os
import socket
from functools import partial
from typing import Any

import click
from flask.cli import ScriptInfo, pass_script_info

from flaskml.cli import errors_as_messages


class OctalMode(click.ParamType[int]):
    """Permissions in octal digits, such as 660."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the permissions as a number."""
        try:
            mode = value if isinstance(value, int) else int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is not a mode such as 660.", param, ctx)
        return int(mode)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; '*' means all.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 picks a free one."
)
@click.option("--reuse-port", is_flag=True, help="Share the port with another running flask serve of this user.")
@click.option("--unix-socket", type=click.Path(), help="Listen on this Unix socket instead of a port.")
@click.option("--unix-socket-mode", type=OctalMode(), default=0o600, help="Its permissions.  [default: 600]")
@click.option("--unix-socket-group", help="Its group, such as the one of nginx.")
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: one per available processor]"
)
@click.option("--preload/--no-preload", default=True, help="Load the app before workers are forked.  [default: yes]")
@pass_script_info
def serve_command(
    info: ScriptInfo,
    host: str,
    port: int,
    reuse_port: bool,
    unix_socket: str | None,
    unix_socket_mode: int,
    unix_socket_group: str | None,
    workers: int | None,
    preload: bool,
) -> None:
    """Serve the models over HTTP: predictions on an event loop, in batches, and all other requests on threads.

    The event loop needs Linux; elsewhere, `flask serve` runs waitress and prints a message. The app is the one that
    flask finds (--app, wsgi.py), or else one with the models in ./instance.

    PREDICTIONS. The event loop answers predictions in JSON itself, without Flask, if no hook, signal or middleware of
    the app would notice; the startup line says which one would. DIRECT=always or never overrides that. All other
    requests run on THREADS threads, as on waitress-serve.

    WORKERS. A supervisor forks the workers. Each is a process with one event loop. Models are loaded before the fork,
    so that workers share memory (copy-on-write). Threads that the app starts when it is imported do not run in the
    workers; with --no-preload, each worker loads the app itself. A worker that dies, or whose event loop has not run
    for WORKER_TIMEOUT seconds, is replaced, and its successor serves the connections that wait. Workers swap in a new
    version of a model (hot reload). For one of 16 MiB or more, new workers replace them, so that one copy stays shared.

    SIGNALS. SIGTERM or Ctrl-C is a graceful shutdown: /readyz answers 503, new connections are refused, and accepted
    requests are answered within DRAIN_TIMEOUT seconds; a second signal stops at once. SIGHUP is a rolling restart:
    configuration and models are loaded again and the workers replaced one by one, without a failed request. A model
    that does not load is served as before, and training jobs run to their end. If the terminal of the server has
    closed, SIGHUP stops it.

    LIMITS. Load shedding: above MAX_QUEUE unanswered requests in a worker, or after the timeout that the request states
    in X-Envoy-Expected-Rq-Timeout-Ms, the answer is 503 with Retry-After. /livez and /readyz are answered first and
    never refused. With no ADMIN_TOKEN_SHA256, only this machine may change state, whatever --host is: clients on a
    loopback address, or with the right to write to the Unix socket.

    \b
    EXAMPLES
      flask serve
      flask serve --host '*' --port 80 --workers 4
      flask --app service:app serve --unix-socket /run/flaskml.sock --unix-socket-mode 660

    EXIT STATUS. 0 after a signal, 1 if the server cannot start, 2 for a usage error.
    """
    # pandas imports pyarrow if it is installed. Its allocator would start a thread, which does not survive the fork.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    # Two concurrent calls that each use all cores take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from flaskml.server.setup import check_waitress, is_supported

    with errors_as_messages():
        if not is_supported():
            click.echo("Serving on waitress: the event loop of flask serve needs Linux.", err=True)
            _serve_on_waitress(info, host, port, unix_socket)
            return
        check_waitress()
        count = workers or _processor_count()
        if unix_socket is None:
            sockets = _tcp_sockets(count, host, port, reuse_port)
        else:
            sockets = _unix_sockets(count, unix_socket, unix_socket_mode, unix_socket_group)
        _serve_with_workers(info, sockets, preloads=preload)


def _processor_count() -> int:
    """Return the number of processors that this process may use, by CPU affinity and container quota."""
    from joblib import cpu_count

    return int(cpu_count())


def _tcp_sockets(count: int, host: str, port: int, shares_port: bool) -> list[socket.socket]:
    from flaskml.server.addresses import open_tcp_sockets

    return open_tcp_sockets(count, host, port, shares_port=shares_port)


def _unix_sockets(count: int, path: str, mode: int, group: str | None) -> list[socket.socket]:
    """Return one socket `count` times: all workers accept on it."""
    from flaskml.server.addresses import open_unix_socket

    return [open_unix_socket(path, mode, group)] * count


def _serve_with_workers(info: ScriptInfo, sockets: list[socket.socket], *, preloads: bool) -> None:
    from flaskml.cli import served_app
    from flaskml.server.supervisor import Supervisor
    from flaskml.server.worker_pool import ServedProgram

    app_again = partial(served_app.load_app_again, info)

    def load(former: ServedProgram | None) -> ServedProgram:
        if preloads:
            return served_app.preload(app_again, former, processes=len(sockets))
        return served_app.AppOfWorkers(app_again, processes=len(sockets))

    Supervisor(load, sockets, lambda _: _log_address(sockets[0])).run()


def _serve_on_waitress(info: ScriptInfo, host: str, port: int, unix_socket: str | None) -> None:
    from waitress import create_server

    from flaskml.cli.served_app import load_app

    app = load_app(info)
    address = {"unix_socket": unix_socket} if unix_socket else {"host": host, "port": port}
    server = create_server(app, threads=app.extensions["settings"].threads, **address)
    _log_url(f"unix:{unix_socket}" if unix_socket else f"http://{server.effective_host}:{server.effective_port}")
    server.run()


def _log_address(sock: socket.socket) -> None:
    from flaskml.server.addresses import is_wildcard, url_of

    _log_url(f"{url_of(sock)} (all addresses of this machine)" if is_wildcard(sock) else url_of(sock))


def _log_url(url: str) -> None:
    """Log waitress's startup line, to which the app adds the served model."""
    logger = logging.getLogger("waitress")
    if not logger.handlers:
        logging.basicConfig(level=logging.INFO)
    logger.info("Serving on %s", url)
