"""Values that are written as text: the fields of forms and of CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flaskml.schema.features import Feature, Value

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)


_BOOLEANS = {"true": True, "false": False}


def browser_field_names(name: str) -> Iterator[str]:
    """The name as forms may have it: with line ends as CR LF, and in multipart with these and quotes escaped.

    Source: https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data
    """
    for ends in (name, re.sub("\r\n|\r|\n", "\r\n", name)):
        yield ends
        yield ends.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def parse_text_value(feature: Feature, text: str) -> Value:
    """The value that a text field stands for; a text that stands for none is returned as it is, to be refused."""
    if text == "":
        # Where training held no null, empty may be a text like others; as a category only if it is one of them.
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
