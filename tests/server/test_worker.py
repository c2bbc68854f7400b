"""The reports of a worker, and an app that each worker loads by itself."""

import os
from contextlib import closing

import pytest

from flaskml.server.worker import HEARTBEAT, JOBS_ONLY, READY, StatusPipe, WorkerProcess
from tests.support.server_processes import start_server


@pytest.fixture
def reports():
    """Yield both ends of a pipe: the worker as its supervisor sees it, and the pipe on which it reports."""
    status_fd, report_fd = os.pipe()
    os.set_blocking(status_fd, False)
    worker = WorkerProcess(1, os.getpid(), status_fd)
    with closing(worker):
        yield worker, StatusPipe(report_fd)
        os.close(report_fd)


def test_silence_is_counted_from_the_last_heartbeat_of_a_ready_worker(reports):
    worker, pipe = reports
    assert worker.count_silence(5) == 0
    pipe.report(READY)
    worker.read_reports()
    assert worker.is_ready and worker.count_silence(5) == 5 and worker.count_silence(2) == 7
    pipe.report(HEARTBEAT)
    worker.read_reports()
    assert worker.count_silence(1) == 1


def test_silence_during_the_load_of_a_version_is_not_counted(reports):
    worker, pipe = reports
    pipe.report(READY)
    with pipe.loading(), pipe.loading():
        worker.read_reports()
        assert worker.loads == 2 and worker.count_silence(100) == 0
    worker.read_reports()
    assert worker.loads == 0 and worker.count_silence(3) == 3


def test_a_worker_that_finishes_its_jobs_has_time(reports):
    worker, pipe = reports
    worker.kill_at = 1.0
    pipe.report(READY)
    pipe.report(JOBS_ONLY)
    worker.read_reports()
    assert worker.kill_at is None and worker.count_silence(100) == 0


def test_a_report_that_is_not_read_does_not_block_the_worker(reports):
    worker, pipe = reports
    for _ in range(100_000):
        pipe.report(HEARTBEAT)
    worker.read_reports()
    assert worker.loads == 0


APP = """
import threading, time
from flaskml import create_app

app = create_app()
thread = threading.Thread(target=time.sleep, args=(600,), name="my-scheduler", daemon=True)
thread.start()

@app.get("/has-thread")
def has_thread():
    return {"is_alive": any(found is thread for found in threading.enumerate())}
"""


@pytest.mark.parametrize("option", ["--preload", "--no-preload"])
def test_threads_that_start_with_the_app_run_in_workers_that_load_it(instance, tmp_path, option):
    (tmp_path / "wsgi.py").write_text(APP)
    server = start_server(instance, "flask serve", option, cwd=tmp_path)
    try:
        assert server.json("GET", "/has-thread")[1] == {"is_alive": option == "--no-preload"}
        assert ("workers do not have (my-scheduler)" in server.log) == (option == "--preload")
        assert server.json("POST", "/predict", {"feature": 0.5})[0] == 200
    finally:
        server.stop()
