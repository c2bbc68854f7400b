"""Training in the background: a queue in SQLite, one child process at a time.

A job belongs to the server process that took it. If that process has died, the job is `interrupted`: this is read off
the roster, so it is true after any crash, and nothing has to be repaired at the next start.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, TypeAlias

from flaskml.errors import DamagedFile, JobNotFound, QueueFull, StorageFailed
from flaskml.files import Disk
from flaskml.processes import Roster
from flaskml.settings import Settings
from flaskml.state import now
from flaskml.training.messages import Message, Order
from flaskml.training.trainer import TrainingSpec

logger = logging.getLogger(__name__)

JOBS_KEPT = 1_000
"""Ended jobs that are remembered."""

PATIENCE = 600
"""Seconds for which the end of a job is tried to be recorded."""

TURN = 0.5
"""Seconds between two looks at whether another process's job has ended."""

_SCHEMA = """
create table if not exists jobs (
    id text primary key, owner text not null, status text not null, spec text not null,
    stage text, progress real not null default 0, score real, metric text, version text, detail text,
    created text not null, ended text
)
"""

Published: TypeAlias = Callable[[], None]
"""Called when a model has a new active version, before the job is said to have succeeded."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training run as it stands."""

    id: str
    status: str
    spec: TrainingSpec
    stage: str | None
    progress: float
    metric: str | None
    score: float | None
    version: str | None
    detail: str | None
    created: str
    ended: str | None

    def to_dict(self) -> dict[str, Any]:
        """The job as it is answered over HTTP."""
        return {
            "id": self.id,
            "status": self.status,
            "stage": self.stage,
            "progress": self.progress,
            "model": self.spec.name,
            "version": self.version,
            "metric": self.metric,
            "best_score": self.score,
            "detail": self.detail,
            "created": self.created,
            "ended": self.ended,
        }


