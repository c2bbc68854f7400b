"""Check the shape of problem documents (RFC 9457)."""

import json

from flaskml.errors import MAX_PROBLEMS
from flaskml.web.replies import MAX_PROBLEM_BYTES


def strict(content):
    """Return the document. Raises `ValueError` for NaN and infinity, `AssertionError` for a duplicate key."""

    def refuse(constant):
        raise ValueError(constant)

    def distinct(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(content.decode("utf-8"), parse_constant=refuse, object_pairs_hook=distinct)


def problem_of(status, headers, content):
    """Return the problem document of an answer. Raises `AssertionError` or `ValueError` for any other shape."""
    assert headers["Content-Type"] == "application/problem+json"
    assert int(headers["Content-Length"]) == len(content) < MAX_PROBLEM_BYTES
    problem = strict(content)
    assert set(problem) in ({"title", "status", "detail"}, {"title", "status", "detail", "errors"})
    assert problem["status"] == status >= 400
    assert problem["title"] and isinstance(problem["title"], str)
    assert problem["detail"].endswith((".", "?", "…")) or len(problem["detail"]) == 1_000
    for entry in problem.get("errors", []):
        assert set(entry) == {"row", "feature", "detail"}
        assert entry["row"] is None or type(entry["row"]) is int
        assert entry["feature"] is None or isinstance(entry["feature"], str)
        assert entry["detail"] and isinstance(entry["detail"], str)
    assert 1 <= len(problem.get("errors", [0])) <= MAX_PROBLEMS
    return problem
