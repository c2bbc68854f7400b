"""A cache of parsed header blocks: clients send the same block again and again."""

from __future__ import annotations

import re
from typing import Any

from flaskml.server.bounded_cache import BoundedCache
from flaskml.server.error_responses import CLIENT_TIMEOUT_HEADER
from flaskml.server.http_validation import FIELD_PATTERN

MAX_CACHED_BLOCKS = 256
"""Header blocks in one generation of the cache. It keeps two, so unusual clients cannot evict the usual blocks."""

MAX_CACHED_BLOCK_BYTES = 2048
"""Bytes of the largest header block that is cached. This and the number of blocks bound the memory of the cache."""

MAX_CACHED_LINES = 1024
"""Known header lines in one generation of the cache; they show which lines of a block are new."""

MAX_NEW_VALUES = 4
"""Header fields of a block that may have new values; proxies add a few ids and timestamps to each request."""

FRAMING_HEADERS = frozenset(
    {
        *(b"host", b"content-length", b"content-type", b"transfer-encoding", b"connection", b"expect", b"upgrade"),
        CLIENT_TIMEOUT_HEADER.lower().replace("_", "-").encode(),
    }
)
"""Header fields that change how the server treats a request; waitress parses each block with a new value of one."""

FIELD_LINE = re.compile(FIELD_PATTERN)


class HeaderCache:
    """A bounded cache from header blocks to the parser attributes that they result in.

    A block that differs from a cached one only in the values of a few header fields, such as a request id, is not
    parsed either: the new values are inserted into the cached attributes. That is limited to fields that only pass
    through to the app.
    """

    def __init__(self) -> None:
        self._blocks: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._templates: BoundedCache[bytes, dict[str, Any]] = BoundedCache(MAX_CACHED_BLOCKS)
        self._known_lines: BoundedCache[bytes, bool] = BoundedCache(MAX_CACHED_LINES)

    def __len__(self) -> int:
        return len(self._blocks) + len(self._templates)

    def get(self, block: bytes) -> dict[str, Any] | None:
        """Return the parser attributes of the block; None if neither it nor a similar block is cached."""
        attributes: dict[str, Any] | None = self._blocks.get(block)
        if attributes is None and len(block) <= MAX_CACHED_BLOCK_BYTES and (split := self._split(block)) is not None:
            template, new_values = split
            similar = self._templates.get(template)
            return None if similar is None else _with_values(similar, new_values)
        return attributes

    def put(self, block: bytes, attributes: dict[str, Any]) -> None:
        """Cache the parser attributes of a block, unless it is too large."""
        if len(block) > MAX_CACHED_BLOCK_BYTES:
            return
        if (split := self._split(block)) is not None:
            self._templates.put(split[0], attributes)
        self._blocks.put(block, attributes)
        for line in block.split(b"\r\n"):
            self._known_lines.put(line, True)

    def _split(self, block: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
        """Return the block without its new values, and these by field name.

        Returns None if no value is new, more than a few are, or one of them must be parsed.
        """
        lines = block.split(b"\r\n")
        new_values: dict[bytes, bytes] = {}
        for index, line in enumerate(lines):
            if self._known_lines.get(line) is None:
                name, _, value = line.partition(b":")
                is_field = index > 0 and FIELD_LINE.fullmatch(line) is not None and b"_" not in name
                if not is_field or name.lower() in FRAMING_HEADERS or len(new_values) == MAX_NEW_VALUES:
                    return None
                new_values[name] = value
                lines[index] = name + b"\0"  # No cached block contains this byte.
        names = [line.partition(b":")[0].rstrip(b"\0").lower() for line in lines]
        if not new_values or any(names.count(name.lower()) > 1 for name in new_values):
            return None  # The values of a repeated field are joined.
        return b"\r\n".join(lines), new_values


def _with_values(attributes: dict[str, Any], values: dict[bytes, bytes]) -> dict[str, Any]:
    """Return parser attributes with other values of some header fields."""
    new = {
        name.upper().replace(b"-", b"_").decode("latin-1"): value.strip(b" \t").decode("latin-1")
        for name, value in values.items()
    }
    derived = {**attributes, "headers": {**attributes["headers"], **new}}
    derived.pop("direct", None)  # It depends on the values.
    return derived
