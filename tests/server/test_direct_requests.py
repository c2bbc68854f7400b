"""Direct requests: predictions that the event loop answers itself, on its own thread or on compute threads."""

import json
import socket
import struct
import threading
import time
from contextlib import ExitStack, closing

import pytest

from flaskml.server import gil_holding_io
from flaskml.server.direct_requests import MAX_INLINE_BODY_BYTES
from flaskml.server.policy import ServerPolicy
from tests.support.doubling import (
    PANIC,
    Client,
    Doubling,
    DoublingModel,
    doubling_server,
    flask_app,
    post,
)
from tests.support.in_process_servers import event_loop_server
from tests.support.server_processes import wait_until

LARGE_BODY = json.dumps({"text": "x" * 2 * MAX_INLINE_BODY_BYTES}).encode()


def slow(**options):
    """Return a model that runs on compute threads."""
    return DoublingModel(seconds=0.02, row_seconds=0.001, **options)


def connected(connect, count, path="/model"):
    """Return clients whose connections the server has accepted."""
    clients = [connect() for _ in range(count)]
    for client in clients:
        assert client.ask(path, [0]).by == "loop"
    return clients


def hold_loop(handler, connect, name="held"):
    """Let the loop compute the gated model of that name, so that requests gather; opening its gate lets it go on."""
    client, model = connect(), handler.models[f"/{name}"]
    client.send(post(f"/{name}", [0]))
    wait_until(lambda: model.running)
    assert model.threads == {handler.loop_thread}
    return model.gate, client


def begin(model, client, numbers=(0,)):
    """Let a gated model compute on another thread, so that requests for it wait; return the client."""
    client.send(post("/model", list(numbers)))
    wait_until(lambda: model.running)
    return client


