"""`flask serve`: load the app, build the policy, and serve it on the event loop, in one process or in workers."""

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
"""Paths of the health checks, which are answered before all other requests, under any load."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""Seconds after which a thread that computes in Python gives the GIL to one that waits for it. The event loop waits for
the GIL after each system call."""


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 picks a free one."
)
@click.option("--unix-socket", type=click.Path(), help="Listen on this Unix socket instead of a port; one worker only.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Worker processes; with 1, this process serves.  [default: one per available processor; 1 on a Unix socket]",
)
@pass_script_info
def serve_command(info: ScriptInfo, host: str, port: int, unix_socket: str | None, workers: int | None) -> None:
    """Serve the models over HTTP: predictions on an event loop, in batches, and all other requests on threads.

    The event loop needs Linux; elsewhere, `flask serve` runs waitress and prints a message. The app is the one that
    flask finds (--app, wsgi.py), or else one with the models in ./instance.

    PREDICTIONS. The event loop answers predictions in JSON itself, without Flask, if no hook, signal or middleware of
    the app would notice; the startup line says which one would. DIRECT=always or never overrides that. All other
    requests run on THREADS threads, as on waitress-serve.

    WORKERS. Each worker is a process with one event loop. Models are loaded before the workers are forked, so that
    workers share memory (copy-on-write). A worker that dies is replaced, and its successor serves the connections that
    wait. Workers swap in a new version of a model (hot reload). For one of 16 MiB or more, new workers replace them, so
    that one copy stays shared.

    SIGNALS. SIGTERM or Ctrl-C is a graceful shutdown: /readyz answers 503, new connections are refused, and accepted
    requests are answered within DRAIN_TIMEOUT seconds; a second signal stops at once. SIGHUP is a rolling restart:
    configuration and models are loaded again and the workers replaced one by one, without a failed request. With
    --workers 1, SIGHUP only logs a warning.

    LIMITS. Load shedding: above MAX_QUEUE unanswered requests in a worker, or after the timeout that the request states
    in X-Envoy-Expected-Rq-Timeout-Ms, the answer is 503 with Retry-After. /livez and /readyz are answered first and
    never refused. With no ADMIN_TOKEN_SHA256, only this machine may change state, whatever --host is.

    \b
    EXAMPLES
      flask serve
      flask serve --host 0.0.0.0 --port 80 --workers 4
      flask --app service:app serve --unix-socket /run/flaskml.sock

    EXIT STATUS. 0 after a signal, 1 if the server cannot start, 2 for a usage error.
    """
    # pandas imports pyarrow if it is installed. Its allocator would start a thread, which does not survive the fork.
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
    # Two concurrent calls that each use all cores take many times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from flaskml.server.setup import is_supported

    if unix_socket and (workers or 1) > 1:
        raise click.UsageError("Only one worker can listen on a Unix socket; remove --unix-socket or --workers.")
    is_single_process = workers == 1 or unix_socket is not None
    with errors_as_messages():
        if not is_supported():
            click.echo("Serving on waitress: the event loop of flask serve needs Linux.", err=True)
            _serve_on_threads(_load_app(info), host, port, unix_socket)
        elif is_single_process:
            _serve_on_event_loop(_load_app(info), host=host, port=port, unix_socket=unix_socket)
        else:
            _serve_with_workers(info, host, port, workers or _processor_count())


def _processor_count() -> int:
    """Return the number of processors that this process may use, by CPU affinity and container quota."""
    from joblib import cpu_count

    return int(cpu_count())


def _load_app(info: ScriptInfo) -> Any:
    """Return the app that Flask finds, or else one from `create_app()`."""
    try:
        return info.load_app()
    except NoAppException:
        from flaskml import create_app

        return create_app()


