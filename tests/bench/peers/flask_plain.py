"""The app with a view of its user's own, which predicts nothing."""

from flask import Response, jsonify

from flaskml import create_app

app = create_app()


@app.get("/plain")
def plain() -> Response:
    """Answer a small object."""
    return jsonify(name="plain", value=0.5)
