"""A scikit-learn estimator behind a production HTTP endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask

    from flaskml.model import ModelSlot


def create_app(config: Mapping[str, Any] | None = None, *, slot: ModelSlot | None = None) -> Flask:
    """The app with the active version of its model loaded into `app.extensions["model"]`.

    `config` holds settings under their capital names and wins over the environment and `instance/config.py`. `slot` is
    used instead of loading a model. With no intact model it still makes an app, whose predictions answer 503. It starts
    no thread and runs no prediction. Raises `InvalidSetting`.
    """
    from functools import partial

    from flask import Flask

    from flaskml import web
    from flaskml.blueprints import BLUEPRINTS
    from flaskml.model import Loader, describe
    from flaskml.serving.plain import announce
    from flaskml.store import Store
    from flaskml.training.jobs import Jobs

    settings, values = web.load_settings(config)
    app = Flask(__name__, instance_path=str(settings.instance_path))
    app.config.update(values)

    store = Store(settings.instance_path)
    loader = Loader(store, settings.max_rows)
    slot = slot or loader.load_slot(settings.model_name)
    jobs = Jobs(
        settings.instance_path,
        limit=settings.train_queue,
        timeout=settings.train_timeout,
        published=partial(loader.refresh, slot),
    )
    app.extensions.update(settings=settings, store=store, model=slot, jobs=jobs)

    app.url_map.converters["model_name"] = web.ModelNameConverter  # Before the routes that use it.
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    web.install(app)
    web.compile_templates(app)
    announce(lambda: describe(slot.current))
    return app
