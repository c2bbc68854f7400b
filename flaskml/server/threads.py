"""Pools of threads: waitress's dispatcher, which here starts each thread when it is first needed."""

from __future__ import annotations

from typing import Any

from waitress.task import ThreadedTaskDispatcher


class PoolTask:
    """A task of a pool, which counts until it has ended."""

    __slots__ = ("_pool", "_task")

    def __init__(self, pool: ThreadPool, task: Any) -> None:
        self._pool = pool
        self._task = task

    def __repr__(self) -> str:
        return repr(self._task)

    def service(self) -> None:
        """Run the task."""
        try:
            self._task.service()
            self._task = None  # The thread keeps this object until its next task.
        finally:
            self._pool.count_end()

    def cancel(self) -> None:
        """Cancel the task."""
        self._pool.count_end()
        self._task.cancel()


class ThreadPool(ThreadedTaskDispatcher):
    """A dispatcher whose threads take tasks, objects with `service` and `cancel`, in the order of their arrival.

    It starts no thread before its first task, so that it may be built before a fork, and it has no more threads than
    tasks have ever run at once. The threads are daemons: a task that never ends does not keep the process alive.
    """

    def __init__(self, max_threads: int) -> None:
        super().__init__()
        self._max_threads = max_threads
        self._is_stopped = False
        self.unfinished = 0
        """The number of tasks that wait or run."""

    def add_task(self, task: Any) -> None:
        """Queue a task for the next free thread; start one if none is free and the pool is not full."""
        with self.lock:
            self.unfinished += 1
            self.queue.append(PoolTask(self, task))
            self.queue_cv.notify()
            is_short = len(self.queue) > len(self.threads) - self.active_count
        if is_short and len(self.threads) < self._max_threads and not self._is_stopped:
            self.set_thread_count(len(self.threads) + 1)

    def start_new_thread(self, target: Any, thread_no: int) -> None:
        """Start a thread. If the system has none left, the waiting tasks stay queued for the other threads."""
        try:
            super().start_new_thread(target, thread_no)
        except RuntimeError as error:
            self.threads.discard(thread_no)
            self.active_count -= 1  # The caller counts the thread as active.
            self.logger.error("A thread could not be started: %s", error)

    def start_missing(self) -> None:
        """Try again to start a thread if tasks wait and there is none."""
        if self.queue and not self.threads and not self._is_stopped:
            self.set_thread_count(1)

    def count_end(self) -> None:
        """Count a task as ended."""
        with self.lock:
            self.unfinished -= 1

    def stop(self) -> None:
        """Cancel the tasks that wait, and end each thread after the task that it runs; return at once."""
        self._is_stopped = True
        with self.lock:
            waiting = list(self.queue)
            self.queue.clear()
        for task in waiting:
            task.cancel()
        self.set_thread_count(0)
