"""Training in the background: a queue, and one child process at a time."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

from flaskml.child_process import kill_group, start_child
from flaskml.errors import StorageFailed
from flaskml.hot_reload.roster import Roster
from flaskml.settings import Settings
from flaskml.store.disk import Disk
from flaskml.training.job_table import JobTable
from flaskml.training.messages import TrainingMessage, TrainingOrder
from flaskml.training.trainer import TrainingSpec

logger = logging.getLogger(__name__)

RECORD_TIMEOUT_SECONDS = 600
"""Seconds for which the end of a job is tried to be recorded."""

QUEUE_POLL_SECONDS = 0.5
"""Seconds between two looks at whether another process's job has ended."""

OnPublished: TypeAlias = Callable[[], None]
"""Called when a model has a new active version, before the job is said to have succeeded."""


class Jobs:
    """Takes training jobs and runs them one after the other, each in a process of its own.

    A thread lives while there is work, and only then.
    """

    def __init__(self, settings: Settings, roster: Roster, published: OnPublished) -> None:
        self.settings = settings
        self.published = published
        self.roster = roster
        self.table = JobTable(settings.instance_path / "jobs.sqlite3", roster)
        self._mutex = threading.Lock()
        self._waiting: list[TrainingOrder] = []
        self._thread: threading.Thread | None = None

    def submit(self, spec: TrainingSpec, upload: IO[bytes] | None = None, file_name: str = "") -> str:
        """Queues a job, with the CSV file that it trains on, and returns its id.

        Raises `QueueFull`, or `StorageFailed` if the instance folder cannot be written.
        """
        try:
            with self._mutex:
                job_id = self.table.add(spec, self.roster.enter(), self.settings.train_queue)
                file = self._keep(upload, job_id) if upload else None
                order = TrainingOrder(job_id=job_id, spec=spec, settings=self.settings, file=file, file_name=file_name)
                self._waiting.append(order)
                self._start_thread()
        except OSError as error:
            raise StorageFailed(error.strerror or type(error).__name__) from error
        return job_id

    def _keep(self, upload: IO[bytes], job_id: str) -> str:
        """Stores the uploaded bytes under a name of ours."""
        path = self.roster.path_for(f"{job_id}.csv")
        try:
            with Disk().create(path) as file:
                shutil.copyfileobj(upload, file)
        except OSError:
            path.unlink(missing_ok=True)
            with suppress(StorageFailed):
                self.table.end(job_id, status="failed", detail="The upload could not be stored.")
            raise
        return str(path)

    def _start_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="flaskml-jobs", daemon=True)
            self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Returns when no job is waiting or running here, or after `timeout` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _work(self) -> None:
        while (order := self._next()) is not None:
            try:
                self._run(order)
            except Exception:  # One job's trouble is told by the job; the next one must still run.
                logger.exception("Training job %s failed", order.job_id)
                self._end(order.job_id, status="failed", detail="The server could not run the job; its log says why.")
            finally:
                if order.file:
                    Path(order.file).unlink(missing_ok=True)

    def _next(self) -> TrainingOrder | None:
        with self._mutex:
            if self._waiting:
                return self._waiting.pop(0)
            self._thread = None
            return None

    def _run(self, order: TrainingOrder) -> None:
        turn = threading.Event()
        while not self.table.start(order.job_id):
            turn.wait(QUEUE_POLL_SECONDS)
        message = self._train(order)
        if message.version is None:
            self._end(order.job_id, status="failed", detail=message.failure)
            return
        self.published()
        metric, score = (message.score.metric, message.score.value) if message.score else (None, None)
        self._end(order.job_id, status="succeeded", progress=1.0, version=message.version, metric=metric, score=score)

    def _end(self, job_id: str, **values: Any) -> None:
        """Records how a job ended, and waits for a disk that is full: a job must not seem to run for ever."""
        for _ in range(RECORD_TIMEOUT_SECONDS):
            try:
                self.table.end(job_id, **values)
                return
            except StorageFailed as error:
                logger.error("Job %s has ended and that cannot be recorded: %s", job_id, error.detail)
                time.sleep(1)

    def _train(self, order: TrainingOrder) -> TrainingMessage:
        """Runs the child to its end and returns the last thing it said, or why it said nothing."""
        spare = max(1, (os.cpu_count() or 1) - 1)  # One processor is for the predictions.
        with start_child([sys.executable, "-m", "flaskml.training"], threads=spare) as child:
            alarm = threading.Timer(self.settings.train_timeout, kill_group, (child,))
            alarm.daemon = True
            alarm.start()
            try:
                last = self._listen(child, order)
            finally:
                late = not alarm.is_alive()
                alarm.cancel()
        return last or TrainingMessage(failure=self._silence(child.returncode, late=late))

    def _listen(self, child: subprocess.Popen[bytes], order: TrainingOrder) -> TrainingMessage | None:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(order.model_dump_json().encode() + b"\n")
        child.stdin.flush()  # And left open: its end would end the child.
        for line in child.stdout:
            message = TrainingMessage.model_validate_json(line)
            if message.is_last:
                return message
            self.table.update(order.job_id, stage=message.stage, progress=message.progress)
        return None

    def _silence(self, returncode: int, *, late: bool) -> str:
        if late:
            return f"The training took longer than {self.settings.train_timeout:,} seconds (setting TRAIN_TIMEOUT)."
        return f"The training process died (exit code {returncode}); it may have run out of memory."
