"""Many requests of many sizes at once, to two models whose versions change, each answer held against its estimator.

A batch mixes what many ask for. So each question has an answer of its own, by each version another one.
"""

import asyncio
import json
import os
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import count, takewhile

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
from tests.support.in_process_servers import command_of
from tests.support.server_processes import Server
from tests.support.stores import replayed

CONNECTIONS = 64

THREADS = 32
"""Threads of `waitress-serve`: as many calls may share a batch there."""

MOST_ROWS = 50

PATIENCE = 30
"""Seconds after which a request counts as lost."""

NEAR = 1e-6
"""How far a number may be off: whose it is is what is asked here, and no other's is as near."""

VERSIONS = ("1", "2")

METHODS = {"line": ("predict", "predict_proba", "decision_function"), "forest": ("predict",)}
"""Two models and what they are asked: one too cheap to wait for on threads, one that may be too slow for a loop."""

ROWS = np.random.default_rng(7).normal(size=(400, 4))


def fitted(name, version):
    """An estimator none of whose answers another version gives."""
    if name == "line":
        level = np.digitize(ROWS @ [1, -2, 3, int(version)], [-2, 2])
        labels = np.char.add(f"{version} ", level.astype(str))
        return make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, labels)
    target = ROWS @ [1, 2, 3, 4] + 1_000 * int(version)
    return RandomForestRegressor(100, max_depth=5, random_state=int(version)).fit(ROWS, target)


@dataclass(frozen=True)
class Question:
    """A request, and how its rows are answered by each version that may answer it."""

    model: str
    version: str | None
    content: bytes
    expected: dict


def questions_about(estimators, number):
    """So many questions of every kind, of 1 to `MOST_ROWS` rows."""
    draw = random.Random(number)
    for _ in range(number):
        name = draw.choice(["forest", *["line"] * 15])
        method, version = draw.choice(METHODS[name]), draw.choice([None, None, *VERSIONS])
        start = draw.randrange(len(ROWS) - MOST_ROWS)
        rows = ROWS[start : start + draw.choice([1, 1, 1, draw.randint(1, MOST_ROWS)])]
        path = f"/models/{name}" + (f"/versions/{version}" if version else "")
        may_answer = [version] if version else VERSIONS
        expected = {one: answers(estimators[name, one], method, rows) for one in may_answer}
        content = request("POST", f"{path}/predict?method={method}", body_of(rows, draw))
        yield Question(name, version, content, expected)


def answers(estimator, method, rows):
    found = [plain(answer) for answer in getattr(estimator, method)(rows)]
    return [by_class(estimator.classes_, row) for row in found] if method == "predict_proba" else found


def body_of(rows, draw):
    """The rows in one of the forms that JSON has for them."""
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
def questions(estimators):
    return list(questions_about(estimators, 800))


@pytest.fixture(scope="module")
def instance(estimators, tmp_path_factory):
    """A store of both versions of both models, each of which can be asked for by its number."""
    path = tmp_path_factory.mktemp("soak") / "instance"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "run_trial", replayed)
        for (name, version), estimator in estimators.items():
            runtime = "sklearn" if version == "1" else None  # What is slow shares calls on threads too.
            assert flaskml.publish(estimator, ROWS, name=name, instance_path=path, runtime=runtime) == version
            ModelStore(path).alias(name, f"number-{version}", version)
    return path


VERSION = re.compile(rb'"version":"(\d+)"')

MOST_SWAPS = 60
"""Changes of versions after which nothing more is asked."""


@dataclass
class Outcome:
    """What was answered, and how often: number of the question, status and body. Status 0 is no answer."""

    answers: Counter = field(default_factory=Counter)
    swaps: list = field(default_factory=list)
    active: set = field(default_factory=set)
    """Which version of which model answered questions that name none."""


class Connection:
    """A connection that is kept alive."""

    def __init__(self, port):
        self.port = port
        self.streams = None

    async def ask(self, content):
        """Status and body of the answer."""
        try:
            async with asyncio.timeout(PATIENCE):
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


