"""The WSGI call of a request: waitress's task, which also passes the server's status to the app."""

from __future__ import annotations

from typing import Any

from waitress.task import WSGITask

from flaskml.server.policy import ENVIRON_KEY

MAX_JOINED_BYTES = 65_536
"""Bytes of the largest body that is copied behind its head and sent with it; a larger one is sent separately."""


class RequestTask(WSGITask):
    """A WSGI call as on `waitress-serve`, with the server's status in its environment.

    During a graceful shutdown, its response closes the connection. Head and body of a small response are sent at once:
    a system call less, after which the thread would wait for the GIL.
    """

    wrote_header = False

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment of the request."""
        environ: dict[str, Any] = super().get_environment()
        environ[ENVIRON_KEY] = self.channel.server.status
        environ["wsgi.multiprocess"] = self.channel.server.policy.is_multiprocess
        return environ

    def build_response_header(self) -> bytes:
        """Return the encoded head of the response."""
        is_last = self.channel.server.status.is_draining and self.channel.has_one_request
        if is_last or self.request.connection_close:
            self.set_close_on_finish()
        head: bytes = super().build_response_header()
        return head

    def write(self, data: bytes) -> None:
        """Write a part of the body, the first one with the head."""
        is_whole = self.complete and not self.wrote_header and self.content_length == len(data)
        if not is_whole or not self.has_body or not 0 < len(data) <= MAX_JOINED_BYTES:
            super().write(data)
            return
        head = self.build_response_header()
        self.wrote_header = True
        self.content_bytes_written = len(data)
        self.channel.write_soon(head + data)
