"""Hostile and unusual prediction requests: each is answered quickly, in little memory, with its expected status.

No request causes a 5xx, and every error has the one problem shape. An unusual but valid request expects 200.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.hostile_inputs import CSV, GOOD, HOSTILE, JSON, SENT, VISIT, publish_visits
from tests.support.in_process_servers import COMMANDS
from tests.support.problems import problem_of, strict
from tests.support.sampling import sampled
from tests.support.server_processes import Server
from tests.support.tables import HOME

MAX_SECONDS = 5
"""Limit of an answer's latency, against super-linear time; the slowest input takes a fifth of it."""

MAX_GROWTH_BYTES = 200 * 2**20
"""Bytes by which the peak memory of a server may grow over all inputs.

The server has one thread, because each thread keeps memory of its own.
"""


@pytest.fixture(scope="module")
def hostile_instance(trained, tmp_path_factory):
    path = Path(shutil.copytree(trained, tmp_path_factory.mktemp("hostile") / "instance"))
    publish_visits(path)
    return path


@dataclass
class Target:
    """A server, and the growth of its peak memory by input, in bytes."""

    server: Server
    terse: bool
    growth: Counter = field(default_factory=Counter)

    def is_healthy(self, model):
        """Return whether a valid row gets its prediction."""
        row, expected = GOOD[model]
        status, answer = self.server.json("POST", f"/models/{model}/predict", row)
        return status == 200 and answer == {"prediction": expected, "model": model, "version": "1"}

    def peak_memory(self):
        """Return the peak memory of the server in bytes."""
        status = Path(f"/proc/{self.server.serving_pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])

    def send(self, hostile):
        """Send a request, and return the answer and its latency in seconds."""
        kind = {} if hostile.content_type is None else {"Content-Type": hostile.content_type}
        path, content = f"/models/{hostile.model}/predict?{hostile.query}", hostile.content
        start = time.monotonic()
        answer = self.server.request("POST", path, content, {**kind, **hostile.headers})
        return *answer, time.monotonic() - start

    def rejects_head_of(self, hostile):
        """Return whether the server rejects the request unread, for the size of its target and headers."""
        headers = sum(len(name) + len(value) for name, value in hostile.headers.items())
        return self.terse and len(hostile.query) + headers + len(hostile.content_type or "") > 8_000


TARGETS = (("flask serve", "terse"), pytest.param(("waitress-serve", "full"), marks=pytest.mark.gauntlet))


@pytest.fixture(scope="module", params=TARGETS, ids=["flask serve terse", "waitress-serve full"])
def target(request, hostile_instance):
    name, detail = request.param
    command = list(COMMANDS[name])
    if name == "waitress-serve":
        command.insert(-1, "--threads=1")
    variables = {"FLASKML_INSTANCE_PATH": str(hostile_instance), "FLASKML_ERROR_DETAIL": detail}
    target = Target(Server(command, cwd=CHECKOUT, env={**os.environ, **variables}), detail == "terse")
    assert all(map(target.is_healthy, GOOD))
    yield target
    target.server.stop()
    assert target.growth.total() < MAX_GROWTH_BYTES, target.growth.most_common(5)


def leaked_names(content):
    """Return the feature names and values in a body that terse errors must not contain."""
    text = json.dumps(json.loads(content), ensure_ascii=False)
    names = [*HOME, *VISIT, "Oslo", "Rome", "São Paulo", "é{40}"]
    return [name for name in names if re.search(rf"\b{name}\b", text)] + [SENT] * (SENT in text)


def test_leaked_names_are_found():
    problem = json.dumps({"detail": f'"home city" must be "Oslo" or "{"é" * 40}", not "{SENT * 2}"; see the page'})
    assert leaked_names(problem) == ["home city", "Oslo", "é{40}", SENT]


@pytest.mark.parametrize("name", sampled(HOSTILE, 5))
def test_hostile_inputs_get_the_expected_status(target, name):
    hostile, peak_before = HOSTILE[name], target.peak_memory()
    if target.rejects_head_of(hostile):
        with suppress(ConnectionError):  # The server may close the connection before the request is sent.
            assert target.send(hostile)[0] in (414, 431)
        assert target.is_healthy(hostile.model)
        return
    status, headers, content, seconds = target.send(hostile)
    target.growth[name] = target.peak_memory() - peak_before
    assert status in (hostile.status if isinstance(hostile.status, tuple) else (hostile.status,)), content[:1_000]
    assert seconds < MAX_SECONDS and target.growth[name] < MAX_GROWTH_BYTES
    assert target.is_healthy(hostile.model)
    if headers.get_content_type() == "text/html":
        assert hostile.headers["Accept"] == "text/html"
        assert (b"<form" if status == 200 else b'role="alert"') in content
    elif status == 200:
        assert headers.get_content_type() in (JSON, hostile.headers.get("Accept"))
        assert headers.get_content_type() == CSV or strict(content)
    else:
        assert problem_of(status, headers, content)
    if target.terse and headers.get_content_type().endswith("json"):
        assert not leaked_names(content)
