"""The body formats of predictions: functions that encode rows, and return the body with its Content-Type."""

import csv
import io
import json
from urllib.parse import urlencode

import numpy as np
import pandas as pd


def in_json(value):
    """Return the JSON value of a table cell."""
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def in_text(value):
    """Return the text of a JSON value in a form or CSV."""
    return "" if value is None else str(value)


def rows_of(case):
    """Return the rows as lists of JSON values."""
    columns = [case.X.iloc[:, i] for i in range(case.X.shape[1])] if hasattr(case.X, "iloc") else list(case.X.T)
    return [list(row) for row in zip(*[[in_json(value) for value in column] for column in columns], strict=True)]


def as_object(names, rows):
    return json.dumps(dict(zip(names, rows[0], strict=True))), "application/json"


def as_array(names, rows):
    return json.dumps([dict(zip(reversed(names), reversed(row), strict=True)) for row in rows]), "application/json"


def as_instances(names, rows):
    return json.dumps({"instances": [dict(zip(names, row, strict=True)) for row in rows]}), "application/json"


def as_lists(names, rows):
    return json.dumps({"instances": rows}), "application/json"


def as_csv(names, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *([in_text(value) for value in row] for row in rows)])
    return "\ufeff" + text.getvalue(), "text/csv"


def as_form(names, rows):
    texts = [in_text(value) for value in rows[0]]
    return urlencode(list(zip(names, texts, strict=True))), "application/x-www-form-urlencoded"


def as_multipart(names, rows):
    # Names are escaped as in browsers: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
    escaped = [name.replace("\n", "%0A").replace('"', "%22") for name in names]
    parts = [
        f'--part\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{in_text(value)}\r\n'
        for name, value in zip(escaped, rows[0], strict=True)
    ]
    return "".join(parts) + "--part--\r\n", "multipart/form-data; boundary=part"


BATCH_FORMATS = (as_array, as_instances, as_lists, as_csv)

SINGLE_ROW_FORMATS = (as_object, as_form, as_multipart)
