"""Soak test: concurrent requests of many sizes while versions change; each answer is compared with the estimator's.

A batch combines rows of many requests. The requests differ in their answers, and so do the versions, so that an answer
to another request or by another version is detected.
"""

import asyncio
import itertools
import json
import os
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import flaskml
from flaskml.publishing import trial
from flaskml.store.model_store import ModelStore
from tests.support.answers import by_class, differs, largest, plain
from tests.support.checkout import CHECKOUT
from tests.support.in_process_servers import COMMANDS
from tests.support.server_processes import Server
from tests.support.stores import run_trial_in_process

CONNECTIONS = 64

THREADS = 32
"""Threads of `waitress-serve`, and so the largest number of calls in a batch there."""

MAX_ROWS = 50

REQUEST_TIMEOUT_SECONDS = 30
"""Seconds after which a request counts as lost."""

TOLERANCE = 1e-6
"""Relative error of a number in an answer; the answers to other requests differ by more."""

VERSIONS = ("1", "2")

METHODS = {"line": ("predict", "predict_proba", "decision_function"), "forest": ("predict",)}
"""Methods by model: `line` is too cheap to batch on threads, and `forest` may be too slow for the event loop."""

ROWS = np.random.default_rng(7).normal(size=(400, 4))


def fitted(name, version):
    """Return an estimator whose answers all differ from those of the other version."""
    if name == "line":
        level = np.digitize(ROWS @ [1, -2, 3, int(version)], [-2, 2])
        labels = np.char.add(f"{version} ", level.astype(str))
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, labels)
    target = ROWS @ [1, 2, 3, 4] + 1_000 * int(version)
    return RandomForestRegressor(100, max_depth=5, random_state=int(version)).fit(ROWS, target)


@dataclass(frozen=True)
class Case:
    """A request, and the expected answers by each version that may serve it."""

    model: str
    version: str | None
    content: bytes
    expected: dict


def random_cases(estimators, count):
    """Yield `count` cases of every kind, with 1 to `MAX_ROWS` rows."""
    draw = random.Random(count)
    for _ in range(count):
        name = draw.choice(["forest", *["line"] * 15])
        method, version = draw.choice(METHODS[name]), draw.choice([None, None, *VERSIONS])
        start = draw.randrange(len(ROWS) - MAX_ROWS)
        rows = ROWS[start : start + draw.choice([1, 1, 1, draw.randint(1, MAX_ROWS)])]
        path = f"/models/{name}" + (f"/versions/{version}" if version else "")
        versions = [version] if version else VERSIONS
        expected = {one: predictions_of(estimators[name, one], method, rows) for one in versions}
        content = request("POST", f"{path}/predict?method={method}", body_of(rows, draw))
        yield Case(name, version, content, expected)


def predictions_of(estimator, method, rows):
    """Return the predictions for the rows in the form of the JSON answer."""
    predictions = [plain(prediction) for prediction in getattr(estimator, method)(rows)]
    if method == "predict_proba":
        return [by_class(estimator.classes_, row) for row in predictions]
    return predictions


def body_of(rows, draw):
    """Return the rows in one of the JSON forms of the native contract."""
    objects = [{f"x{number}": value for number, value in enumerate(row)} for row in rows.tolist()]
    if len(rows) == 1:
        return draw.choice(objects)
    return draw.choice([objects, {"instances": objects}, {"instances": rows.tolist()}])


def request(method, path, value):
    body = json.dumps(value).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def estimators():
    return {(name, version): fitted(name, version) for name in METHODS for version in VERSIONS}


@pytest.fixture(scope="module")
def cases(estimators):
    return list(random_cases(estimators, 800))


@pytest.fixture(scope="module")
def instance(estimators, tmp_path_factory):
    """Return an instance folder with both versions of both models; an alias lets requests name each version."""
    path = tmp_path_factory.mktemp("soak") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "run_trial", run_trial_in_process)
        for (name, version), estimator in estimators.items():
            runtime = "sklearn" if version == "1" else None  # Slow models share batches on threads too.
            assert flaskml.publish(estimator, ROWS, name=name, instance_path=path, runtime=runtime) == version
            ModelStore(path).alias(name, f"number-{version}", version)
    return path


VERSION = re.compile(rb'"version":"(\d+)"')

MAX_SWAPS = 60
"""Version swaps after which the clients stop waiting for a model and version to answer."""


@dataclass
class Outcome:
    """The answers of a run, counted by index of the case, status and body. Status 0 means that none arrived."""

    answers: Counter = field(default_factory=Counter)
    swaps: list = field(default_factory=list)
    active: set = field(default_factory=set)
    """The models and versions that answered requests without a version."""


