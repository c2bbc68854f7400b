"""The app and request of a call, and the live objects of an app: slots, store, registry, watcher, jobs, settings.

A view calls `this_app` and `this_request` once and passes the app on: each access through Flask's proxies costs time.
"""

from __future__ import annotations

from typing import cast

from flask import Flask, Request, current_app, request

from flaskml.errors import ModelNotFound
from flaskml.hot_reload.registry import Registry
from flaskml.hot_reload.watcher import Watcher
from flaskml.inference.slot import ModelSlot
from flaskml.publishing.publish import trial_limits
from flaskml.publishing.trial import TrialLimits
from flaskml.settings import Settings
from flaskml.store.model_store import ModelStore
from flaskml.training.jobs import Jobs


def this_app() -> Flask:
    """Return the current app itself, not Flask's proxy of it."""
    return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]


def this_request() -> Request:
    """Return the current request itself, not Flask's proxy of it."""
    return cast(Request, request._get_current_object())  # type: ignore[attr-defined]


def default_slot(app: Flask) -> ModelSlot:
    """Return the slot of the default model."""
    return cast(ModelSlot, app.extensions["model"])


def named_slot(app: Flask, name: str) -> ModelSlot:
    """Return the slot of a model. Raises `ModelNotFound`."""
    slots = registry_of(app).slots
    slot = slots.get(name)
    if slot is None:
        raise ModelNotFound(name, sorted(slots))
    return slot


def store_of(app: Flask) -> ModelStore:
    """Return the store that the app serves from."""
    return cast(ModelStore, app.extensions["store"])


def registry_of(app: Flask) -> Registry:
    """Return the registry, which holds the slots of this process."""
    return cast(Registry, app.extensions["registry"])


def watcher_of(app: Flask) -> Watcher:
    """Return the watcher of this process; its roster lists the processes that serve the store."""
    return cast(Watcher, app.extensions["watcher"])


def jobs_of(app: Flask) -> Jobs:
    """Return the training jobs of this process."""
    return cast(Jobs, app.extensions["jobs"])


def settings_of(app: Flask) -> Settings:
    """Return the settings of the app."""
    return cast(Settings, app.extensions["settings"])


def trial_limits_of(app: Flask) -> TrialLimits:
    """Return the limits of a trial."""
    return trial_limits(settings_of(app))
