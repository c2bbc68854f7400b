"""The addresses of `flask serve`: ports, all addresses, Unix sockets, and messages for those not available."""

import grp
import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack, closing
from http.client import HTTPConnection

import pytest

from flaskml.errors import AddressUnavailable
from flaskml.server.addresses import open_tcp_sockets, open_unix_socket, url_of, without_ipv4_mapping
from tests.support.checkout import CHECKOUT
from tests.support.server_processes import children, start_server, wait_until


class UnixConnection(HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def unix_request(path, method, url, document=None):
    """Return status and document of the answer to a request over a Unix socket."""
    with closing(UnixConnection(path)) as connection:
        connection.request(method, url, json.dumps(document), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def opened():
    """Yield a function that opens the sockets of an address, which the fixture closes."""
    with ExitStack() as stack:

        def open_sockets(*arguments, **options):
            sockets = open_tcp_sockets(*arguments, **options)
            for sock in sockets:
                stack.enter_context(sock)
            return sockets

        yield open_sockets


def test_all_workers_listen_on_one_free_port(opened):
    ports = {sock.getsockname()[1] for sock in opened(3, "127.0.0.1", 0)}
    assert len(ports) == 1


def test_a_port_in_use_is_refused_unless_it_is_shared(opened):
    port = opened(2, "127.0.0.1", 0)[0].getsockname()[1]
    with pytest.raises(AddressUnavailable, match=r"another process listens there; .*--reuse-port"):
        opened(2, "127.0.0.1", port)
    assert len(opened(2, "127.0.0.1", port, shares_port=True)) == 2


def test_a_port_of_another_kind_of_server_is_refused_even_if_it_is_to_be_shared(opened):
    with socket.create_server(("127.0.0.1", 0)) as other:
        for shares_port in (False, True):
            with pytest.raises(AddressUnavailable, match="another process listens there"):
                opened(1, "127.0.0.1", other.getsockname()[1], shares_port=shares_port)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "this machine does not have that address"),
        ("no-such-host.invalid", 'there is no host "no-such-host.invalid"'),
    ],
)
def test_an_address_that_cannot_be_bound_is_an_error_with_its_reason(host, reason, opened):
    with pytest.raises(AddressUnavailable, match=reason):
        opened(1, host, 0)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("host", ["*", "::", ""])
def test_all_addresses_mean_ipv4_and_ipv6(host, count, opened):
    sockets = opened(count, host, 0)
    port = sockets[0].getsockname()[1]
    assert url_of(sockets[0]) == f"http://127.0.0.1:{port}"
    targets = ["127.0.0.1", "::1"] if sockets[0].family == socket.AF_INET6 else ["127.0.0.1"]
    for target in targets:
        with closing(socket.create_connection((target, port), timeout=5)):
            pass


@pytest.mark.parametrize(
    ("shown", "address"),
    [("::ffff:192.0.2.7", "192.0.2.7"), ("::1", "::1"), ("192.0.2.7", "192.0.2.7"), ("::ffff:0:1", "::ffff:0:1")],
)
def test_the_address_of_an_ipv4_client_is_shown_as_such(shown, address):
    assert without_ipv4_mapping(shown) == address


def test_a_unix_socket_has_its_mode_and_group(tmp_path):
    path = str(tmp_path / "s")
    group = grp.getgrgid(os.getgid()).gr_name
    with open_unix_socket(path, 0o660, group) as sock:
        status = os.stat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, os.getgid())
        assert url_of(sock) == f"unix:{path}"


def test_a_unix_socket_without_a_server_is_replaced_and_one_with_a_server_is_not(tmp_path):
    path = str(tmp_path / "s")
    open_unix_socket(path).close()
    with open_unix_socket(path), pytest.raises(AddressUnavailable, match="another process listens there"):
        open_unix_socket(path)


def test_a_file_in_the_place_of_a_unix_socket_stays(tmp_path):
    file = tmp_path / "s"
    file.write_text("precious")
    with pytest.raises(AddressUnavailable, match="a file that is not a socket"):
        open_unix_socket(str(file))
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "group", "reason"),
    [
        ("no-folder/s", None, "no such file or directory"),
        ("s", "no-such-group", 'there is no group "no-such-group"'),
        ("s" * 120, None, "at most 107 bytes"),
    ],
)
def test_a_unix_socket_that_cannot_be_made_is_an_error_with_its_reason(tmp_path, path, group, reason):
    with pytest.raises(AddressUnavailable, match=reason):
        open_unix_socket(str(tmp_path / path), group=group)


def test_a_second_server_on_the_same_port_does_not_start(serve):
    first = serve("flask serve", "--workers", "2")
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "serve", "--port", str(first.port)]
    second = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    expected = f"Error: Cannot listen on 127.0.0.1:{first.port}: another process listens there; "
    assert second.returncode == 1 and second.stderr.startswith(expected) and second.stderr.count("\n") == 1


def test_workers_share_a_unix_socket_on_which_the_state_may_be_changed(instance, tmp_path):
    path = str(tmp_path / "s")
    variables = {**os.environ, "FLASKML_INSTANCE_PATH": str(instance)}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "serve", "--workers", "2", "--unix-socket", path]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr.readline().rstrip().endswith("predictions are answered directly")
        assert len(children(process.pid)) == 2
        for _ in range(20):
            assert unix_request(path, "POST", "/predict", {"feature": 0.5})[0] == 200
        status, answer = unix_request(path, "PUT", "/models/default/active", {"version": "1"})
        assert (status, answer["serving"]) == (200, "1")
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stderr.close()
    assert not os.path.exists(path)


def test_a_server_on_all_addresses_prints_a_url_that_works_and_allows_changes_from_this_machine(instance):
    server = start_server(instance, "flask serve", "--host", "*", "--workers", "2")
    try:
        wait_until(lambda: "(all addresses of this machine)" in server.log)
        status, answer = server.json("PUT", "/models/default/active", {"version": "1"})
        assert status == 200, answer
    finally:
        server.stop()