class Connection:
    """A keep-alive connection."""

    def __init__(self, port):
        self.port = port
        self.streams = None

    async def send(self, content):
        """Send a request; return the status and the body of the response."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                if self.streams is None:
                    self.streams = await asyncio.open_connection("127.0.0.1", self.port)
                reader, writer = self.streams
                writer.write(content)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", head)[1])
                return int(head[9:12]), await reader.readexactly(length)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            return 0, repr(error).encode()

    def close(self):
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


async def send_all(port, cases, count, wanted):
    """Send `count` random requests over `CONNECTIONS` connections, while versions are swapped every second.

    Send more until all `wanted` models and versions have answered, but stop after `MAX_SWAPS` swaps.
    """
    outcome, stopped = Outcome(), asyncio.Event()
    draw, sent = random.Random(count), itertools.count()

    def goes_on(_):
        waits = not wanted <= outcome.active and len(outcome.swaps) < MAX_SWAPS and not swapping.done()
        return next(sent) < count or waits

    indices = takewhile(goes_on, iter(lambda: draw.randrange(len(cases)), None))

    async def send_in_turn():
        connection = Connection(port)
        for index in indices:
            answer = await connection.send(cases[index].content)
            outcome.answers[index, *answer] += 1
            if cases[index].version is None and (version := VERSION.search(answer[1])):
                outcome.active.add((cases[index].model, version[1].decode()))
            if answer[0] == 0:
                break  # The server may be gone.
        connection.close()

    async def swap():
        connection = Connection(port)
        for turn in itertools.count():
            await asyncio.sleep(0 if turn == 0 else 1)
            if stopped.is_set():
                break
            name, version = sorted(METHODS)[turn % 2], VERSIONS[turn // 2 % 2]
            activation = request("PUT", f"/models/{name}/active", {"version": version})
            outcome.swaps.append((name, version, *await connection.send(activation)))
        connection.close()

    swapping = asyncio.create_task(swap())
    await asyncio.gather(*[send_in_turn() for _ in range(CONNECTIONS)])
    stopped.set()
    await swapping
    return outcome


def fault(case, status, body):
    """Return "lost", "mixed" or "wrong" for a faulty answer, None for a correct one."""
    if status != 200:
        return "lost"
    answer = json.loads(body)
    predictions = answer["predictions"] if "predictions" in answer else [answer["prediction"]]
    if answer["model"] != case.model or answer["version"] not in case.expected:
        return "wrong"
    if same(case.expected[answer["version"]], predictions):
        return None
    rows = zip(*case.expected.values(), strict=True)
    if len(predictions) == len(next(iter(case.expected.values()))) and all(
        any(same([expected], [prediction]) for expected in by_version)
        for by_version, prediction in zip(rows, predictions, strict=True)
    ):
        return "mixed"
    return "wrong"


def same(expected, predictions):
    return not differs(expected, predictions, TOLERANCE, largest(expected))


def faults(cases, outcome):
    """Return the numbers of wrong, mixed and lost answers."""
    counts = Counter()
    for (index, status, body), times in outcome.answers.items():
        if (kind := fault(cases[index], status, body)) is not None:
            counts[kind] += times
    return counts


@pytest.fixture
def run(instance, cases, server_name):
    """Return a function that starts the server and sends it `count` requests; `script` may replace its start."""

    def start_and_send(count, *, script=None, wanted=frozenset()):
        command = list(COMMANDS[server_name])
        if server_name == "waitress-serve":
            command.insert(-1, f"--threads={THREADS}")
        if script is not None:
            command[1:2] = ["-c", script]
        variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
        server = Server(command, cwd=CHECKOUT, env=variables)
        try:
            return asyncio.run(send_all(server.port, cases, count, wanted))
        finally:
            server.stop()

    return start_and_send


@pytest.mark.thorough
@pytest.mark.contract("flask serve")
def test_every_answer_under_load_equals_the_estimators(run, cases):
    check_answers(run, cases, 1_500)


@pytest.mark.gauntlet
@pytest.mark.contract
def test_every_answer_under_long_load_equals_the_estimators(run, cases):
    check_answers(run, cases, 200_000)


def check_answers(run, cases, count):
    wanted = {(name, version) for name in METHODS for version in VERSIONS}
    outcome = run(count, wanted=wanted)
    assert faults(cases, outcome) == {}
    assert outcome.answers.total() >= count
    assert {status for *_, status, _ in outcome.swaps} <= {200, 202}, outcome.swaps
    assert outcome.active == wanted


EXCHANGED_ANSWERS = """
import runpy, sys
from flaskml.inference.batching import Batcher
from flaskml.inference.predictor import Predictor

compute_batch, answer_batch = Batcher.compute_batch, Predictor.answer_batch

def with_exchanged_answers(batcher, calls, method):
    compute_batch(batcher, calls, method)
    if len(calls) > 1:
        calls[0].answer, calls[1].answer = calls[1].answer, calls[0].answer

def with_exchanged_bodies(*arguments, **options):
    bodies = answer_batch(*arguments, **options)
    return [*reversed(bodies[:2]), *bodies[2:]]

Batcher.compute_batch, Predictor.answer_batch = with_exchanged_answers, with_exchanged_bodies
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""A planted fault: the server exchanges the answers of two calls in a batch."""


@pytest.mark.thorough
@pytest.mark.contract("flask serve")
def test_exchanged_answers_in_a_batch_are_detected(run, cases):
    assert faults(cases, run(1_000, script=EXCHANGED_ANSWERS))["wrong"] > 0


def test_every_kind_of_fault_is_detected(estimators):
    cases = [case for case in random_cases(estimators, 50) if case.version is None]

    def body_of_answer(case, predictions, version="1", model=None):
        return json.dumps({"predictions": predictions, "model": model or case.model, "version": version})

    for case in cases:
        one, two = case.expected["1"], case.expected["2"]
        assert fault(case, 200, body_of_answer(case, one)) is None
        assert fault(case, 200, body_of_answer(case, two, "2")) is None
        assert fault(case, 200, body_of_answer(case, [two[0], *one[1:]])) == "mixed"
        assert fault(case, 200, body_of_answer(case, one, "2")) == "mixed"
        assert fault(case, 200, body_of_answer(case, one[1:])) == "wrong"
        assert fault(case, 200, body_of_answer(case, one, "3")) == "wrong"
        assert fault(case, 200, body_of_answer(case, one, model="other")) == "wrong"
        assert fault(case, 503, body_of_answer(case, one)) == fault(case, 0, b"") == "lost"
    long_case = next(case for case in cases if len(case.expected["1"]) > 1 and case.model == "forest")
    assert fault(long_case, 200, body_of_answer(long_case, long_case.expected["1"][::-1])) == "wrong"
