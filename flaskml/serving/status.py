"""What a server tells the app about itself."""

from __future__ import annotations

from dataclasses import dataclass

KEY = "flaskml.server"
"""Where in the WSGI environment it is found."""


@dataclass(slots=True)
class Status:
    """The present state of a server; it changes while requests are served."""

    draining: bool = False
    """Whether it is about to stop, and only finishes what it has accepted."""
