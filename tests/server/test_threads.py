"""The thread pool: threads start when they are needed, and tasks run in the order of their arrival."""

import threading
from contextlib import contextmanager

import pytest

from flaskml.server.threads import ThreadPool
from tests.support.server_processes import wait_until


class Task:
    """A task that waits for a gate, if it has one, and records the thread that ran it."""

    def __init__(self, log, gate=None, error=None):
        self.log, self.gate, self.error = log, gate, error
        self.thread = None
        self.is_cancelled = False

    def service(self):
        self.thread = threading.get_ident()
        self.log.append(self)
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.error is not None:
            raise self.error

    def cancel(self):
        self.is_cancelled = True


@pytest.fixture
def gate():
    """Yield an event, which is set at the end."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def pool():
    pool = ThreadPool(3)
    yield pool
    pool.stop()


def add(pool, count, *arguments):
    """Add tasks to the pool; return them and the list of those that began."""
    log = []
    tasks = [Task(log, *arguments) for _ in range(count)]
    for task in tasks:
        pool.add_task(task)
    return tasks, log


def test_no_thread_starts_before_the_first_task(pool):
    before = threading.active_count()
    assert pool.unfinished == 0 and not pool.threads
    add(pool, 1)
    wait_until(lambda: pool.unfinished == 0)
    assert threading.active_count() == before + 1


def test_tasks_that_wait_start_threads_up_to_the_maximum(pool, gate):
    for count in (1, 2, 3):
        add(pool, 1, gate)
        assert len(pool.threads) == count
    _, log = add(pool, 5, gate)
    wait_until(lambda: pool.unfinished == 8)
    assert len(pool.threads) == 3 and not log
    gate.set()
    wait_until(lambda: pool.unfinished == 0)
    assert len(log) == 5 and len(pool.threads) == 3


def test_a_free_thread_is_used_again(pool):
    threads = set()
    for _ in range(20):
        [task], _ = add(pool, 1)
        wait_until(lambda: pool.unfinished == 0)
        threads.add(task.thread)
    assert len(threads) == len(pool.threads) == 1


def test_tasks_begin_in_the_order_of_their_arrival(gate):
    pool = ThreadPool(1)
    add(pool, 1, gate)
    tasks, log = add(pool, 50)
    gate.set()
    wait_until(lambda: pool.unfinished == 0)
    assert log == tasks
    pool.stop()


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_task_that_raises_does_not_end_its_thread(error, caplog):
    pool = ThreadPool(1)
    add(pool, 1, None, error())
    [task], _ = add(pool, 1)
    wait_until(lambda: pool.unfinished == 0)
    assert task.thread is not None and "Exception when servicing" in caplog.text
    pool.stop()


def test_stopping_cancels_waiting_tasks_and_ends_the_threads_after_their_own(pool, gate):
    begun, _ = add(pool, 3, gate)
    wait_until(lambda: all(task.thread for task in begun))
    waiting, log = add(pool, 4, gate)
    pool.stop()
    assert all(task.is_cancelled for task in waiting) and not any(task.is_cancelled for task in begun)
    gate.set()
    wait_until(lambda: not pool.threads)
    assert not log and pool.unfinished == 0


def test_a_stopped_pool_starts_no_thread(pool):
    pool.stop()
    before = threading.active_count()
    [task], _ = add(pool, 1)
    assert threading.active_count() == before and task.thread is None


@contextmanager
def no_further_thread_starts():
    """Ask for stacks larger than the address space, so that the system refuses to start a thread."""
    usual = threading.stack_size(2**50)
    try:
        yield
    finally:
        threading.stack_size(usual)


def test_tasks_wait_for_the_other_threads_if_no_thread_can_be_started(pool, gate, caplog):
    [first], _ = add(pool, 1, gate)
    wait_until(lambda: first.thread)
    with no_further_thread_starts():
        waiting, _ = add(pool, 3)
    assert len(pool.threads) == 1 and pool.unfinished == 4 and "could not be started" in caplog.text
    gate.set()
    wait_until(lambda: pool.unfinished == 0)
    assert {task.thread for task in waiting} == {first.thread}


def test_a_pool_without_threads_starts_one_later(pool):
    with no_further_thread_starts():
        tasks, _ = add(pool, 2)
        pool.start_missing()
    assert not pool.threads and pool.unfinished == 2
    pool.start_missing()
    wait_until(lambda: pool.unfinished == 0)
    assert all(task.thread for task in tasks)
