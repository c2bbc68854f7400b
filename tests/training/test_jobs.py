"""Training jobs in the background, with real child processes."""

import io

import pytest

from flaskml.errors import DamagedFile, JobNotFound, QueueFull, StorageFailed
from flaskml.hot_reload.roster import Roster
from flaskml.store.model_store import ModelStore
from flaskml.training.jobs import Jobs
from flaskml.training.trainer import TrainingSpec
from tests.support.stores import settings_for
from tests.support.tables import mixed_table


def spec(**options):
    """Return a specification of a model without a graph: the export takes most of the time of a small job."""
    return TrainingSpec(runtime="sklearn", **options)


@pytest.fixture
def make_jobs(tmp_path):
    created = []

    def build(limit=8, timeout=60, published=lambda: None):
        settings = settings_for(tmp_path, TRAIN_QUEUE=limit, TRAIN_TIMEOUT=timeout)
        created.append(Jobs(settings, Roster(tmp_path), published))
        return created[-1]

    yield build
    for jobs in created:
        jobs.wait()
        jobs.roster.leave()


def submit_bad(jobs):
    """Submit a job whose target column does not exist; it ends in a fraction of the time of a good job."""
    return jobs.submit(spec(data=None, target="z"), io.BytesIO(b"a,y\n1,2\n"), "t.csv")


def test_a_job_goes_from_queued_to_succeeded(make_jobs, tmp_path):
    published = []
    jobs = make_jobs(published=lambda: published.append(True))
    job_id = jobs.submit(TrainingSpec(data="iris", name="flowers"))
    assert jobs.table.get(job_id).status in ("queued", "running")
    jobs.wait()
    job = jobs.table.get(job_id).to_dict()
    assert (job["status"], job["progress"], job["model"], job["version"]) == ("succeeded", 1.0, "flowers", "1")
    assert job["metric"] == "accuracy" and job["best_score"] > 0.9 and job["ended"] >= job["created"]
    assert published == [True] and ModelStore(tmp_path).state("flowers").active == "1"


@pytest.mark.gauntlet
def test_an_upload_is_removed_after_training(make_jobs, tmp_path):
    jobs = make_jobs()
    upload = io.BytesIO(mixed_table().to_csv(index=False).encode())
    job_id = jobs.submit(spec(data=None, target="sold"), upload, "../evil.csv")
    jobs.wait()
    assert jobs.table.get(job_id).status == "succeeded"
    assert ModelStore(tmp_path).manifest("default", "1").data == "../evil.csv"
    assert not list((tmp_path / "run").glob("*.csv"))


def test_a_failed_job_has_a_reason_and_the_next_job_runs(make_jobs):
    jobs = make_jobs()
    bad = submit_bad(jobs)
    good = jobs.submit(spec())
    jobs.wait()
    assert jobs.table.get(bad).status == "failed" and 'no column "z"' in jobs.table.get(bad).detail
    assert jobs.table.get(good).status == "succeeded"
    assert [job.id for job in jobs.table.all()] == [good, bad]


@pytest.mark.gauntlet
def test_a_full_queue_refuses_jobs(make_jobs):
    jobs = make_jobs(limit=2)
    accepted = [jobs.submit(spec())]
    with pytest.raises(QueueFull) as caught:
        for _ in range(3):
            accepted.append(submit_bad(jobs))
    assert caught.value.status == 429 and len(accepted) in (2, 3)
    jobs.wait()
    first, *others = [jobs.table.get(job_id) for job_id in accepted]
    assert first.status == "succeeded" and all('no column "z"' in job.detail for job in others)


@pytest.mark.gauntlet
def test_one_job_runs_at_a_time_across_processes(make_jobs):
    running = []

    def published():
        running.append(len([job for job in first.table.all() if job.status == "running"]))

    first, second = make_jobs(published=published), make_jobs(published=published)
    for jobs in (first, second, first):
        jobs.submit(spec())
    first.wait(), second.wait()
    assert running == [1, 1, 1]


def test_a_job_that_exceeds_its_time_limit_fails(make_jobs):
    jobs = make_jobs(timeout=1)
    job_id = jobs.submit(spec())
    jobs.wait()
    assert jobs.table.get(job_id).status == "failed" and "TRAIN_TIMEOUT" in jobs.table.get(job_id).detail


def test_a_job_of_a_dead_process_is_interrupted(make_jobs):
    jobs = make_jobs()
    for status in ("queued", "running"):
        job_id = jobs.table.add(spec(), "0123456789abcdef", limit=8)
        jobs.table.update(job_id, status=status)
        assert jobs.table.get(job_id).status == "interrupted"
    fresh = jobs.submit(spec())
    jobs.wait()
    assert jobs.table.get(fresh).status == "succeeded"


@pytest.mark.thorough
def test_a_failed_swap_fails_the_job(make_jobs, caplog):
    jobs = make_jobs(published=lambda: 1 / 0)
    job_id = jobs.submit(spec())
    jobs.wait()
    assert jobs.table.get(job_id).status == "failed" and "log" in jobs.table.get(job_id).detail
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.gauntlet
def test_later_jobs_run_after_a_temporarily_full_disk(make_jobs, monkeypatch):
    jobs = make_jobs()
    end, failed = jobs.table.end, []

    def full_once(job_id, **values):
        if not failed:
            failed.append(job_id)
            raise StorageFailed("No space left on device")
        end(job_id, **values)

    monkeypatch.setattr(jobs.table, "end", full_once)
    first, second = jobs.submit(spec()), submit_bad(jobs)
    jobs.wait()
    assert failed == [first]
    assert jobs.table.get(first).status == "succeeded" and 'no column "z"' in jobs.table.get(second).detail


@pytest.mark.parametrize("content", [b"", b"garbage" * 1_000])
def test_a_damaged_job_table_is_reported(make_jobs, tmp_path, content):
    (tmp_path / "jobs.sqlite3").write_bytes(content)
    jobs = make_jobs()
    if content:
        with pytest.raises(DamagedFile, match=r"jobs\.sqlite3"):
            jobs.table.all()
        with pytest.raises(StorageFailed):
            jobs.submit(spec())
    else:
        assert jobs.table.all() == []


def test_an_unknown_job_is_not_found(make_jobs, tmp_path):
    jobs = make_jobs()
    assert jobs.table.all() == []
    with pytest.raises(JobNotFound):
        jobs.table.get("'; drop table jobs; --")
    assert not (tmp_path / "jobs.sqlite3").exists()


def test_an_unwritable_instance_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("x")
    jobs = Jobs(settings_for(tmp_path / "file"), Roster(tmp_path / "file"), lambda: None)
    with pytest.raises(StorageFailed) as caught:
        jobs.submit(spec())
    assert caught.value.status == 507


def test_a_failed_upload_fails_the_job(make_jobs):
    class Broken(io.BytesIO):
        def read(self, *arguments):
            raise OSError(28, "No space left on device")

    jobs = make_jobs()
    with pytest.raises(StorageFailed, match="No space left"):
        jobs.submit(spec(data=None, target="y"), Broken())
    assert [job.status for job in jobs.table.all()] == ["failed"]