class JobTable:
    """The jobs of one instance folder, in `jobs.sqlite3`. A connection lives as long as one call."""

    def __init__(self, path: Path, roster: Roster) -> None:
        self.path = path
        self.roster = roster

    def add(self, spec: TrainingSpec, owner: str, limit: int) -> str:
        """Queues a job and returns its id. Raises `QueueFull` at `limit` waiting jobs."""
        with self._transaction() as connection:
            rows = connection.execute("select * from jobs where status = 'queued'").fetchall()
            if sum(self._is_current(row) for row in rows) >= limit:
                raise QueueFull(limit)
            job_id = token_hex(8)
            values = (job_id, owner, "queued", spec.model_dump_json(), now())
            connection.execute("insert into jobs (id, owner, status, spec, created) values (?, ?, ?, ?, ?)", values)
            kept = "select rowid from jobs order by rowid desc limit ?"
            connection.execute(f"delete from jobs where rowid not in ({kept})", (JOBS_KEPT,))
        return job_id

    def start(self, job_id: str) -> bool:
        """Marks the job as running, unless a job of any live process is."""
        with self._transaction() as connection:
            running = connection.execute("select * from jobs where status = 'running'").fetchall()
            if any(self._is_current(row) for row in running):
                return False
            connection.execute("update jobs set status = 'running' where id = ?", (job_id,))
        return True

    def update(self, job_id: str, **values: Any) -> None:
        """Sets columns of a job."""
        columns = ", ".join(f"{column} = :{column}" for column in values)
        with self._transaction() as connection:
            connection.execute(f"update jobs set {columns} where id = :id", {**values, "id": job_id})

    def end(self, job_id: str, **values: Any) -> None:
        """Sets the last values of a job."""
        self.update(job_id, stage=None, ended=now(), **values)

    def get(self, job_id: str) -> Job:
        """The job as it stands. Raises `JobNotFound`."""
        for row in self._select("where id = ?", job_id):
            return self._job(row)
        raise JobNotFound(job_id[:40])

    def all(self) -> list[Job]:
        """All jobs, newest first."""
        return [self._job(row) for row in self._select("order by rowid desc")]

    def _select(self, condition: str, *values: str) -> list[sqlite3.Row]:
        if not self.path.exists():
            return []
        try:
            with closing(self._connect()) as connection:
                known = connection.execute("select 1 from sqlite_master where name = 'jobs'").fetchone()
                return connection.execute(f"select * from jobs {condition}", values).fetchall() if known else []
        except sqlite3.DatabaseError as error:
            remedy = "Move it away; jobs are remembered anew."
            raise DamagedFile(self.path.name, f"it cannot be read ({error})", remedy=remedy) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("begin immediate")
                connection.execute(_SCHEMA)
                yield connection
        except sqlite3.DatabaseError as error:
            raise StorageFailed(f"{self.path.name}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10)
        connection.row_factory = sqlite3.Row
        return connection

    def _is_current(self, row: sqlite3.Row) -> bool:
        return self.roster.is_alive(row["owner"])

    def _job(self, row: sqlite3.Row) -> Job:
        values = {key: row[key] for key in row.keys() if key != "owner"}  # noqa: SIM118 - a row iterates over values
        if row["status"] in ("queued", "running") and not self._is_current(row):
            values["status"] = "interrupted"
            values["detail"] = "The server stopped before the job ended; send it again."
        return Job(**{**values, "spec": TrainingSpec.model_validate_json(row["spec"])})


class Jobs:
    """Takes training jobs and runs them one after the other, each in a process of its own.

    A thread lives while there is work, and only then.
    """

    def __init__(self, settings: Settings, roster: Roster, published: Published) -> None:
        self.settings = settings
        self.published = published
        self.roster = roster
        self.table = JobTable(settings.instance_path / "jobs.sqlite3", roster)
        self._mutex = threading.Lock()
        self._waiting: list[Order] = []
        self._thread: threading.Thread | None = None

    def submit(self, spec: TrainingSpec, upload: IO[bytes] | None = None, file_name: str = "") -> str:
        """Queues a job, with the CSV file that it trains on, and returns its id.

        Raises `QueueFull`, or `StorageFailed` if the instance folder cannot be written.
        """
        try:
            with self._mutex:
                job_id = self.table.add(spec, self.roster.enter(), self.settings.train_queue)
                file = self._keep(upload, job_id) if upload else None
                order = Order(job_id=job_id, spec=spec, settings=self.settings, file=file, file_name=file_name)
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

    def _next(self) -> Order | None:
        with self._mutex:
            if self._waiting:
                return self._waiting.pop(0)
            self._thread = None
            return None

    def _run(self, order: Order) -> None:
        turn = threading.Event()
        while not self.table.start(order.job_id):
            turn.wait(TURN)
        message = self._train(order)
        if message.version is None:
            self._end(order.job_id, status="failed", detail=message.failure)
            return
        self.published()
        metric, score = (message.score.metric, message.score.value) if message.score else (None, None)
        self._end(order.job_id, status="succeeded", progress=1.0, version=message.version, metric=metric, score=score)

    def _end(self, job_id: str, **values: Any) -> None:
        """Records how a job ended, and waits for a disk that is full: a job must not seem to run for ever."""
        for _ in range(PATIENCE):
            try:
                self.table.end(job_id, **values)
                return
            except StorageFailed as error:
                logger.error("Job %s has ended and that cannot be recorded: %s", job_id, error.detail)
                time.sleep(1)

    def _train(self, order: Order) -> Message:
        """Runs the child to its end and returns the last thing it said, or why it said nothing."""
        command = [sys.executable, "-m", "flaskml.training"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8") as child:
            alarm = threading.Timer(self.settings.train_timeout, child.kill)
            alarm.daemon = True
            alarm.start()
            try:
                last = self._listen(child, order)
            finally:
                late = not alarm.is_alive()
                alarm.cancel()
                child.kill()
        return last or Message(failure=self._silence(child.returncode, late=late))

    def _listen(self, child: subprocess.Popen[str], order: Order) -> Message | None:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(order.model_dump_json() + "\n")
        child.stdin.flush()  # And left open: its end would end the child.
        for line in child.stdout:
            message = Message.model_validate_json(line)
            if message.is_last:
                return message
            self.table.update(order.job_id, stage=message.stage, progress=message.progress)
        return None

    def _silence(self, returncode: int, *, late: bool) -> str:
        if late:
            return f"The training took longer than {self.settings.train_timeout:,} seconds (setting TRAIN_TIMEOUT)."
        return f"The training process died (exit code {returncode}); it may have run out of memory."
