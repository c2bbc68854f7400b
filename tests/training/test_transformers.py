"""Functions that stored pipelines name by module path."""

import pickle

import numpy as np
import pandas as pd

STORED = b"cflaskml.training.transformers\ndate_parts\n."
"""A pickle that names the function, as pipelines stored by every release do."""


def test_a_stored_pipeline_finds_its_function():
    date_parts = pickle.loads(STORED)
    frame = pd.DataFrame({"day": pd.to_datetime(["2024-01-31T12:00:00", None])})
    parts = date_parts(frame)
    assert parts.shape == (2, 4) and np.isnan(parts[1]).all()
    assert parts[0].tolist() == [1706702400.0, 1.0, 2.0, 12.0]
