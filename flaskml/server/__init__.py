"""The server of `flask serve`: supervisor, workers, event loop and HTTP parser, built on waitress's classes."""
