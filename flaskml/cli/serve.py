"""`flask serve`: the app on the engine."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
from flask.cli import NoAppException, ScriptInfo, pass_script_info

from flaskml.cli import errors_as_messages

HEALTH_PATHS = frozenset({"/livez", "/readyz"})
"""What tells how the server is; it is answered before all else, however much waits."""

FALLBACK_THREADS = 32
"""Threads where the engine cannot run: as many calls as may share a batch."""


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--unix-socket", type=click.Path(), help="Listen on this socket instead of a port; with one worker.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that serve; 1 is this one.  [default: one for each processor it may use; 1 on a socket]",
)
@pass_script_info
def serve_command(info: ScriptInfo, host: str, port: int, unix_socket: str | None, workers: int | None) -> None:
    """Serve the models over HTTP, many requests in one call of the estimator.

    Needs Linux and pip install 'flaskml[fast]'; elsewhere it serves on waitress's threads, and says so. It serves the
    app that flask finds (--app, wsgi.py), or else the models in ./instance.

    WORKERS. Each is a process that answers on one thread. Models are loaded before these are forked, so that they
    share the memory. One that dies is replaced, and what waited for it is served by the next. A new version of a model
    is swapped in within the workers; one of 16 MiB or more comes with new workers, so that one copy stays shared.

    SIGNALS. SIGTERM or Ctrl-C: /readyz answers 503, nobody new is accepted, and everything that was is answered, within
    DRAIN_TIMEOUT seconds; a second one ends it at once. SIGHUP: configuration and models are
    read anew and the workers replaced one by one, without a failed request; --workers 1 has none to replace.

    LIMITS. Above MAX_QUEUE unanswered requests in a worker, and where X-Envoy-Expected-Rq-Timeout-Ms has passed, the
    answer is 503 with Retry-After; /livez and /readyz go before all else. With no ADMIN_TOKEN_SHA256, only this machine
    may change state, whatever the host.

    \b
    EXAMPLES
      flask serve
      flask serve --host 0.0.0.0 --port 80 --workers 4
      flask --app service:app serve --unix-socket /run/flaskml.sock

    EXIT STATUS. 0 after a signal, 1 if it could not serve, 2 for wrong use.
    """
    # Pandas imports pyarrow where that is installed; its allocator would start a thread, which no forked worker has.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Two calls at once, each on all cores, take many times as long.
    from flaskml.server.engine import is_supported

    if unix_socket and (workers or 1) > 1:
        raise click.UsageError("Several workers listen on a port; leave --unix-socket or --workers away.")
    is_alone = workers == 1 or unix_socket is not None
    with errors_as_messages():
        if not is_supported():
            click.echo("Serving on threads: the engine needs Linux and pip install 'flaskml[fast]'.", err=True)
            _serve_on_threads(_app(info), host, port, unix_socket)
        elif is_alone:
            _serve_on_engine(_app(info), host=host, port=port, unix_socket=unix_socket)
        else:
            _serve_with_workers(info, host, port, workers or _processors())


def _processors() -> int:
    """The processors that this process may use, by its affinity and by the quota of its container."""
    from joblib import cpu_count

    return int(cpu_count())


def _app(info: ScriptInfo) -> Any:
    """The app that Flask finds, or else the one that there is without a file."""
    try:
        return info.load_app()
    except NoAppException:
        from flaskml import create_app

        return create_app()


def _serve_on_engine(app: Any, ready: Callable[[], None] | None = None, **place: Any) -> None:
    """Serves in this process until it is told to stop; calls `ready` once it accepts."""
    from flaskml.server.engine import build_server, max_connections
    from flaskml.server.policy import ServerPolicy

    app.extensions["watcher"].join()
    app.extensions["registry"].warm()
    settings = app.extensions["settings"]
    policy = ServerPolicy(patience=settings.drain_timeout, queue_limit=settings.max_queue, first=HEALTH_PATHS)
    largest = max(settings.max_body, settings.max_upload, app.config["MAX_CONTENT_LENGTH"] or 0)
    # What is sent in chunks is longer on the wire; the app holds each route to its own limit exactly.
    limits = {"connection_limit": max_connections(), "max_request_body_size": largest + largest // 8 + 2**16}
    engine = build_server(app, **place, policy=policy, **limits)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: engine.stop())
    if ready is None and not (sys.stdin and sys.stdin.isatty()):  # From a terminal it means that the terminal is gone.
        signal.signal(signal.SIGHUP, lambda *_: engine.logger.warning("SIGHUP is for workers; nothing changes"))
    _announce(engine, place.get("unix_socket"))
    gc.collect()
    gc.freeze()  # What lives as long as the process need not be looked through again and again.
    if ready is not None:
        ready()
    engine.run()
    app.extensions["watcher"].stop()


def _serve_with_workers(info: ScriptInfo, host: str, port: int, count: int) -> None:
    from flaskml.server.engine import WAITRESS_ADJUSTMENTS
    from flaskml.server.supervisor import Supervisor, WorkerMain, open_listening_sockets
    from flaskml.settings import load_settings

    loaded: list[Any] = []

    def load() -> WorkerMain:
        _forget_app_modules(info)
        app = _app(ScriptInfo(app_import_path=info.app_import_path, create_app=info.create_app))
        loaded[:] = [app.extensions["registry"]]
        return partial(_work, app)

    settings, _ = load_settings({})
    sockets = open_listening_sockets(count, host, port, cast(int, WAITRESS_ADJUSTMENTS["backlog"]))
    Supervisor(load, sockets, settings.drain_timeout, lambda: bool(loaded[0].large_news())).run()


def _work(app: Any, sock: socket.socket, ready: Callable[[], None]) -> None:
    """What a worker does."""
    app.extensions["registry"].leave_large_versions()
    _serve_on_engine(app, ready, listening=sock)


def _forget_app_modules(info: ScriptInfo) -> None:
    """Has the module that makes the app run anew when it is loaded again: the named one, or those Flask looks for."""
    named = (info.app_import_path or "").partition(":")[0].removesuffix(".py")
    for name in [named] if named else ["wsgi", "app"]:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and Path(file).parent == Path.cwd():
            del sys.modules[name]


def _serve_on_threads(app: Any, host: str, port: int, unix_socket: str | None) -> None:
    from waitress import create_server

    place = {"unix_socket": unix_socket} if unix_socket else {"host": host, "port": port}
    server = create_server(app, threads=FALLBACK_THREADS, **place)
    _announce(server, unix_socket)
    server.run()


def _announce(server: Any, unix_socket: str | None) -> None:
    """The line that waitress logs, to which the app adds what it serves."""
    import logging

    logger = logging.getLogger("waitress")
    if not logger.handlers:
        logging.basicConfig(level=logging.INFO)
    place = f"unix:{unix_socket}" if unix_socket else f"http://{server.effective_host}:{server.effective_port}"
    logger.info("Serving on %s", place)