def run_in_threads(functions):
    """Call each function in a thread at once; raise the first error."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("make_model", [DoublingModel, slow])
def test_requests_that_arrive_together_share_calls(make_model):
    model = make_model()
    with doubling_server(model=model, held=DoublingModel(is_gated=True)) as (handler, _, connect):
        clients = connected(connect, 20)
        gate, _ = hold_loop(handler, connect)
        model.calls.clear()
        for number, client in enumerate(clients):
            client.send(post("/model", [number, number + 0.5]))
        gate.set()
        for number, client in enumerate(clients):
            assert json.loads(client.read().body) == [2 * number, 2 * number + 1]
        assert len(model.calls) < 10 and sum(map(len, model.calls)) == 40


def test_pipelined_requests_are_answered_in_order_by_loop_and_flask():
    requests = [
        *[("/cheap", [1], "loop"), ("/cheap", [2], "loop"), ("/other", [3], "Flask"), ("/slow", [4], "loop")],
        *[
            ("/cheap", {"number": 5}, "Flask"),
            ("/slow", [6], "loop"),
            ("/cheap", [-7], "Flask"),
            ("/cheap", [8], "loop"),
        ],
    ]
    with doubling_server(cheap=DoublingModel(), slow=slow()) as (_, _, connect):
        clients = [connect() for _ in range(8)]
        for index, client in enumerate(clients):
            client.send(*(post(path, content, f"X-Mark: {index}") for path, content, _ in 3 * requests))
        for index, client in enumerate(clients):
            for _, content, by in 3 * requests:
                response = client.read()
                expected = content if by == "Flask" else [2 * number for number in content]
                assert (response.by, json.loads(response.body)) == (by, expected)
                assert response.headers["X-Mark"] == str(index)


@pytest.mark.parametrize("bad", [-1.0, PANIC])
@pytest.mark.parametrize("make_model", [DoublingModel, slow])
def test_of_a_batch_that_raises_only_the_bad_request_goes_to_flask(make_model, bad):
    model = make_model()
    with doubling_server(model=model, held=DoublingModel(is_gated=True)) as (handler, _, connect):
        clients = connected(connect, 6)
        gate, _ = hold_loop(handler, connect)
        numbers = [1.0, 2.0, bad, 4.0, 5.0, 6.0]
        for number, client in zip(numbers, clients, strict=True):
            client.send(post("/model", [number]))
        gate.set()
        for number, client in zip(numbers, clients, strict=True):
            response = client.read()
            expected = ("Flask", 422, [bad]) if number == bad else ("loop", 200, [2 * number])
            assert (response.by, response.status, json.loads(response.body)) == expected
        assert any(bad in call and len(call) > 1 for call in model.calls)
        assert clients[2].ask("/model", [3]).by == "loop"


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize("body", [b'{"text": "short"}', LARGE_BODY])
def test_a_refused_body_reaches_flask_unchanged(body, pieces):
    with doubling_server(model=DoublingModel()) as (handler, _, connect):
        client, content = connect(), post("/model", body)
        for _ in range(3):
            handler.reads.clear()
            for piece in range(pieces):
                client.send(content[len(content) * piece // pieces : len(content) * (piece + 1) // pieces])
                time.sleep(0.03)
            response = client.read()
            assert (response.by, response.body) == ("Flask", body)
            [(length, thread)] = handler.reads
            assert length == len(body)
            assert (thread == handler.loop_thread) == (length <= MAX_INLINE_BODY_BYTES)


def test_a_large_body_is_parsed_and_answered_on_a_compute_thread():
    numbers = list(range(10_000))
    with doubling_server(model=DoublingModel()) as (handler, _, connect):
        response = connect().ask("/model", numbers)
        assert response.by == "loop" and json.loads(response.body) == [2 * number for number in numbers]
        assert handler.reads[0][1] != handler.loop_thread
        assert handler.loop_thread not in handler.models["/model"].threads


def test_a_slow_call_holds_up_neither_health_checks_nor_other_predictions():
    model = slow(is_gated=True)
    policy = ServerPolicy(priority_paths=frozenset({"/livez"}))
    with doubling_server(policy, model=model, cheap=DoublingModel()) as (handler, _, connect):
        waiting = begin(model, connect(), [5])
        client = connect()
        for number in range(10):
            assert json.loads(client.ask("/cheap", [number]).body) == [2 * number]
            client.send(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.read().body == b"live"
        assert handler.models["/cheap"].threads == {handler.loop_thread} and model.running
        model.gate.set()
        assert json.loads(waiting.read().body) == [10]
        assert handler.loop_thread not in model.threads


def test_clients_of_a_slow_model_share_calls_one_at_a_time():
    model = slow(sleeps=True)
    with doubling_server(model=model) as (_, _, connect):

        def ask_often(client, index):
            for number in range(index * 20, index * 20 + 20):
                assert json.loads(client.ask("/model", [number]).body) == [2 * number]

        clients = [connect() for _ in range(8)]
        run_in_threads([lambda c=client, i=index: ask_often(c, i) for index, client in enumerate(clients)])
        assert sorted(number for call in model.calls for number in call) == list(range(160))
        assert len(model.calls) < 60 and model.most_running == 1


@pytest.mark.parametrize("rows", [2_000, 20_000])
def test_a_single_row_does_not_wait_for_large_requests_of_its_model(rows):
    model = slow(is_gated=True)
    with doubling_server(model=model) as (_, _, connect):
        large = [begin(model, connect(), [1] * rows), *(connect() for _ in range(2))]
        for client in large[1:]:
            client.send(post("/model", [1] * rows))
        small = connect()
        small.send(post("/model", [7]))
        wait_until(lambda: [7.0] in model.calls)
        assert len(model.calls) == model.running == 2
        model.gate.set()
        assert json.loads(small.read().body) == [14]
        assert all(json.loads(client.read().body) == [2] * rows for client in large)
        assert model.most_running == 2


def test_a_third_model_does_not_wait_for_two_slow_ones_with_many_clients():
    models = {name: slow(is_gated=True) for name in ("one", "two")}
    with doubling_server(third=DoublingModel(0.01), **models) as (_, _, connect):
        waiting = [(connect(), name) for name in models for _ in range(40)]
        for client, name in waiting:
            client.send(post(f"/{name}", [1]))
        wait_until(lambda: all(model.running for model in models.values()))
        client = connect()
        for number in range(5):
            assert json.loads(client.ask("/third", [number]).body) == [2 * number]
        assert [model.most_running for model in models.values()] == [1, 1]
        for model in models.values():
            model.gate.set()
        assert all(client.read().by == "loop" for client, _ in waiting)


@pytest.mark.parametrize("is_thread_safe", [True, False])
def test_only_a_thread_safe_model_is_called_on_the_thread_of_the_loop(is_thread_safe):
    model = DoublingModel(is_thread_safe=is_thread_safe)
    with doubling_server(model=model) as (handler, _, connect):
        client = connect()
        assert all(client.ask("/model", [number]).by == "loop" for number in range(10))
        assert (handler.loop_thread in model.threads) == is_thread_safe and len(model.calls) == 10


def test_a_request_whose_client_timeout_passed_or_whose_client_left_is_not_computed():
    model = slow(is_gated=True)
    with doubling_server(model=model) as (_, _, connect):
        begin(model, connect())
        late, patient, gone = connect(), connect(), connect()
        late.send(post("/model", [1], "X-Envoy-Expected-Rq-Timeout-Ms: 50"))
        patient.send(post("/model", [2], "X-Envoy-Expected-Rq-Timeout-Ms: 20000"))
        gone.send(post("/model", [3]))
        assert connect().ask("/other", [0]).by == "Flask"  # So the loop has read the requests before.
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        time.sleep(0.1)
        model.gate.set()
        response = late.read()
        assert (response.status, json.loads(response.body)["title"]) == (503, "Client timeout passed")
        assert json.loads(patient.read().body) == [4]
        assert late.ask("/model", [4]).by == "loop"
        assert model.calls == [[0], [2], [4]]


def test_direct_requests_that_wait_for_a_compute_thread_count_as_queued():
    model = slow(is_gated=True)
    with doubling_server(ServerPolicy(queue_limit=3), model=model) as (_, _, connect):
        waiting = [begin(model, connect()), connect(), connect()]
        for client in waiting[1:]:
            client.send(post("/model", [0]))
        client = connect()
        response = client.ask("/model", [1])
        assert (response.status, json.loads(response.body)["title"]) == (503, "Overloaded")
        model.gate.set()
        assert all(client.read().by == "loop" for client in waiting)
        assert client.ask("/model", [1]).by == "loop" and [1] in model.calls


def test_direct_requests_that_wait_for_the_loop_count_as_queued():
    held = DoublingModel(is_gated=True)
    with doubling_server(ServerPolicy(queue_limit=3), model=DoublingModel(), held=held) as (handler, _, connect):
        clients = connected(connect, 5)
        gate, _ = hold_loop(handler, connect)
        for client in clients:
            client.send(post("/model", [1]))
        gate.set()
        assert sorted(client.read().status for client in clients) == [200, 200, 200, 503, 503]


def test_a_target_is_found_once_per_header_block_and_epoch():
    with doubling_server(model=DoublingModel()) as (handler, _, connect):
        client = connect()
        for _ in range(3):
            assert client.ask("/model", [1], "X-Mark: once").by == "loop"
        found = handler.lookups
        handler.is_closed = True
        assert client.ask("/model", [2], "X-Mark: once").by == "loop" and handler.lookups == found
        handler.epoch = object()
        assert client.ask("/model", [2], "X-Mark: once").by == "Flask"
        handler.is_closed, handler.epoch = False, object()
        assert client.ask("/model", [2], "X-Mark: once").by == "loop" and handler.lookups == found + 2


def test_a_target_is_not_taken_from_a_like_header_block():
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        client = connect()
        for turn in range(4):
            for mark in ("usual", f"new {turn}", "other"):
                for choice in ("yes", "no", f"maybe {turn}"):
                    response = client.ask("/model", [1], f"X-Mark: {mark}", f"X-Direct: {choice}")
                    expected = (mark, "Flask" if choice == "no" else "loop")
                    assert (response.headers["X-Mark"], response.by) == expected


def is_refusing(port):
    """Return whether the server accepts no connections any more."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_during_the_drain_are_answered_and_close_the_connection():
    model, server = slow(is_gated=True), ExitStack()
    port = server.enter_context(event_loop_server(flask_app(Doubling(model=model, cheap=DoublingModel()))))
    stopping = threading.Thread(target=server.close)
    with closing(Client(port)) as idle, closing(Client(port)) as waiting:
        assert idle.ask("/cheap", [1]).by == "loop"
        begin(model, waiting, [5])
        stopping.start()
        wait_until(lambda: is_refusing(port))
        response = idle.ask("/cheap", [8])
        assert (response.status, response.headers["Connection"]) == (200, "close") and idle.file.read() == b""
        waiting.send(post("/cheap", [6]))
        model.gate.set()
        assert json.loads(waiting.read().body) == [10]
        response = waiting.read()
        assert (response.status, response.headers["Connection"]) == (200, "close") and waiting.file.read() == b""
    stopping.join(20)
    assert not stopping.is_alive()


