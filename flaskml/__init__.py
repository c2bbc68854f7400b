"""A scikit-learn estimator behind a production HTTP endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

    from flaskml.inference.slot import ModelSlot
    from flaskml.publishing.publish import publish as publish


def create_app(config: Mapping[str, Any] | None = None, *, slot: ModelSlot | None = None) -> Flask:
    """The app with the active version of its model loaded into `app.extensions["model"]`.

    `config` holds settings under their capital names and wins over the environment and `instance/config.py`. `slot` is
    used instead of loading a model. With no intact model it still makes an app, whose predictions answer 503. It starts
    no thread and runs no prediction. Raises `InvalidSetting`.
    """
    from flaskml.blueprints import BLUEPRINTS
    from flaskml.hot_reload.registry import Registry
    from flaskml.hot_reload.roster import Roster
    from flaskml.hot_reload.watcher import Watcher
    from flaskml.inference.slot import describe_current
    from flaskml.publishing.publish import open_store, trial_limits
    from flaskml.server.start_line import name_model_in_startup_log
    from flaskml.training.jobs import Jobs
    from flaskml.web import setup as web
    from flaskml.web.lean import Lean

    settings, values = web.flask_settings(config)
    app = Lean(__name__, instance_path=str(settings.instance_path))
    app.config.update(values)

    store = open_store(settings)
    registry = Registry(store, trial_limits(settings), settings.max_rows)
    watcher = Watcher(Roster(settings.instance_path), registry.look, registry.refresh)  # What it sees is then loaded.
    slot = registry.adopt(slot) if slot else registry.expect(settings.model_name)
    for name in store.names():
        registry.expect(name)

    jobs = Jobs(settings, watcher.roster, published=watcher.compare)
    app.extensions.update(settings=settings, store=store, registry=registry, watcher=watcher, jobs=jobs)
    app.extensions.update(model=slot, models=registry.slots)

    app.url_map.converters.update(model_name=web.ModelNameConverter, version=web.VersionConverter)
    for blueprint in BLUEPRINTS:  # After the converters that their routes use.
        app.register_blueprint(blueprint)
    web.install_hooks(app)
    web.compile_templates(app)
    name_model_in_startup_log(lambda: describe_current(slot.current))
    return app


def __getattr__(name: str) -> Any:
    """`publish`, imported when it is first asked for: it brings scikit-learn's world with it."""
    if name == "publish":
        from flaskml.publishing.publish import publish

        return publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
