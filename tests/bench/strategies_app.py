"""Five bare Flask apps that differ only in when they read their model, each served by waitress.

Run as `strategies_app.py STRATEGY FORMAT MODEL_FILE PORT`; scikit-learn is imported when the first model is read.
"""

import pickle
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import joblib
from flask import Flask, Response, jsonify, request
from waitress import serve

Reader = Callable[[], Any]


def read_model(model_format: str, path: Path) -> Any:
    """Read a model written with `pickle` or `joblib`."""
    if model_format == "joblib":
        return joblib.load(path)
    with path.open("rb") as file:
        return pickle.load(file)


def per_request(read: Reader) -> Reader:
    """Read the model from disk for each request."""
    return read


def lazy(read: Reader) -> Reader:
    """Read the model for the first request and keep it in a variable."""
    model: Any = None

    def get_model() -> Any:
        nonlocal model
        if model is None:
            model = read()
        return model

    return get_model


def preloaded(read: Reader) -> Reader:
    """Read the model when the app is made."""
    model = read()
    return lambda: model


def injected(read: Reader) -> Reader:
    """Give the view a cached provider of the model."""

    @lru_cache(maxsize=1)
    def get_model() -> Any:
        return read()

    return get_model


def singleton(read: Reader) -> Reader:
    """Keep the model in the only object of a class."""

    class Holder:
        instance: "Holder | None" = None
        model: Any

        def __new__(cls) -> "Holder":
            if cls.instance is None:
                cls.instance = super().__new__(cls)
                cls.instance.model = read()
            return cls.instance

    return lambda: Holder().model


STRATEGIES: dict[str, Callable[[Reader], Reader]] = {
    "per-request": per_request,
    "lazy": lazy,
    "preloaded": preloaded,
    "injected": injected,
    "singleton": singleton,
}


def make_app(strategy: str, model_format: str, path: Path) -> Flask:
    """Return an app that answers /ping, and /predict with the model's answer to one feature."""
    app = Flask(__name__)
    get_model = STRATEGIES[strategy](partial(read_model, model_format, path))

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    @app.post("/predict")
    def predict() -> Response:
        payload = request.get_json()
        return jsonify(prediction=get_model().predict([[payload["feature"]]]).tolist())

    return app


def count_opens(app: Flask) -> None:
    """Make the app answer /opens with the number of files this process has opened since now."""
    opened: list[object] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        # Appending is atomic, where adding to a number could lose one between two threads.
        if event == "open":
            opened.append(arguments[0])

    sys.addaudithook(note)
    app.add_url_rule("/opens", view_func=lambda: jsonify(opens=len(opened)), endpoint="opens")


def main(strategy: str, model_format: str, path: str, port: str) -> None:
    """Serve one of the apps on the loopback port."""
    app = make_app(strategy, model_format, Path(path))
    count_opens(app)
    serve(app, host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
