"""The parts of the app that the blueprints share; the first package that imports Flask."""
