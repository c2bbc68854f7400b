"""The heads of responses that the event loop writes equal those that waitress writes."""

from types import SimpleNamespace

import pytest
from waitress.task import Task

from flaskml.server.response_heads import MAX_CACHED_HEADS, ResponseHeads

HEADERS = {
    "none": (),
    "JSON": (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")),
    "lower case": (("content-type", "application/json"), ("x-REQUEST-id", "aB-c")),
    "repeated": (("Vary", "Cookie"), ("Allow", "POST"), ("Vary", "Accept"), ("vary", "Origin")),
    "around the own names": (("Content", "a"), ("Content-Lengths", "b"), ("Dated", "c"), ("Servers", "d"), ("A", "e")),
    "not ASCII": (("X-Name", "é: \xff"), ("X-Empty", "")),
}


def waitress_head(headers, body, status, ident, now):
    """Return the head that waitress writes for these headers."""
    server = SimpleNamespace(adj=SimpleNamespace(ident=ident))
    task = Task(SimpleNamespace(server=server), SimpleNamespace(version="1.1", headers={}))
    task.status, task.start_time, task.content_length = status, now, len(body)
    task.response_headers = list(headers)
    return task.build_response_header()


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time the test sets as `clock.now`."""
    clock = SimpleNamespace(now=1_700_000_000.9)
    clock.time = lambda: clock.now
    monkeypatch.setattr("flaskml.server.response_heads.time", clock)
    return clock


@pytest.mark.parametrize("ident", ["flaskml", None, ""])
@pytest.mark.parametrize("status", ["200 OK", "503 Service Unavailable"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_response_has_the_head_that_waitress_writes(name, status, ident, clock):
    heads = ResponseHeads(ident)
    for body in (b"", b"{}", b"x" * 1000):
        expected = waitress_head(HEADERS[name], body, status, ident, clock.now) + body
        assert heads.response(HEADERS[name], body, status) == expected


def test_the_date_is_that_of_the_current_second(clock):
    heads = ResponseHeads("flaskml")
    for _ in range(3):
        for part in (0.0, 0.5):
            clock.now = int(clock.now) + part
            expected = waitress_head((), b"{}", "200 OK", "flaskml", clock.now) + b"{}"
            assert heads.response((), b"{}") == expected
        clock.now += 1


def test_more_sets_of_headers_than_are_cached_have_their_own_heads(clock):
    heads = ResponseHeads("flaskml")
    for number in range(2 * MAX_CACHED_HEADS + 5):
        headers = (("X-Number", str(number)),)
        assert heads.response(headers, b"") == waitress_head(headers, b"", "200 OK", "flaskml", clock.now)
        assert len(heads._encoded) <= MAX_CACHED_HEADS + 1
