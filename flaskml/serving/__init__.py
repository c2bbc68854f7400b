"""How the app meets its server."""
