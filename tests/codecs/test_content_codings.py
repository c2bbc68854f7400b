"""Bodies with a content coding are inflated up to a limit; damaged ones are refused."""

import gzip
import random
import tracemalloc
import zlib
from contextlib import suppress

import pytest

from flaskml.codecs.content_codings import decode_content
from flaskml.errors import FlaskmlError, NotParseable, TooLarge, UnsupportedMediaType

BODY = b'{"feature": 1}' * 50
ENCODED = {"gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY)}


def decode(body, header, limit=10**6):
    return decode_content(body, header, limit, "MAX_BODY")


@pytest.mark.parametrize(
    "header", ["gzip", "GZIP", " x-gzip\t", "identity, gzip", "gzip,", "deflate", "identity,Deflate"]
)
def test_the_offered_codings_are_decoded(header):
    assert decode(ENCODED["deflate" if "eflate" in header else "gzip"], header) == BODY


@pytest.mark.parametrize(
    "header", ["br", "zstd", "gzip, gzip", "deflate, gzip", "gzip2", "\xa0gzip", "g\0zip", "*", "gzip;q=1"]
)
def test_other_codings_are_refused(header):
    with pytest.raises(UnsupportedMediaType, match="gzip, deflate or an unencoded body"):
        decode(ENCODED["gzip"], header)


@pytest.mark.parametrize("coding", ENCODED)
def test_a_decoded_body_may_have_as_many_bytes_as_the_limit(coding):
    assert decode(ENCODED[coding], coding, len(BODY)) == BODY
    with pytest.raises(TooLarge, match="MAX_BODY"):
        decode(ENCODED[coding], coding, len(BODY) - 1)


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_bomb_takes_no_more_memory_than_the_limit(compress):
    bomb = compress(bytes(10**9 // 4))  # A thousand times as large as its data.
    tracemalloc.start()
    with pytest.raises(TooLarge):
        decode(bomb, "gzip" if compress is gzip.compress else "deflate")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 10**6


@pytest.mark.parametrize("coding", ENCODED)
def test_damaged_data_is_refused(coding):
    data, rng = ENCODED[coding], random.Random(1)
    for end in range(len(data)):
        with pytest.raises(NotParseable):
            decode(data[:end], coding)
    for extra in (b"\0", data, b"\r\n"):
        with pytest.raises(NotParseable, match="after the end"):
            decode(data + extra, coding)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with suppress(FlaskmlError):
            assert decode(bytes(damaged), coding) == BODY  # A bit of gzip's header may have no meaning.
    with pytest.raises(NotParseable, match=f"not {coding} data"):
        decode(BODY, coding)
