"""An instance folder with two versions whose answers differ for every row."""

import numpy as np
from sklearn.linear_model import LinearRegression

from flaskml import publish

ROWS = np.geomspace(0.123456789, 987.654321, 32)[:, None]
"""Golden rows, shape (32, 1). Their digits occur nowhere else; the middle of their range holds none of them."""

OFFSETS = {"1": 0, "2": 1000}
"""The number that each version adds to its row, so that an answer identifies its version."""


def publish_two_versions(path):
    """Publish both versions into an instance folder; version 2 is active."""
    for version, offset in OFFSETS.items():
        line = LinearRegression().fit(ROWS, ROWS[:, 0] + offset)
        assert publish(line, ROWS, instance_path=path, runtime="sklearn") == version
