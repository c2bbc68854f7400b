"""The engine, as `flask serve` runs it."""

import json
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest

from flaskml.publishing.trial import TrialLimits, ensure_accepted
from tests.support.stores import constant, put

pytest.importorskip("greenlet")


@pytest.fixture
def engine(serve):
    return serve("flask serve")


def test_a_swap_while_others_ask(engine, store, trials):
    put(store, constant(7))
    ensure_accepted(store, "default", "2", TrialLimits())
    stop, answers = threading.Event(), []

    def ask():
        while not stop.is_set():
            answers.append(engine.json("POST", "/predict", {"feature": 1}))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    row = {"x": 1}
    for version in ("2", "1", "2", "1"):
        status, told = engine.json("PUT", "/models/default/active", {"version": version})
        assert status == 200 and told["serving"] == version
        answer = engine.json("POST", "/predict", row if version == "2" else {"feature": 1})[1]
        assert answer["version"] == version
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} <= {200, 422}  # The second takes another feature.
    assert {answer["version"] for status, answer in answers if status == 200} == {"1"}


def test_it_stops_on_a_signal_and_frees_its_port(engine):
    assert engine.json("GET", "/readyz")[0] == 200
    with closing(HTTPConnection("127.0.0.1", engine.port, timeout=20)) as connection:
        connection.request("GET", "/livez")
        assert connection.getresponse().read()
        engine.process.terminate()
        time.sleep(0.3)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert "about to stop" in json.loads(answer.read())["detail"]
    assert engine.process.wait(10) == 0
