"""Values written as text: the fields of forms and of CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flaskml.schema.features import Feature, Value

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)

_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)

_BOOLEANS = {"true": True, "false": False}


def browser_field_names(name: str) -> Iterator[str]:
    """Yield the spellings of a field name that browsers send: line ends as CR LF, and line ends and quotes escaped.

    Browsers escape names in multipart forms only. Source:
    https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
    """
    for spelling in (name, re.sub("\r\n|\r|\n", "\r\n", name)):
        yield spelling
        yield spelling.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def parse_text_value(feature: Feature, text: str) -> Value:
    """Return the value of a text field. A text that is not a value is returned unchanged, and validation rejects it."""
    if text == "":
        # Without nulls in the training data, an empty text field is a text. An empty category field is one only if
        # the empty string is a known category.
        may_be_text = feature.kind == "text" or "" in (feature.categories or ())
        return text if may_be_text and not feature.nullable else None
    if feature.kind in ("category", "text") and not feature.is_whole:
        return text
    if feature.kind == "boolean":
        return _BOOLEANS.get(text.lower(), text)
    if feature.is_whole and _INTEGER.fullmatch(text):
        return int(text)
    if feature.kind == "datetime":
        return text
    return float(text) if _NUMBER.fullmatch(text) else text
