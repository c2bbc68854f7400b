"""The systemd unit and the nginx configuration in docs/ are valid, and nginx works as a proxy for both servers."""

import json
import re
import shutil
import socket
import subprocess
import time
from http.client import HTTPConnection

import pytest

from tests.support.checkout import CHECKOUT

SITE = CHECKOUT / "docs/nginx.conf"


def tool(name):
    program = shutil.which(name, path="/usr/sbin:/usr/bin:/bin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def test_systemd_accepts_the_unit():
    command = [tool("systemd-analyze"), "verify", str(CHECKOUT / "docs/flaskml.service")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_systemd_rejects_a_broken_unit(tmp_path):
    unit = tmp_path / "flaskml.service"
    unit.write_text((CHECKOUT / "docs/flaskml.service").read_text().replace("TimeoutStopSec=35", "TimeoutStop=35"))
    command = [tool("systemd-analyze"), "verify", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "TimeoutStop" in result.stderr


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def nginx(tmp_path):
    """Return a function that starts nginx as a proxy for a port and returns the port that nginx listens on."""
    running = []

    def start(upstream):
        port = free_port()
        site = (
            SITE.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{upstream}").replace("listen 80", f"listen {port}")
        )
        (tmp_path / "site.conf").write_text(site.replace(f"listen {port}", f"listen 127.0.0.1:{port}"))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        config = tmp_path / "nginx.conf"
        config.write_text(
            f"pid {tmp_path}/pid; error_log {tmp_path}/errors; daemon off; master_process off; events {{}}"
            f"http {{ access_log off; {folders} include {tmp_path}/site.conf; }}"
        )
        command = [tool("nginx"), "-c", str(config), "-e", str(tmp_path / "errors")]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        running.append(subprocess.Popen(command))
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return port
            except ConnectionRefusedError:
                assert running[-1].poll() is None
                time.sleep(0.02)

    yield start
    for process in running:
        process.terminate()
        process.wait()


def ask(connection, method, path, value=None):
    body = None if value is None else json.dumps(value)
    connection.request(method, path, body, {"Content-Type": "application/json", "Host": "models.example.org"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("server", ["flask serve", "waitress-serve"])
def test_requests_pass_through_nginx(nginx, serve, server):
    connection = HTTPConnection("127.0.0.1", nginx(serve(server).port), timeout=30)
    for _ in range(3):
        assert ask(connection, "POST", "/predict", {"feature": 0.5})[0] == 200
    assert ask(connection, "POST", "/predict", [{"feature": 0.5}] * 5_000)[0] == 200
    assert ask(connection, "POST", "/predict", {"feature": "x"})[0] == 422
    if server == "flask serve":  # Waitress removes the forwarding headers.
        status, problem = ask(connection, "POST", "/train", {"data": "regression"})
        assert status == 403 and "ADMIN_TOKEN_SHA256" in problem["detail"]
    connection.close()


def test_the_readme_links_both_files():
    linked = re.findall(r"\(docs/([\w.]+)\)", (CHECKOUT / "README.md").read_text())
    assert {"flaskml.service", "nginx.conf"} <= set(linked)
