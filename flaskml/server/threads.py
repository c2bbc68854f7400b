"""Pools of threads: waitress's dispatcher, which here starts each thread when it is first needed."""

from __future__ import annotations

from typing import Any

from waitress.task import ThreadedTaskDispatcher


class ThreadPool(ThreadedTaskDispatcher):
    """A dispatcher whose threads take tasks, objects with `service` and `cancel`, in the order of their arrival.

    It starts no thread before its first task, so that it may be built before a fork, and it has no more threads than
    tasks have ever run at once. The threads are daemons: a task that never ends does not keep the process alive.
    """

    def __init__(self, max_threads: int) -> None:
        super().__init__()
        self._max_threads = max_threads
        self._is_stopped = False

    @property
    def unfinished(self) -> int:
        """The number of tasks that wait or run."""
        active: int = self.active_count
        return len(self.queue) + active

    def add_task(self, task: Any) -> None:
        """Queue a task for the next free thread; start one if none is free and the pool is not full."""
        with self.lock:
            self.queue.append(task)
            self.queue_cv.notify()
            is_short = len(self.queue) > len(self.threads) - self.active_count
        if is_short and len(self.threads) < self._max_threads and not self._is_stopped:
            self.set_thread_count(len(self.threads) + 1)

    def stop(self) -> None:
        """Cancel the tasks that wait, and end each thread after the task that it runs; return at once."""
        self._is_stopped = True
        with self.lock:
            waiting = list(self.queue)
            self.queue.clear()
        for task in waiting:
            task.cancel()
        self.set_thread_count(0)
