"""The WSGI call of a request: waitress's task, which also tells the app about the server."""

from __future__ import annotations

from typing import Any

from waitress.task import WSGITask

from flaskml.server.policy import ENVIRON_KEY


class RequestTask(WSGITask):
    """A WSGI call as on `waitress-serve`, with the server's status in its environment.

    During a graceful shutdown, its response closes the connection.
    """

    def get_environment(self) -> dict[str, Any]:
        """Return the WSGI environment of the request."""
        environ: dict[str, Any] = super().get_environment()
        environ[ENVIRON_KEY] = self.channel.server.status
        return environ

    def build_response_header(self) -> bytes:
        """Return the encoded head of the response."""
        if self.channel.server.status.is_draining and self.channel.has_one_request:
            self.set_close_on_finish()
        head: bytes = super().build_response_header()
        return head
