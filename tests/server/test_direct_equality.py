"""Direct answers are those of Flask: the same status, headers and bytes for the same requests, on both servers."""

import json
import random
import shutil

import pytest

from flaskml.blueprints import predict
from flaskml.inference.predictor import Predictor
from flaskml.settings import Settings
from tests.support.body_formats import BATCH_FORMATS, SINGLE_ROW_FORMATS, rows_of
from tests.support.hostile_inputs import GOOD, HOSTILE, publish_visits
from tests.support.sample_tables import FORCED, TABLES, cases, name_of, tables_store  # noqa: F401 - fixtures
from tests.support.sampling import sampled
from tests.support.transcripts import differences, equal_servers, equal_servers_in_threads, request_bytes

JSON_TYPE = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def peers(trained, tmp_path_factory):
    """Both servers with both settings, on models of a number, of a mixed table and of dates."""
    instance = shutil.copytree(trained, tmp_path_factory.mktemp("equality") / "instance")
    publish_visits(instance)
    with equal_servers(instance) as peers:
        ask_each_path(peers)
        yield peers


@pytest.fixture
def patched_peers(trained, tmp_path):
    """The same in this process."""
    instance = shutil.copytree(trained, tmp_path / "instance")
    publish_visits(instance)
    with equal_servers_in_threads(instance) as peers:
        ask_each_path(peers)
        yield peers


def ask_each_path(peers):
    """Send a valid row to each path, twice: Flask answers the first prediction of a path."""
    for path, row in PATHS.items():
        for _ in range(2):
            assert not differences(peers, request_bytes(path, json.dumps(row).encode(), [JSON_TYPE]))


