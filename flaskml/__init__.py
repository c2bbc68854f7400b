"""Serve scikit-learn estimators over HTTP in production."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

    from flaskml.inference.slot import ModelSlot
    from flaskml.publishing.publish import publish as publish


def create_app(config: Mapping[str, Any] | None = None, *, slot: ModelSlot | None = None) -> Flask:
    """Return the app, with the active version of its model loaded into `app.extensions["model"]`.

    `config` holds settings under their names in capitals; it overrides the environment, which overrides
    `instance/config.py`. `slot` is used instead of loading a model. Without an intact model the app starts too, and
    its predictions answer 503. The factory starts no thread and runs no prediction, so the app survives a fork. Raises
    `InvalidSetting`.
    """
    from flask import Flask

    from flaskml.blueprints import BLUEPRINTS
    from flaskml.hot_reload.registry import Registry
    from flaskml.hot_reload.roster import Roster
    from flaskml.hot_reload.watcher import Watcher
    from flaskml.inference.slot import describe_current
    from flaskml.publishing.publish import open_store, trial_limits
    from flaskml.server.startup_log import name_model_in_startup_log
    from flaskml.training.jobs import Jobs
    from flaskml.web import setup as web

    settings, values = web.flask_settings(config)
    app = Flask(__name__, instance_path=str(settings.instance_path))
    app.config.update(values)

    store = open_store(settings)
    registry = Registry(store, trial_limits(settings), settings.max_rows)
    # Before the first load: the watcher then notices every change during the load.
    watcher = Watcher(Roster(settings.instance_path), registry.fingerprint, registry.refresh)
    slot = registry.inject_slot(slot) if slot else registry.slot_for(settings.model_name)
    for name in store.names():
        registry.slot_for(name)

    jobs = Jobs(settings, watcher.roster, published=watcher.sync)
    app.extensions.update(settings=settings, store=store, registry=registry, watcher=watcher, jobs=jobs)
    app.extensions.update(model=slot, models=registry.slots)

    app.url_map.converters.update(model_name=web.ModelNameConverter, version=web.VersionConverter)
    for blueprint in BLUEPRINTS:  # After the converters, which the routes use.
        app.register_blueprint(blueprint)
    web.install_hooks(app)
    web.compile_templates(app)
    direct = app.extensions["direct"] = web.answer_predictions_directly(app, settings)
    name_model_in_startup_log(lambda: describe_current(slot.current), direct.describe)
    return app


def __getattr__(name: str) -> Any:
    """Return `publish`, imported on first access: its module imports scikit-learn."""
    if name == "publish":
        from flaskml.publishing.publish import publish

        return publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
