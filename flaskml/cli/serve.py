"""`flask serve`: the app on the engine."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import click
from flask.cli import NoAppException, ScriptInfo, pass_script_info

from flaskml.cli import errors_told

THREADS = 32
"""Threads where the engine cannot run: as many calls as may share a batch."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--unix-socket", type=click.Path(), help="Listen on this socket instead of a port.")
@pass_script_info
def serve(info: ScriptInfo, host: str, port: int, unix_socket: str | None) -> None:
    """Serve the models, many requests in one call of the estimator.

    Needs `pip install 'flaskml[fast]'` and Linux; elsewhere it serves on waitress's threads, and says so. SIGTERM and
    Ctrl-C let it finish what it has accepted; a second one ends it at once.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Two calls at once, each on all cores, take many times as long.
    from flaskml.serving import has_engine

    with errors_told():
        app = _app(info)
        app.extensions["watcher"].join()
        app.extensions["registry"].warm()
        if has_engine():
            _serve_on_engine(app, host, port, unix_socket)
        else:
            click.echo("Serving on threads: the engine needs Linux and pip install 'flaskml[fast]'.", err=True)
            _serve_on_threads(app, host, port, unix_socket)


def _app(info: ScriptInfo) -> Any:
    """The app that Flask finds, or else the one that there is without a file."""
    try:
        return info.load_app()
    except NoAppException:
        from flaskml import create_app

        return create_app()


def _serve_on_engine(app: Any, host: str, port: int, unix_socket: str | None) -> None:
    from flaskml.serving import make_engine

    patience = app.extensions["settings"].drain_timeout
    engine = make_engine(app, host=host, port=port, unix_socket=unix_socket, patience=patience)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: engine.stop())
    _announce(engine, unix_socket)
    gc.collect()
    gc.freeze()  # What lives as long as the process need not be looked through again and again.
    engine.run()
    app.extensions["watcher"].stop()


def _serve_on_threads(app: Any, host: str, port: int, unix_socket: str | None) -> None:
    from waitress import create_server

    place = {"unix_socket": unix_socket} if unix_socket else {"host": host, "port": port}
    server = create_server(app, threads=THREADS, **place)
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