async def ask_all(port, questions, number, wanted):
    """Asks so many questions from `CONNECTIONS` connections, while versions change every second.

    It asks more if of the models and versions `wanted` some have not answered, but not for ever.
    """
    outcome, over = Outcome(), asyncio.Event()
    draw, asked = random.Random(number), count()

    def goes_on(_):
        waits = not wanted <= outcome.active and len(outcome.swaps) < MOST_SWAPS and not swapping.done()
        return next(asked) < number or waits

    indices = takewhile(goes_on, iter(lambda: draw.randrange(len(questions)), None))

    async def ask_in_turn():
        connection = Connection(port)
        for index in indices:
            answer = await connection.ask(questions[index].content)
            outcome.answers[index, *answer] += 1
            if questions[index].version is None and (version := VERSION.search(answer[1])):
                outcome.active.add((questions[index].model, version[1].decode()))
            if answer[0] == 0:
                break  # A server that is gone is not asked thousands of times.
        connection.close()

    async def swap():
        connection = Connection(port)
        for turn in count():
            await asyncio.sleep(0 if turn == 0 else 1)
            if over.is_set():
                break
            name, version = sorted(METHODS)[turn % 2], VERSIONS[turn // 2 % 2]
            body = {"version": version}
            outcome.swaps.append((name, version, *await connection.ask(request("PUT", f"/models/{name}/active", body))))
        connection.close()

    swapping = asyncio.create_task(swap())
    await asyncio.gather(*[ask_in_turn() for _ in range(CONNECTIONS)])
    over.set()
    await swapping
    return outcome


def fault(question, status, body):
    """What is wrong with an answer, in a word; None for a good one."""
    if status != 200:
        return "lost"
    told = json.loads(body)
    got = told["predictions"] if "predictions" in told else [told["prediction"]]
    if told["model"] != question.model or told["version"] not in question.expected:
        return "wrong"
    if same(question.expected[told["version"]], got):
        return None
    each = zip(*question.expected.values(), strict=True)
    if len(got) == len(next(iter(question.expected.values()))) and all(
        any(same([answer], [row]) for answer in by_version) for by_version, row in zip(each, got, strict=True)
    ):
        return "mixed"
    return "wrong"


def same(wanted, got):
    return not differs(wanted, got, NEAR, largest(wanted))


def faults(questions, outcome):
    """How many answers are wrong, mixed or lost."""
    found = Counter()
    for (index, status, body), times in outcome.answers.items():
        if (word := fault(questions[index], status, body)) is not None:
            found[word] += times
    return found


@pytest.fixture
def run(instance, questions, server_name):
    """Starts the server and asks it so many questions."""

    def ask(number, *, plant=None, wanted=frozenset()):
        command = list(command_of(server_name))
        if server_name == "waitress-serve":
            command.insert(-1, f"--threads={THREADS}")
        if plant is not None:
            command[1:2] = ["-c", plant]
        variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
        server = Server(command, cwd=CHECKOUT, env=variables)
        try:
            return asyncio.run(ask_all(server.port, questions, number, wanted))
        finally:
            server.stop()

    return ask


@pytest.mark.contract
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(5_000, marks=pytest.mark.thorough),
        pytest.param(200_000, marks=pytest.mark.gauntlet),
    ],
)
def test_every_answer_under_load_is_the_estimators_own(run, questions, number):
    wanted = {(name, version) for name in METHODS for version in VERSIONS}
    outcome = run(number, wanted=wanted)
    assert faults(questions, outcome) == {}
    assert outcome.answers.total() >= number
    assert {status for *_, status, _ in outcome.swaps} <= {200, 202}, outcome.swaps
    assert outcome.active == wanted


SWAPPING = """
import runpy, sys
from flaskml.inference.batching import Batcher

together = Batcher.together

def confused(batcher, calls):
    together(batcher, calls)
    if len(calls) > 1:
        calls[0].answer, calls[1].answer = calls[1].answer, calls[0].answer

Batcher.together = confused
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""A server that gives two of a batch each other's answers."""


@pytest.mark.thorough
@pytest.mark.contract
def test_answers_that_are_exchanged_in_a_batch_are_found(run, questions):
    assert faults(questions, run(1_000, plant=SWAPPING))["wrong"] > 0


def test_every_fault_is_found(estimators):
    questions = [question for question in questions_about(estimators, 50) if question.version is None]

    def told(question, predictions, version="1", model=None):
        return json.dumps({"predictions": predictions, "model": model or question.model, "version": version})

    for question in questions:
        one, two = question.expected["1"], question.expected["2"]
        assert fault(question, 200, told(question, one)) is None
        assert fault(question, 200, told(question, two, "2")) is None
        assert fault(question, 200, told(question, [two[0], *one[1:]])) == "mixed"
        assert fault(question, 200, told(question, one, "2")) == "mixed"
        assert fault(question, 200, told(question, one[1:])) == "wrong"
        assert fault(question, 200, told(question, one, "3")) == "wrong"
        assert fault(question, 200, told(question, one, model="other")) == "wrong"
        assert fault(question, 503, told(question, one)) == fault(question, 0, b"") == "lost"
    long = next(question for question in questions if len(question.expected["1"]) > 1 and question.model == "forest")
    assert fault(long, 200, told(long, long.expected["1"][::-1])) == "wrong"
