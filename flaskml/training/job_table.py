"""The table of training jobs, in SQLite.

A job belongs to the server process that took it. If that process has died, the job is `interrupted`: this is read off
the roster, so it is true after any crash, and nothing has to be repaired at the next start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from flaskml.errors import DamagedFile, JobNotFound, QueueFull, StorageFailed
from flaskml.hot_reload.roster import Roster
from flaskml.store.state import utc_now
from flaskml.training.trainer import TrainingSpec

JOBS_KEPT = 1_000
"""Ended jobs that are remembered."""

_SCHEMA = """
create table if not exists jobs (
    id text primary key, owner text not null, status text not null, spec text not null,
    stage text, progress real not null default 0, score real, metric text, version text, detail text,
    created text not null, ended text
)
"""


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
            values = (job_id, owner, "queued", spec.model_dump_json(), utc_now())
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
        self.update(job_id, stage=None, ended=utc_now(), **values)

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
