"""Content codings of request bodies (RFC 9110, section 8.4): gzip and deflate, inflated up to a limit."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from flaskml.errors import NotParseable, TooLarge, UnsupportedMediaType

GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib's number for the gzip format (RFC 1952)."""

WINDOW_BITS: Mapping[str, int] = {
    "gzip": GZIP_WINDOW_BITS,
    "x-gzip": GZIP_WINDOW_BITS,
    "deflate": zlib.MAX_WBITS,
}
"""The offered codings, each with zlib's number for its format; `deflate` is the zlib format (RFC 1950)."""


def content_codings(header: str) -> list[str]:
    """Return the codings that a Content-Encoding header names, in lower case, without `identity`, which is none."""
    codings = [coding.strip(" \t").lower() for coding in header.split(",")]
    return [coding for coding in codings if coding not in ("", "identity")]


def decode_content(body: bytes, header: str, max_bytes: int, setting: str) -> bytes:
    """Return a body without the coding of its Content-Encoding header.

    Raises `UnsupportedMediaType` for other codings and for several, `NotParseable` for damaged data and for bytes after
    its end, and `TooLarge`, naming `setting`, if there are more than `max_bytes`.
    """
    codings = content_codings(header)
    if len(codings) != 1 or codings[0] not in WINDOW_BITS:
        raise UnsupportedMediaType(f"Content-Encoding {header}", "gzip, deflate or an unencoded body")
    decoder = zlib.decompressobj(WINDOW_BITS[codings[0]])
    try:
        content = decoder.decompress(body, max_bytes + 1)
    except zlib.error:
        raise NotParseable(f"its bytes are not {codings[0]} data, as its Content-Encoding says") from None
    if len(content) > max_bytes:
        raise TooLarge(max_bytes, setting)
    if not decoder.eof:
        raise NotParseable(f"its {codings[0]} data ends early; send it whole")
    if decoder.unused_data:
        raise NotParseable(f"it has {len(decoder.unused_data):,} bytes after the end of its {codings[0]} data")
    return content