PATHS = {
    "/predict": {"feature": 0.5},
    "/models/default/predict": {"feature": 0.5},
    "/models/default/versions/1/predict": {"feature": 0.5},
    "/models/homes/predict": GOOD["homes"][0],
    "/models/visits/predict": GOOD["visits"][0],
}
"""The paths of predictions, each with a valid row."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", sampled(HOSTILE, 12))
def test_hostile_inputs_get_the_same_answer(peers, name):
    hostile = HOSTILE[name]
    kind = [] if hostile.content_type is None else [("Content-Type", hostile.content_type)]
    path = f"/models/{hostile.model}/predict?{hostile.query}"
    head = len(path) + sum(len(key) + len(value) for key, value in [*kind, *hostile.headers.items()])
    if head > 8_000 or "Host" in hostile.headers:
        return  # The servers differ: `flask serve` refuses long heads and invalid hosts before the app sees them.
    content = request_bytes(path, hostile.content, [*kind, *hostile.headers.items()])
    # `flask serve` refuses a large body for its length, unread, and closes the connection.
    is_read = len(hostile.content) <= Settings.model_fields["max_body"].default
    assert not differences(peers, content, between_servers=is_read)


@pytest.fixture(scope="module")
def table_peers(tables_store):  # noqa: F811
    with equal_servers(tables_store.instance_path, FLASKML_MODEL_NAME="iris", FLASKML_MAX_BODY=str(2**23)) as peers:
        yield peers


@pytest.mark.gauntlet
@pytest.mark.parametrize(("table", "runtime"), [(make.__name__, None) for make in TABLES] + list(FORCED))
def test_rows_of_every_table_get_the_same_answer(table_peers, cases, table, runtime):  # noqa: F811
    case = cases[table]
    rows = rows_of(case)
    for method in case.methods:
        for rows_sent in (rows[:1], rows[:7]):
            for encode in (*BATCH_FORMATS, *SINGLE_ROW_FORMATS) if len(rows_sent) == 1 else BATCH_FORMATS:
                body, content_type = encode(case.names, rows_sent)
                path = f"/models/{name_of(table, runtime)}/predict?method={method}"
                content = request_bytes(path, body.encode(), [("Content-Type", content_type)])
                assert not differences(table_peers, content), (method, encode.__name__, len(rows_sent))


METHODS = ("POST",) * 60 + ("GET", "HEAD", "PUT", "OPTIONS", "DELETE")
QUERIES = ("",) * 40 + (
    "?method=predict", "?method=predict_proba", "?method=predict_proba&top_k=1", "?top_k=1", "?method=", "?x=1", "?",
    "?method=predict&method=predict", "?method=%70redict", "?method=decision_function", "?method=transform",
)  # fmt: skip
HEADERS = (
    ("Accept", "*/*"), ("Accept", "application/json"), ("Accept", "text/csv"), ("Accept", "text/html"), ("Accept", ""),
    ("Accept", "text/csv;q=0.2, application/json"), ("Accept", "application/json;q=0.2, text/csv"), ("Accept", "a/b"),
    ("Content-Encoding", "identity"), ("Content-Encoding", "gzip"), ("Content-Encoding", ""), ("Cookie", "session=x"),
    ("Content-Encoding", " Identity "), ("Content-Encoding", "identity, gzip"), ("Content-Encoding", "\xa0identity"),
    ("Origin", "https://a.example"), ("Connection", "keep-alive"), ("Connection", "Keep-Alive"),
    ("Connection", "TE"), ("Via", "1.1 a"), ("Expect", "x"), ("Content-Range", "bytes 0-1/2"),
    ("X-Request-Id", "1"), ("X-Forwarded-For", "1.2.3.4"), ("Authorization", "Bearer x"), ("Range", "bytes=0-0"),
    ("If-None-Match", "*"), ("X-HTTP-Method-Override", "GET"), ("Accept-Encoding", "gzip"), ("TE", "trailers"),
    ("Upgrade", "h2c"), ("Upgrade", "websocket"), ("User-Agent", "\xe9"), ("Accept", "*/*;q=0"), ("Accept", "\xe9"),
)  # fmt: skip
CONTENT_TYPES = ("application/json",) * 40 + (
    None, "", "application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json", "text/json", "text/plain",
    "application/x-www-form-urlencoded", "text/csv", "multipart/form-data; boundary=x", ";", "\xe9",
)  # fmt: skip


def generated_paths(rng):
    path = rng.choice(list(PATHS))
    changes = (
        ("/predict", "/predict/"), ("/predict", "//predict"), ("/p", "/%70"), ("default", "Default"), ("1", "01"),
        ("default", "absent"), ("1", "2"), ("/predict", "/predict;x"), ("/predict", "/predict%20"),
    )  # fmt: skip
    changed = path.replace(*rng.choice(changes)) if rng.random() < 0.15 else path
    return path, changed


def generated_body(rng, row):
    """Return a body with rows, most often valid ones, in any of the formats of JSON bodies, perhaps damaged."""
    rows = [{name: generated_value(rng, value) for name, value in row.items()} for _ in range(rng.choice((1, 1, 1, 3)))]
    if rng.random() < 0.05:
        rows[-1][rng.choice(["extra", "", *row])] = rng.choice([None, "x", [], 1e400, -1])
    if rng.random() < 0.05:
        rows[0].pop(rng.choice(list(row)))
    documents = (rows[0], rows, {"instances": rows}, {"instances": [list(one.values()) for one in rows]}, [])
    text = json.dumps(rng.choice(documents), indent=rng.choice((None, None, 1)), ensure_ascii=rng.random() < 0.5)
    body = text.encode()
    if rng.random() < 0.08:
        position = rng.randrange(len(body) + 1)
        damages = (
            body[:position], body[:position] + b"\0" + body[position:], b"\xef\xbb\xbf" + body, body + b" \n",
            b"\n\t " + body, body + b"x", body.replace(b'"', b"'"), body.replace(b"1", b"1" * 400), b"", b"null",
            body.replace(b":", b": \xff"), b"[[]]",
        )  # fmt: skip
        body = rng.choice(damages)
    return body


def generated_value(rng, value):
    if isinstance(value, bool) or rng.random() < 0.97:
        return value
    if isinstance(value, (int, float)):
        return rng.choice([value, value + 1, -value, value * 1e3, float(value), int(value), 1e308, 0, -0.0, 5e-324])
    return rng.choice([value, value, "", "é", None])


def generated_request(rng):
    """Return the bytes of a random request around predictions, and whether its answer has a body."""
    path, changed = generated_paths(rng)
    method = rng.choice(METHODS)
    content_type = rng.choice(CONTENT_TYPES)
    headers = rng.sample(HEADERS, rng.choice((0, 0, 0, 1, 1, 2, 3)))  # A header may be repeated.
    if content_type is not None:
        headers.append(("Content-Type", content_type))
    body = generated_body(rng, PATHS[path]) if method in ("POST", "PUT") else b""
    return request_bytes(changed + rng.choice(QUERIES), body, headers, method), method != "HEAD"


def compare_generated(peers, count, seed):
    rng = random.Random(seed)
    for number in range(count):
        content, has_body = generated_request(rng)
        assert not differences(peers, content, has_body=has_body), (seed, number, content)


@pytest.mark.brief
def test_some_generated_requests_get_the_same_answer(peers):
    compare_generated(peers, 200, seed=0)


@pytest.mark.thorough
def test_generated_requests_get_the_same_answer(peers):
    compare_generated(peers, 600, seed=1)


@pytest.mark.gauntlet
@pytest.mark.parametrize("seed", range(10, 20))
def test_many_generated_requests_get_the_same_answer(peers, seed):
    compare_generated(peers, 10_000, seed)


@pytest.mark.parametrize("length", sampled(["%019d", "%018d", "%04000d", "%026d"], 4))
def test_a_content_length_with_leading_zeros_does_not_pass_the_limit(patched_peers, length):
    row = json.dumps(PATHS["/predict"]).encode()
    for body in (row, row + b" " * 9_000_000):
        content = request_bytes("/predict", body, [JSON_TYPE])
        content = content.replace(b"Length: %d" % len(body), b"Length: " + (length % len(body)).encode())
        name = "waitress-serve"  # The event loop refuses a length of more than 18 digits.
        auto, never = (patched_peers[name, direct].exchange(content) for direct in ("auto", "never"))
        assert auto == never and auto[0].startswith(b"HTTP/1.1 200 " if body == row else b"HTTP/1.1 413 ")


def test_generated_requests_are_answered_directly_often(patched_peers, monkeypatch):
    """Else the comparisons above would compare Flask with itself."""
    answered, answer = [], predict.answer
    monkeypatch.setattr(predict, "answer", lambda *arguments: answered.append(1) or answer(*arguments))
    rng = random.Random(2)
    for _ in range(200):
        content, has_body = generated_request(rng)
        differences(patched_peers, content, has_body=has_body)
    assert 200 < len(answered) < 650  # Of 800 requests, half are sent to apps that answer none directly.


def test_a_planted_difference_is_found(patched_peers, monkeypatch):
    answer_batch = Predictor.answer_batch

    def wrong_answers(*arguments, **options):
        return [body.replace(b"20.8", b"20.9") for body in answer_batch(*arguments, **options)]

    monkeypatch.setattr(Predictor, "answer_batch", wrong_answers)
    content = request_bytes("/predict", json.dumps(PATHS["/predict"]).encode(), [JSON_TYPE])
    assert {name for name, *_ in differences(patched_peers, content)} == {"waitress-serve", "flask serve"}
