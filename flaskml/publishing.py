"""The one way in: a fitted estimator becomes a stored version, and, if asked, the active one."""

from __future__ import annotations

from typing import Any

from flaskml.bundle import Facts, Manifest
from flaskml.store import Store


def publish_version(store: Store, name: str, estimator: Any, facts: Facts, *, reason: str) -> Manifest:
    """Stores the estimator as the next version of the model and makes it the active one.

    `reason` is what the history of activations will say. Raises `StorageFailed`, with nothing changed.
    """
    manifest = store.publish(name, estimator, facts)
    store.activate(name, manifest.version, reason)
    return manifest
