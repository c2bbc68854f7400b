"""The system calls that keep the GIL, on a pair of connected sockets."""

import socket
from contextlib import closing

import pytest

from flaskml.server.gil_holding_io import MAX_RECEIVED_BYTES, receive, send


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with closing(one), closing(other):
        yield one, other


@pytest.mark.parametrize("data", [b"a", b"\0\0b\0", bytes(range(256)) * 100])
def test_bytes_arrive_unchanged(pair, data):
    one, other = pair
    assert send(one.fileno(), data) == len(data)
    assert receive(other.fileno()) == data


def test_without_arrived_bytes_nothing_is_received(pair):
    one, other = pair
    assert receive(other.fileno()) == b""
    assert send(one.fileno(), b"") == 0 and receive(other.fileno()) == b""


def test_a_call_receives_a_limited_number_of_bytes_and_the_next_call_the_others(pair):
    one, other = pair
    data = bytes(range(256)) * (MAX_RECEIVED_BYTES // 256) + b"rest"
    one.sendall(data)
    assert receive(other.fileno()) == data[:-4] and receive(other.fileno()) == b"rest"


def test_bytes_that_a_closed_peer_sent_are_received(pair):
    one, other = pair
    one.sendall(b"last")
    one.close()
    assert receive(other.fileno()) == b"last" and receive(other.fileno()) == b""


def test_nothing_is_sent_to_a_closed_peer(pair):
    one, other = pair
    other.close()
    assert send(one.fileno(), b"lost") == 0


def test_a_full_send_buffer_takes_a_part_and_then_nothing(pair):
    one, other = pair
    data = bytes(2**24)
    sent = send(one.fileno(), data)
    assert 0 < sent < len(data)
    while count := send(one.fileno(), data):
        sent += count
    received = 0
    while part := receive(other.fileno()):
        received += len(part)
    assert received == sent and send(one.fileno(), b"a") == 1


def test_a_descriptor_that_is_no_socket_gives_and_takes_nothing(tmp_path):
    with (tmp_path / "file").open("w+b") as file:
        assert receive(file.fileno()) == b"" and send(file.fileno(), b"a") == 0
    assert receive(-1) == b"" and send(-1, b"a") == 0
