"""The server behind `flask serve`: a supervisor, an event loop, and an HTTP parser, on waitress's own classes."""
