"""The memory of a peak goes back to the system."""

from flaskml.server.heap_trimming import MIN_INTERVAL_SECONDS, MIN_TRIMMED_BYTES, HeapTrimming
from flaskml.server.memory_account import MemoryAccount


def test_the_heap_is_trimmed_once_after_a_peak():
    accounts = (MemoryAccount(2**30), MemoryAccount(2**30))
    trimming = HeapTrimming(accounts)
    accounts[0].change(MIN_TRIMMED_BYTES)
    assert not trimming.trim_after_peak(1)
    accounts[0].change(1 - MIN_TRIMMED_BYTES)
    assert not trimming.trim_after_peak(2)
    accounts[1].change(1)
    accounts[1].change(-1)
    assert trimming.trim_after_peak(3) and not trimming.trim_after_peak(4)
    accounts[0].change(MIN_TRIMMED_BYTES)
    accounts[0].change(-MIN_TRIMMED_BYTES)
    assert not trimming.trim_after_peak(3 + MIN_INTERVAL_SECONDS / 2)
    assert trimming.trim_after_peak(3 + MIN_INTERVAL_SECONDS)
