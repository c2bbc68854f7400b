"""The app that `flask serve` serves: how the supervisor loads it, and how a worker serves it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from flask.cli import NoAppException, ScriptInfo

from flaskml.server.policy import ServerPolicy
from flaskml.server.setup import build_server, configure_malloc, max_connections
from flaskml.server.worker import HEARTBEAT, JOBS_ONLY, READY, RETIRE_SIGNAL, StatusPipe
from flaskml.server.worker_pool import ServedProgram
from flaskml.settings import load_settings
from flaskml.web.body_limits import RouteBodyLimits

logger = logging.getLogger("waitress")

HEALTH_PATHS = frozenset({"/livez", "/readyz"})
"""Paths of the health checks, which are answered before all other requests, under any load."""

SWITCH_INTERVAL_SECONDS = 0.0005
"""Seconds after which a thread that computes in Python gives the GIL to one that waits for it. The event loop waits for
the GIL after each system call."""

LoadApp: TypeAlias = Callable[[], Any]
"""A function that imports or makes the app."""


class ServedApp:
    """An app in the memory of the supervisor, which its workers share (copy-on-write)."""

    def __init__(self, app: Any, *, processes: int) -> None:
        self.app = app
        self._processes = processes

    @property
    def drain_seconds(self) -> float:
        """The setting DRAIN_TIMEOUT of the app."""
        return float(self.app.extensions["settings"].drain_timeout)

    @property
    def timeout_seconds(self) -> float:
        """The setting WORKER_TIMEOUT of the app."""
        return float(self.app.extensions["settings"].worker_timeout)

    def run_worker(self, sock: socket.socket, pipe: StatusPipe) -> None:
        """Serve the app in a forked worker; the supervisor, not the worker, follows large versions."""
        self.app.extensions["registry"].skip_large_versions()
        serve(self.app, sock, pipe, processes=self._processes)

    def reload_if_changed(self) -> bool:
        """Load new large versions; return whether there are any."""
        return bool(self.app.extensions["registry"].load_large_versions())


class AppOfWorkers:
    """An app that each worker loads by itself (`--no-preload`)."""

    def __init__(self, load: LoadApp, *, processes: int) -> None:
        settings, _ = load_settings({})
        self.drain_seconds = float(settings.drain_timeout)
        self.timeout_seconds = float(settings.worker_timeout)
        self._load = load
        self._processes = processes

    def run_worker(self, sock: socket.socket, pipe: StatusPipe) -> None:
        """Load the app and serve it."""
        serve(self._load(), sock, pipe, processes=self._processes)

    def reload_if_changed(self) -> bool:
        """Return False: workers load all versions by themselves."""
        return False


def preload(load: LoadApp, former: ServedProgram | None, *, processes: int) -> ServedApp:
    """Return the loaded app. Models that do not load are taken over from the program before."""
    app = load()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if threads:
        logger.warning(
            "Loading the app started threads, which workers do not have (%s); start them later, or use --no-preload",
            ", ".join(threads),
        )
    if isinstance(former, ServedApp):
        app.extensions["registry"].take_over(former.app.extensions["registry"])
    app.extensions["direct"].bypasses_middleware = True
    return ServedApp(app, processes=processes)


def load_app(info: ScriptInfo) -> Any:
    """Return the app that Flask finds, or else one from `create_app()`."""
    try:
        return info.load_app()
    except NoAppException:
        from flaskml import create_app

        return create_app()


def load_app_again(info: ScriptInfo) -> Any:
    """Return the app from a new import of its module: the one that `--app` names, or those that Flask searches."""
    app_module = (info.app_import_path or "").partition(":")[0].removesuffix(".py")
    for name in [app_module] if app_module else ["wsgi", "app"]:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and Path(file).parent == Path.cwd():
            del sys.modules[name]
    return load_app(ScriptInfo(app_import_path=info.app_import_path, create_app=info.create_app))


def serve(app: Any, sock: socket.socket, pipe: StatusPipe, *, processes: int) -> None:
    """Serve the app on the event loop until SIGTERM, or until `RETIRE_SIGNAL` and the end of the training jobs."""
    registry, watcher, settings = (app.extensions[name] for name in ("registry", "watcher", "settings"))
    registry.loading = pipe.loading
    watcher.ensure_started()
    registry.warm_up()
    handler = app.extensions["direct"]
    handler.bypasses_middleware = True
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    configure_malloc()
    policy = ServerPolicy(
        drain_seconds=settings.drain_timeout,
        queue_limit=settings.max_queue,
        priority_paths=HEALTH_PATHS,
        threads=settings.threads,
        body_memory_bytes=max(settings.body_memory, 2 * settings.max_body),
        is_multiprocess=processes > 1,
    )
    limits = RouteBodyLimits(app, settings, handler)
    server = build_server(
        app,
        listening_socket=sock,
        policy=policy,
        handler=handler,
        body_limits=limits,
        connection_limit=max_connections(),
        max_request_body_size=limits.max_transfer_bytes,
    )
    server.on_maintenance = lambda: pipe.report(HEARTBEAT)

    def stop(number: int, _: object) -> None:
        # A second SIGTERM changes nothing: a process manager may send one to all processes of the server.
        server.status.is_replaced = number == RETIRE_SIGNAL
        if not server.is_stopping:
            server.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(RETIRE_SIGNAL, stop)
    gc.collect()
    gc.freeze()  # Objects that live as long as the process need no further garbage collection.
    pipe.report(READY)
    server.run()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if server.status.is_replaced:
        pipe.report(JOBS_ONLY)
        watcher.roster.retire()
        app.extensions["jobs"].wait()
    watcher.stop()
