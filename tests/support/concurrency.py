"""Calls on several threads at once, and a detector of calls that overlap."""

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

THREADS = 8
"""Threads that call at once."""


def call_at_once(functions):
    """Call each function on its own thread, all at once, and return the results. Raises the first error.

    All warnings are ignored, by the only filter. A call of a forest empties the warning filters of the process and adds
    them again one by one. With more filters, a warning that is ignored could be an error in between.
    """
    functions = list(functions)
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return function()

    with warnings.catch_warnings(record=True), ThreadPoolExecutor(len(functions)) as pool:
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        return [future.result() for future in [pool.submit(run, function) for function in functions]]


class OverlapDetector:
    """A context manager that counts its uses, and how many of them began during another one."""

    def __init__(self):
        self.uses = 0
        self.overlaps = 0
        self._mutex = threading.Lock()
        self._inside = 0

    def __enter__(self):
        with self._mutex:
            self.uses += 1
            self.overlaps += self._inside > 0
            self._inside += 1
        time.sleep(0.002)

    def __exit__(self, *_):
        with self._mutex:
            self._inside -= 1
