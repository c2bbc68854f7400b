"""The WSGI entry point: `waitress-serve wsgi:app`."""

from flaskml import create_app

app = create_app()