def _serve_on_event_loop(app: Any, on_ready: Callable[[], None] | None = None, **address: Any) -> None:
    """Serve in this process until a signal stops it. A worker passes `on_ready`, which is called once it listens.

    `address` holds the address parameters of `build_server`.
    """
    from flaskml.server.policy import ServerPolicy
    from flaskml.server.setup import build_server, configure_malloc, max_connections

    app.extensions["watcher"].ensure_started()
    app.extensions["registry"].warm_up()
    settings = app.extensions["settings"]
    handler = app.extensions["direct"]
    handler.bypasses_middleware = True
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    configure_malloc()
    policy = ServerPolicy(
        drain_seconds=settings.drain_timeout,
        queue_limit=settings.max_queue,
        priority_paths=HEALTH_PATHS,
        threads=settings.threads,
    )
    max_bytes = max(settings.max_body, settings.max_upload, app.config["MAX_CONTENT_LENGTH"] or 0)
    # A body with chunked transfer coding is longer on the wire. The app enforces the exact limit of each route.
    limits = {"connection_limit": max_connections(), "max_request_body_size": max_bytes + max_bytes // 8 + 2**16}
    server = build_server(app, **address, policy=policy, handler=handler, **limits)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if on_ready is None and not (sys.stdin and sys.stdin.isatty()):  # On a terminal, SIGHUP means that it has closed.
        message = "SIGHUP has no effect with one worker; restart the server to load configuration and models again"
        signal.signal(signal.SIGHUP, lambda *_: server.logger.warning(message))
    _log_address(server, address.get("unix_socket"))
    gc.collect()
    gc.freeze()  # Objects that live as long as the process need no further garbage collection.
    if on_ready is not None:
        on_ready()
    server.run()
    app.extensions["watcher"].stop()


def _serve_with_workers(info: ScriptInfo, host: str, port: int, count: int) -> None:
    from flaskml.server.setup import WAITRESS_ADJUSTMENTS
    from flaskml.server.supervisor import Supervisor, WorkerMain, open_listening_sockets
    from flaskml.settings import load_settings

    registries: list[Any] = []

    def load() -> WorkerMain:
        _unload_app_modules(info)
        app = _load_app(ScriptInfo(app_import_path=info.app_import_path, create_app=info.create_app))
        registries[:] = [app.extensions["registry"]]
        return partial(_run_worker, app)

    settings, _ = load_settings({})
    sockets = open_listening_sockets(count, host, port, cast(int, WAITRESS_ADJUSTMENTS["backlog"]))
    Supervisor(load, sockets, settings.drain_timeout, lambda: bool(registries[0].has_new_large_versions())).run()


def _run_worker(app: Any, sock: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve in a forked worker; the supervisor, not the worker, follows large versions."""
    app.extensions["registry"].skip_large_versions()
    _serve_on_event_loop(app, on_ready, listening_socket=sock)


def _unload_app_modules(info: ScriptInfo) -> None:
    """Remove the module of the app from `sys.modules`, so that the next import runs it again.

    It is the module that `--app` names, or else the modules that Flask searches.
    """
    app_module = (info.app_import_path or "").partition(":")[0].removesuffix(".py")
    for name in [app_module] if app_module else ["wsgi", "app"]:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and Path(file).parent == Path.cwd():
            del sys.modules[name]


def _serve_on_threads(app: Any, host: str, port: int, unix_socket: str | None) -> None:
    from waitress import create_server

    address = {"unix_socket": unix_socket} if unix_socket else {"host": host, "port": port}
    server = create_server(app, threads=app.extensions["settings"].threads, **address)
    _log_address(server, unix_socket)
    server.run()


def _log_address(server: Any, unix_socket: str | None) -> None:
    """Log waitress's startup line, to which the app adds the served model."""
    import logging

    logger = logging.getLogger("waitress")
    if not logger.handlers:
        logging.basicConfig(level=logging.INFO)
    address = f"unix:{unix_socket}" if unix_socket else f"http://{server.effective_host}:{server.effective_port}"
    logger.info("Serving on %s", address)
