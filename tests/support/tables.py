"""A table with a column of every kind, and a row for its model."""

import numpy as np
import pandas as pd


def mixed_table(rows=300, seed=1):
    """Return a table with numbers, categories, booleans, texts and missing values, and a target derived from them."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, rows).round(1)
    city = rng.choice(["Oslo", "Rome", "São Paulo"], rows)
    table = pd.DataFrame(
        {
            "age": age,
            "rooms": rng.integers(1, 9, rows),
            "home city": city,
            "member": rng.random(rows) > 0.5,
            "note": [f"{word} case {number}" for number, word in enumerate(rng.choice(["good", "bad"], rows))],
            "empty": None,
            "sold": np.where(age + 5 * (city == "Rome") > 41, "yes", "no"),
        }
    )
    table.loc[::7, "age"] = np.nan
    table.loc[::11, "home city"] = None
    table.loc[::13, "note"] = None
    table.loc[::50, "sold"] = None
    return table


HOME = {"age": 33.5, "rooms": 4, "home city": "Rome", "member": True, "note": "good case"}
