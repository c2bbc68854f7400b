"""The parts of the app that all blueprints share; the first package that imports Flask."""
