"""A bounded cache of two generations, which approximates least-recently-used eviction."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class BoundedCache(Generic[_Key, _Value]):
    """A bounded cache of recently used values by key.

    When the younger generation is full, it replaces the older one. A value that is read again moves to the younger
    generation, so the values of unusual clients cannot evict the usual ones.
    """

    def __init__(self, generation_size: int) -> None:
        self._generation_size = generation_size
        self._young: dict[_Key, _Value] = {}
        self._old: dict[_Key, _Value] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: _Key) -> _Value | None:
        """Return the value of the key; None if it is not cached."""
        value = self._young.get(key)
        if value is None and (value := self._old.pop(key, None)) is not None:
            self.put(key, value)
        return value

    def put(self, key: _Key, value: _Value) -> None:
        """Cache the value under the key."""
        if len(self._young) >= self._generation_size:
            self._old, self._young = self._young, {}
        self._young[key] = value
