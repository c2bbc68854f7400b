"""An instance folder with two versions that answer no row alike."""

import numpy as np
from sklearn.linear_model import LinearRegression

from flaskml import publish

ROWS = np.geomspace(0.123456789, 987.654321, 32)[:, None]
"""Golden rows with digits that nothing else has. Their middle is none of them."""

OFFSETS = {"1": 0, "2": 1000}
"""The number that each version adds to its row, so that the answers tell the versions apart."""


def publish_two_versions(path):
    """Publish both versions into an instance folder."""
    for version, offset in OFFSETS.items():
        line = LinearRegression().fit(ROWS, ROWS[:, 0] + offset)
        assert publish(line, ROWS, instance_path=path, runtime="sklearn") == version