@pytest.mark.parametrize(
    ("content", "by"),
    [
        (post("/model", [1], "Connection: keep-alive"), "loop"),
        (post("/model", [1], "Connection: close"), "Flask"),
        (post("/model", [1], "Connection: Upgrade"), "Flask"),
        (post("/model", [1], version="1.0"), "Flask"),
        (post("/model", [1], "Connection: keep-alive", version="1.0"), "Flask"),
        (post("/model", [1], "Expect: 100-continue"), "Flask"),
    ],
)
def test_only_plain_keep_alive_requests_are_direct(content, by):
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        for _ in range(3):
            client = connect()
            client.send(content)
            response = client.read()
            assert (response.by, json.loads(response.body)) == (by, [2] if by == "loop" else [1])


def test_a_chunked_request_reaches_flask_with_its_body():
    content = post("/model", b"").replace(b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n")
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        client = connect()
        for number in (1, 2):
            client.send(content, b"3\r\n[%d,\r\n" % number, b"2\r\n7]\r\n0\r\n\r\n")
            response = client.read()
            assert (response.by, json.loads(response.body)) == ("Flask", [number, 7])
            assert json.loads(client.ask("/model", [number]).body) == [2 * number]


def test_a_direct_answer_during_the_drain_closes_the_connection():
    model = DoublingModel(0.02, 0.001, is_gated=True)
    with ExitStack() as server, ExitStack() as clients:
        port = server.enter_context(event_loop_server(flask_app(Doubling(model=model))))
        client = clients.enter_context(closing(Client(port)))
        client.send(post("/model", [5]))
        wait_until(lambda: model.running)
        stopping = threading.Thread(target=server.close)
        stopping.start()
        time.sleep(1.5)  # Longer than idle connections stay open in a drain.
        model.gate.set()
        response = client.read()
        assert (json.loads(response.body), response.headers["Connection"]) == ([10], "close")
        assert client.file.read() == b""
        stopping.join(20)
        assert not stopping.is_alive()


def test_a_client_that_leaves_during_the_drain_does_not_affect_another():
    model = DoublingModel(0.02, 0.001, is_gated=True)
    with ExitStack() as server:
        port = server.enter_context(event_loop_server(flask_app(Doubling(model=model))))
        leaving, staying = Client(port), Client(port)
        leaving.send(post("/model", [5]))
        wait_until(lambda: model.running)
        staying.send(post("/model", [6]))
        stopping = threading.Thread(target=server.close)
        stopping.start()
        wait_until(lambda: is_refusing(port))
        leaving.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
        time.sleep(0.2)  # Until the loop has seen the reset.
        model.gate.set()
        with closing(staying):
            assert json.loads(staying.read().body) == [12]
        stopping.join(20)
        assert not stopping.is_alive()


def test_answers_are_right_while_other_threads_run(monkeypatch):
    received, sent = [], []
    for name, lengths in (("receive", received), ("send", sent)):
        call = getattr(gil_holding_io, name)
        monkeypatch.setattr(gil_holding_io, name, lambda *a, c=call, n=lengths: n.append(c(*a)) or n[-1])
    numbers = list(range(100_000))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # Connections inherit it.
    with doubling_server(listening_socket=listening, model=DoublingModel()) as (_, _, connect):
        clients = connected(connect, 5)
        assert not received and not sent
        busy = connect()
        busy.send(b"GET /gated HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connect().ask("/other", [0]).by == "Flask"  # So a thread serves the request before.
        for number, client in enumerate(clients):
            client.send(*(post("/model", [number, turn]) for turn in range(10)))
        gone = connect()
        gone.send(post("/model", [1])[:-2])
        gone.close()
        for number, client in enumerate(clients):
            answers = [json.loads(client.read().body) for turn in range(10)]
            assert answers == [[2 * number, 2 * turn] for turn in range(10)]
        large = connect().ask("/model", numbers)
        assert json.loads(large.body) == [2 * number for number in numbers]
        assert len(received) > 10 and len(sent) > 50 and 1000 < max(sent) < len(large.body)


def test_a_refused_request_behind_a_large_answer_does_not_block_the_loop():
    """The answer is beyond the high watermark, and the client does not read it."""
    rows = json.dumps([7] * 1_500_000).encode()
    with doubling_server(options={"outbuf_high_watermark": 1_000}, model=DoublingModel()) as (_, _, connect):
        client = connect()
        client.send(post("/model", rows), b"GET / HTTP/9.9\r\nHost: h\r\n\r\n")
        for _ in range(3):
            assert json.loads(connect().ask("/model", [1]).body) == [2]
        assert json.loads(client.read().body) == [14] * 1_500_000
        assert client.read().status == 505


def test_a_request_whose_client_does_not_wait_is_refused():
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        client = connect()
        client.ask("/model", [1])
        client.send(post("/model", [1], "X-Envoy-Expected-Rq-Timeout-Ms: 0"))
        assert client.read().status == 503


def test_expect_without_a_body_leaves_the_next_request_alone():
    with doubling_server(model=DoublingModel()) as (_, _, connect):
        client = connect()
        client.send(b"GET /livez HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nX-Mark: first\r\n\r\n")
        assert client.read().body == b"live"
        for _ in range(2):
            response = client.ask("/model", [1], "X-Direct: no")
            assert (response.status, response.headers["X-Mark"]) == (200, "")
