"""The live objects of the current app: slots, store, registry, roster, jobs, settings."""

from __future__ import annotations

from typing import cast

from flaskml.errors import (
    ModelNotFound,
)
from flaskml.hot_reload.registry import Registry
from flaskml.hot_reload.roster import Roster
from flaskml.inference.slot import ModelSlot
from flaskml.publishing.publish import trial_limits
from flaskml.publishing.trial import TrialLimits
from flaskml.settings import Settings
from flaskml.store.model_store import ModelStore
from flaskml.training.jobs import Jobs
from flaskml.web.lean import this_app


def default_slot() -> ModelSlot:
    """The slot of the default model."""
    return cast(ModelSlot, this_app().extensions["model"])


def current_store() -> ModelStore:
    """The store that the app serves from."""
    return cast(ModelStore, this_app().extensions["store"])


def current_registry() -> Registry:
    """The slots of this process."""
    return cast(Registry, this_app().extensions["registry"])


def current_roster() -> Roster:
    """The processes that serve the store."""
    return cast(Roster, this_app().extensions["watcher"].roster)


def current_trial_limits() -> TrialLimits:
    """What the trial of a version may take."""
    return trial_limits(current_settings())


def named_slot(name: str) -> ModelSlot:
    """The slot of a model. Raises `ModelNotFound`."""
    found = current_registry().slots.get(name)
    if found is None:
        raise ModelNotFound(name, sorted(current_registry().slots))
    return found


def current_jobs() -> Jobs:
    """The training jobs of this process."""
    return cast(Jobs, this_app().extensions["jobs"])


def current_settings() -> Settings:
    """The settings of the app."""
    return cast(Settings, this_app().extensions["settings"])
