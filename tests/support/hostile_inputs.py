"""Hostile bodies, media types, queries and headers of prediction requests, each with the statuses that it may get."""

import csv
import gzip
import io
import itertools
import json
from dataclasses import dataclass, field

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from flaskml import publish
from tests.support.tables import HOME

JSON = "application/json"
CSV = "text/csv"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=f"


SENT = "Zanzibar"
"""A text in many inputs; terse errors must not repeat it."""

LARGE_BODY_BYTES = 2_000_000
"""Bytes of a body just below the limit."""

VISIT = {
    "when": "2024-01-05T12:00:00",
    "noted": "2024-01-05T12:00:00.123456789",
    "since": "2024-01-05T12:00:00+01:00",
    "grade": 2,
    "place": "é" * 3_000,
    **dict.fromkeys((f"m{number}" for number in range(60)), 0.5),
}
"""A row of the `visits` model, which has many features."""

GOOD = {"homes": (HOME, "no"), "visits": (VISIT, 1)}
"""A valid row for each model, and its prediction."""


@dataclass(frozen=True)
class Hostile:
    """A request and its expected status or statuses. A large body is a function, called when it is sent."""

    body: object
    status: int | tuple[int, ...]
    content_type: str | None = JSON
    query: str = ""
    headers: dict = field(default_factory=dict)
    model: str = "homes"

    @property
    def content(self):
        body = self.body() if callable(self.body) else self.body
        return body.encode() if isinstance(body, str) else body


def home(name="age", token="1"):
    """Return a valid row as JSON, with one value replaced by a raw JSON token."""
    return json.dumps(HOME | {name: "?"}).replace('"?"', token)


def long_home(name, token):
    return lambda: home(name, token())


def unknown_keys(count):
    return "{" + ",".join(f'"{number:x}":1' for number in range(count)) + "}"


def colliding_keys(count):
    """Return an object whose keys collide in a common hash function without a seed."""
    pairs = itertools.product(("Ez", "FY"), repeat=15)
    return "{" + ",".join(f'"{"".join(pair)}":1' for pair in itertools.islice(pairs, count)) + "}"


JSON_BODIES = {
    "an empty body": (b"", 400),
    "blanks": (lambda: b" " * LARGE_BODY_BYTES, 400),
    "a word": (SENT, 400),
    "a python literal": ("{'age': 1}", 400),
    "a comment": ("/* */ " + home(), 400),
    "two documents": (home() * 2, 400),
    "text after the document": (home() + SENT, 400),
    "a truncated document": (home()[:-9], 400),
    "commas": (lambda: "[" + "," * LARGE_BODY_BYTES, 400),
    "colons": (lambda: "{" + ":" * LARGE_BODY_BYTES, 400),
    "quotes": (lambda: '"' * LARGE_BODY_BYTES, 400),
    "backslashes": (lambda: '"' + "\\" * LARGE_BODY_BYTES, 400),
    "a string, unterminated": (lambda: '{"age": "' + "x" * LARGE_BODY_BYTES, 400),
    "a control character": (home("note", '"\n"'), 400),
    "a wrong escape": (home("note", '"\\x41"'), 400),
    "half an escape": (home("note", '"\\ud8"'), 400),
    "a byte order mark": (b"\xef\xbb\xbf" + home().encode(), 400),
    "utf-16": (home().encode("utf-16"), 400),
    "utf-16 without a mark": (home().encode("utf-16-le"), 400),
    "utf-32": (home().encode("utf-32"), 400),
    "latin-1": ('{"é": 1}'.encode("latin-1"), 400),
    "overlong utf-8": (home("note", '"?"').encode().replace(b"?", b"\xc0\xaf"), 400),
    "a surrogate in utf-8": (home("note", '"?"').encode().replace(b"?", b"\xed\xa0\x80"), 400),
    "beyond unicode": (home("note", '"?"').encode().replace(b"?", b"\xf4\x90\x80\x80"), 400),
    "nul bytes": (lambda: b"\0" * LARGE_BODY_BYTES, 400),
    "a nul after the document": (home() + "\0", 400),
    "gzip": (lambda: gzip.compress(home().encode()), 400),
    "lists in lists, unclosed": (lambda: "[" * LARGE_BODY_BYTES, 400),
    "lists in lists": (lambda: "[" * (LARGE_BODY_BYTES // 2) + "]" * (LARGE_BODY_BYTES // 2), 400),
    "objects in objects": (lambda: '{"a":' * 300_000 + "1" + "}" * 300_000, 400),
    "objects and lists": (lambda: '[{"instances":' * 100_000, 400),
    "instances in instances": (lambda: '{"instances":[' * 100_000 + "]}" * 100_000, 400),
    "nested as deep as pydantic allows": (home("note", "[" * 199 + "]" * 199), 422),
    "nested deeper than pydantic allows": (home("note", "[" * 500 + "]" * 500), 422),
    "nested in an unknown key": (home("note", '"x", "other": ' + "[" * 100_000 + "]" * 100_000), 400),
    "a number": ("5", 422),
    "a string": (f'"{SENT}"', 422),
    "null": ("null", 422),
    "true": ("true", 422),
    "a list of scalars": (f'[1, "{SENT}", null, true, NaN]', 422),
    "lists as rows": ("[[1, 2]]", 422),
    "no feature": ("{}", 422),
    "the wrong instances": ('{"instances": {}}', 422),
    "a billion instances": ('{"instances": 1000000000}', 422),
    "instances and more": ('{"instances": [], "more": 1}', 422),
    "instances twice": (f'{{"instances": [["{SENT}"]], "instances": []}}', 200),
    "instances of scalars": ('{"instances": [1, null, [], {}]}', 422),
    "a row of many values": (lambda: '{"instances": [[' + "1," * (LARGE_BODY_BYTES // 2 - 20) + "1]]}", 422),
    "empty lists as rows": (lambda: '{"instances": [' + "[]," * 600_000 + "[]]}", 413),
    "no row": ("[]", 200),
    "empty rows": (lambda: json.dumps([{}] * 10_000), 422),
    "one row too many": (lambda: json.dumps([{}] * 10_001), 413),
    "half a million rows": (lambda: "[" + "{}," * 500_000 + "{}]", 413),
    "a million scalars": (lambda: "[" + "1," * (LARGE_BODY_BYTES // 2 - 2) + "1]", 413),
    "as many valid rows as allowed": (lambda: json.dumps([HOME] * 10_000), 200),
    "an invalid row after many": (lambda: json.dumps([HOME] * 9_999 + [HOME | {"age": SENT}]), 422),
    "the same key twice": (home("age", '1, "age": 2'), 200),
    "the same key often": (lambda: "{" + '"age":1,' * 200_000 + home()[1:], 200),
    "many keys": (lambda: unknown_keys(180_000), 422),
    "many keys in many rows": (lambda: f"[{','.join([unknown_keys(100)] * 2_000)}]", 422),
    "all features and many unknown keys": (lambda: home()[:-1] + "," + unknown_keys(180_000)[1:], 422),
    "colliding keys": (lambda: colliding_keys(2**15), 422),
    "a long key": (lambda: json.dumps(HOME | {"k" * (LARGE_BODY_BYTES - 200): 1}), 422),
    "a long key of escapes": (lambda: json.dumps(HOME | {"\x01" * 300_000: 1}), 422),
    "an empty key": (json.dumps(HOME | {"": 1}), 422),
    "a nul in a key": (json.dumps(HOME | {"a\0": 1}), 422),
    "a lone surrogate as a key": (home("age", '1, "\\ud800": 1'), 422),
    "a key that is a python attribute": (home("age", f'1, "__class__": "{SENT}"'), 422),
    "a key like a feature": (home("age", f'1, "Age": "{SENT}"'), 422),
    "a key of another alphabet": (home("age", f'1, "аge": "{SENT}"'), 422),
    "NaN": (home("age", "NaN"), 422),
    "Infinity": (home("age", "Infinity"), 422),
    "-Infinity": (home("age", "-Infinity"), 422),
    "nan": (home("age", "nan"), 400),
    "1e999": (home("age", "1e999"), 422),
    "a long exponent": (long_home("age", lambda: "1e" + "9" * 1_000_000), 422),
    "a long negative exponent": (long_home("age", lambda: "1e-" + "9" * 1_000_000), 200),
    "many digits after the point": (long_home("age", lambda: "0." + "1" * 1_000_000), 200),
    "400 digits": (home("age", "9" * 400), 422),
    "5,000 digits": (home("rooms", "9" * 5_000), 422),
    "digits": (long_home("rooms", lambda: "9" * (LARGE_BODY_BYTES - 200)), 422),
    "digits in an unknown key": (long_home("rooms", lambda: '4, "other": ' + "9" * (LARGE_BODY_BYTES - 200)), 422),
    "many long numbers": (lambda: json.dumps([HOME | {"rooms": 10**399}] * 4_000), 422),
    "a large number": (home("age", "1.7e308"), 200),
    "a small number": (home("age", "5e-324"), 200),
    "minus zero": (home("age", "-0"), 200),
    "hexadecimal": (home("age", "0x10"), 400),
    "an underscore": (home("age", "1_000"), 400),
    "a leading zero": (home("age", "01"), 400),
    "a plus": (home("age", "+1"), 400),
    "arabic digits": (home("age", "٣"), 400),
    "a number in a string": (home("age", '"1.5"'), 422),
    "a text for a number": (home("age", f'"{SENT}"'), 422),
    "a list for a number": (home("age", f'["{SENT}"]'), 422),
    "an object for a number": (home("age", f'{{"{SENT}": 1}}'), 422),
    "true for a number": (home("rooms", "true"), 422),
    "a fraction for an integer": (home("rooms", "1.5"), 422),
    "more than 64 bits": (home("rooms", str(2**63)), 422),
    "64 bits": (home("rooms", str(2**63 - 1)), 200),
    "a float of more than 64 bits": (home("rooms", "1e300"), 422),
    "null for a number": (home("rooms", "null"), 422),
    "1 for a boolean": (home("member", "1"), 422),
    "true in a string": (home("member", '"true"'), 422),
    "a nul in a text": (home("note", '"\\u0000"'), 200),
    "a lone surrogate in a text": (home("note", '"\\ud800"'), 422),
    "a lone surrogate in a category": (home("home city", '"\\udfff"'), 422),
    "a lone surrogate for a number": (home("age", f'"{SENT}\\udfff"'), 422),
    "odd characters": (home("note", json.dumps("\u202e\u2028\ufeff\U0010ffff\x7f{{7*7}}%s{0}")), 200),
    "a text of combining marks": (long_home("note", lambda: '"' + "\u0301" * 100_000 + '"'), 200),
    "a long text": (long_home("note", lambda: json.dumps("x " * 50_000)), 200),
    "a text of many words": (long_home("note", lambda: json.dumps(" ".join(map(hex, range(11_000))))), 200),
    "a text that is too long": (long_home("note", lambda: json.dumps(SENT * 12_501)), 422),
    "the longest text": (long_home("note", lambda: json.dumps("x" * (LARGE_BODY_BYTES - 200))), 422),
    "an unknown category": (home("home city", f'"{SENT}"'), 200),
    "a long category": (long_home("home city", lambda: json.dumps(SENT * 10_000)), 200),
    "a category that is too long": (long_home("home city", lambda: json.dumps(SENT * 20_000)), 422),
    "long categories in many rows": (lambda: json.dumps([HOME | {"home city": SENT * 20}] * 5_000), 200),
    "too large": (lambda: b" " * (8 * 2**20 + 1), 413),
    "far too large": (lambda: b"[" * (16 * 2**20), 413),
}

TEXTS = {name: str(value) for name, value in HOME.items()}


def form(**change):
    return "&".join(f"{name}={value}" for name, value in (TEXTS | change).items()).replace(" ", "+")


TOO_MANY_FIELDS = (413, 422)
"""A form with more fields than the schema has features may be rejected before or after it is read."""

FORMS = {
    "an empty body": (b"", 422),
    "ampersands": (lambda: "&" * LARGE_BODY_BYTES, TOO_MANY_FIELDS),
    "equal signs": (lambda: "=" * LARGE_BODY_BYTES, TOO_MANY_FIELDS),
    "percent signs": (lambda: "%" * LARGE_BODY_BYTES, TOO_MANY_FIELDS),
    "pluses": (lambda: "+" * LARGE_BODY_BYTES, TOO_MANY_FIELDS),
    "a percent sign at the end": (form(note="%"), 200),
    "escaped bytes that are not UTF-8": (form(note="%ff%fe"), 200),
    "raw bytes that are not UTF-8": (form().encode() + b"\xff", 422),
    "a nul": (form(note="%00"), 200),
    "a lone surrogate": (form(age="%ed%a0%80"), 422),
    "thousands of fields": (lambda: "&".join(f"f{number}=1" for number in range(5_000)), TOO_MANY_FIELDS),
    "as many fields as fit": (lambda: "&".join(f"{number:x}=" for number in range(270_000)), TOO_MANY_FIELDS),
    "a field very often": (lambda: "age=1&" * 330_000, TOO_MANY_FIELDS),
    "a valid row and thousands of fields": (
        lambda: form() + "&" + "&".join(f"f{n}=1" for n in range(5_000)),
        TOO_MANY_FIELDS,
    ),
    "a field twice": (form() + f"&age={SENT}", 422),
    "a field without a name": (form() + f"&={SENT}", 422),
    "a name with brackets": (form() + f"&age[{SENT}][]=1", 422),
    "a long name": (lambda: form() + "&" + "n" * 1_000_000 + "=1", TOO_MANY_FIELDS),
    "a long value": (lambda: form(note="x" * 1_000_000), TOO_MANY_FIELDS),
    "a million digits": (lambda: form(age="9" * 1_000_000), TOO_MANY_FIELDS),
    "a million digits of an integer": (lambda: form(rooms="9" * 1_000_000), TOO_MANY_FIELDS),
    "a million digits and a letter": (lambda: form(age="1" * 1_000_000 + "x"), TOO_MANY_FIELDS),
    "nan": (form(age="nan"), 422),
    "inf": (form(age="-inf"), 422),
    "1e999": (form(age="1e999"), 422),
    "an underscore": (form(age="1_0"), 422),
    "hexadecimal": (form(age="0x10"), 422),
    "a comma": (form(age="1,5"), 422),
    "a space": (form(age="+1"), 422),
    "a line feed": (form(age="1%0A"), 422),
    "arabic digits": (form(rooms="%D9%A3"), 422),
    "superscript digits": (form(age="%C2%B2"), 422),
    "yes for a boolean": (form(member="yes"), 422),
    "a dotted capital": (form(member="%C4%B0"), 422),
    "a formula": (form(note="=1%2B1"), 200),
    "unclosed json": (lambda: "[" * LARGE_BODY_BYTES, 400),
    "a bracket after many blanks": (lambda: " " * (LARGE_BODY_BYTES - 1) + "[", 400),
}


def parts(*named, boundary="f"):
    """Return a multipart body of (headers, content) pairs."""
    body = "".join(f"--{boundary}\r\n{headers}\r\n\r\n{content}\r\n" for headers, content in named)
    return f"{body}--{boundary}--\r\n"


def part(name, content, more=""):
    return f'Content-Disposition: form-data; name="{name}"{more}', content


FIELDS = [part(name, text) for name, text in TEXTS.items()]
NOTELESS = FIELDS[:-1]

MULTIPARTS = {
    "an empty body": (b"", 422),
    "not multipart": (SENT, 422),
    "no end": (parts(*FIELDS)[:-9], 422),
    "only an end": ("--f--\r\n", 422),
    "unterminated headers of a part": (f"--f\r\nContent-Disposition: {SENT}", 422),
    "boundaries": (lambda: "--f\r\n" * 90_000, 422),
    "boundaries and more": (lambda: "--f\r\n" * 400_000, 413),
    "carriage returns": (lambda: parts(*FIELDS)[:-9] + "\r" * 400_000, 422),
    "line feeds": (lambda: parts(*FIELDS)[:-9] + "\n" * 400_000, 422),
    "blanks after a boundary": (lambda: "--f" + " " * 400_000, 422),
    "almost boundaries": (lambda: parts(*NOTELESS, part("note", "\r\n--" * 24_000)), 200),
    "a thousand parts": (lambda: parts(*[part(f"f{number}", "1") for number in range(1_000)]), 413),
    "tens of thousands of parts": (lambda: parts(*[part("age", "1")] * 30_000), 413),
    "a part too many": (parts(*FIELDS, part(SENT, "1")), 422),
    "two parts too many": (parts(*FIELDS, part(SENT, "1"), part("age", "1")), 413),
    "a part twice": (parts(*NOTELESS, part("age", SENT)), 422),
    "a long part": (lambda: parts(*NOTELESS, part("note", "x" * 1_000_000)), 413),
    "a part that is too long": (lambda: parts(*NOTELESS, part("note", SENT * 20_000)), 422),
    "multipart in multipart": (
        parts(
            *NOTELESS,
            (
                'Content-Disposition: form-data; name="note"\r\nContent-Type: multipart/mixed; boundary=g',
                parts(*FIELDS, boundary="g"),
            ),
        ),
        200,
    ),
    "multipart in multipart in multipart": (
        lambda: "".join(f"--f\r\nContent-Type: multipart/form-data; boundary={'f' * n}\r\n\r\n" for n in range(300)),
        422,
    ),
    "a file": (parts(*NOTELESS, part("note", SENT, f'; filename="{SENT}"')), 422),
    "a large file": (lambda: parts(part("note", "x" * (LARGE_BODY_BYTES - 200), '; filename="x"')), 422),
    "a file with a path": (parts(*NOTELESS, part("note", "x", '; filename="../../etc/passwd"')), 422),
    "a name, unterminated": (parts(*NOTELESS, ('Content-Disposition: form-data; name="note', SENT)), 422),
    "a part without a name": (parts(*FIELDS, ("Content-Disposition: form-data", SENT)), 422),
    "two parts without a name": (parts(*[("Content-Disposition: form-data", SENT)] * 2), 422),
    "a file without a name": (parts(*FIELDS, ('Content-Disposition: form-data; filename="x"', SENT)), 422),
    "a part without a disposition": (parts(*FIELDS, (f"X: {SENT}", "1")), 422),
    "a part without headers": (parts(*FIELDS, ("", SENT)), 422),
    "many headers": (lambda: parts(*FIELDS, ("X: 1\r\n" * 60_000 + "Y: 1", "1")), 422),
    "a folded header": (lambda: parts(*FIELDS, ("X: 1" + "\r\n " * 120_000, "1")), 422),
    "a header, unterminated": (lambda: parts(*FIELDS, ("X" * 400_000, "1")), 422),
    "a header that is not UTF-8": (parts(*FIELDS).encode("latin-1").replace(b"note", b"n\xff"), 422),
    "a disposition of many parameters": (lambda: parts(*FIELDS, part("x", "1", ";a=1" * 100_000)), 422),
    "a disposition of many continuations": (
        lambda: parts(*FIELDS, part("x", "1", "".join(f";a*{number}=1" for number in range(40_000)))),
        422,
    ),
    "a disposition of quotes": (lambda: parts(*FIELDS, part("x", "1", ';a="' + '\\"' * 200_000)), 422),
    "a disposition of semicolons": (lambda: parts(*FIELDS, part("x", "1", ";" * 400_000)), 422),
    "an encoded name": (parts(*NOTELESS, ("Content-Disposition: form-data; name*=utf-16''note", SENT)), 200),
    "an encoded surrogate": (parts(*FIELDS, ("Content-Disposition: form-data; name*=utf-8''%ed%a0%80", SENT)), 422),
    "a part in utf-16": (
        parts(
            *NOTELESS, ('Content-Disposition: form-data; name="note"\r\nContent-Type: text/plain; charset=utf-16', "x")
        ),
        200,
    ),
    "a part in base64": (
        parts(*NOTELESS, ('Content-Disposition: form-data; name="age"\r\nContent-Transfer-Encoding: base64', SENT)),
        422,
    ),
    "a part with a huge content-length": (
        parts(
            ('Content-Disposition: form-data; name="note"; filename="x"\r\nContent-Length: 99999999999999999999', SENT),
        ),
        422,
    ),
}


def table(*lines):
    return "\n".join([",".join(HOME), *lines])


GOOD_LINE = ",".join(TEXTS.values())


def quoted(*cells):
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


TABLES = {
    "an empty body": (b"", 400),
    "a byte order mark": (b"\xef\xbb\xbf", 400),
    "a byte order mark before a table": (b"\xef\xbb\xbf" + table(GOOD_LINE).encode(), 200),
    "utf-16": (table(GOOD_LINE).encode("utf-16"), 400),
    "utf-16 without a mark": (table(GOOD_LINE).encode("utf-16-le"), 422),
    "latin-1": (table(GOOD_LINE.replace("Rome", "é")).encode("latin-1"), 400),
    "bytes": (lambda: bytes(range(256)) * 1_000, 400),
    "gzip": (lambda: gzip.compress(table(GOOD_LINE).encode()), 400),
    "only a header": (table(), 200),
    "only a line feed": ("\n", 400),
    "blank lines": (lambda: table() + "\n" * LARGE_BODY_BYTES, 200),
    "blank lines before a table": (lambda: "\n" * LARGE_BODY_BYTES + table(GOOD_LINE), 400),
    "carriage returns": (lambda: table() + "\r" * LARGE_BODY_BYTES, 200),
    "commas": (lambda: "," * LARGE_BODY_BYTES, 422),
    "commas below a header": (lambda: table("," * (LARGE_BODY_BYTES - 200)), 422),
    "as many columns as fit": (lambda: ",".join(f"{number:x}" for number in range(300_000)), 422),
    "as many columns as fit, and a row": (
        lambda: ",".join(f"{number:x}" for number in range(200_000)) + "\n" + "1," * 199_999 + "1",
        422,
    ),
    "many columns in many rows": (
        lambda: ",".join(map(hex, range(200))) + ("\n" + "," * 199) * 9_000,
        422,
    ),
    "a column twice": (table().replace("note", "age") + f"\n{GOOD_LINE}", 422),
    "a column too many": (f"{','.join(HOME)},{SENT}\n{GOOD_LINE},1", 422),
    "a field too many": (table(f"{GOOD_LINE},{SENT}"), 422),
    "a field too few": (table("1,2"), 422),
    "one row too many": (lambda: table(*[GOOD_LINE] * 10_001), 413),
    "as many rows as allowed": (lambda: table(*[GOOD_LINE] * 10_000), 200),
    "an invalid row after many": (lambda: table(*[GOOD_LINE] * 9_999, GOOD_LINE.replace("33.5", SENT)), 422),
    "a million short rows": (lambda: table() + "\nx" * (LARGE_BODY_BYTES // 2 - 50), 413),
    "as many short rows as allowed": (lambda: table() + "\nx" * 10_000, 422),
    "a quote, unterminated": (table(f'"{SENT}'), 400),
    "an unclosed quote before many lines": (lambda: '"' + "x,\n" * 600_000, 400),
    "a quote in the middle": (table(f'1"{SENT}",2,3,4,5'), 422),
    "text after a quote": (table(f'"1"{SENT},2,3,4,5'), 400),
    "quotes": (lambda: '"' * LARGE_BODY_BYTES, 400),
    "an odd number of quotes": (lambda: '"' * (LARGE_BODY_BYTES - 1), 400),
    "a long field": (lambda: table(GOOD_LINE + "x" * 200_000), 400),
    "a field that is too long": (lambda: table(GOOD_LINE + "x" * 100_000), 422),
    "a long name": (lambda: "x" * 131_072 + "\n1", 422),
    "a long name of lines": (lambda: '"' + "\n" * 100_000 + '"\n1', 422),
    "a nul": (table(GOOD_LINE + "\0"), 200),
    "nuls": (lambda: b"\0" * LARGE_BODY_BYTES, 400),
    "a formula": (table(quoted(*list(TEXTS.values())[:-1], '=HYPERLINK("http://example.org")')), 200),
    "a formula for a number": (table(GOOD_LINE.replace("33.5", "=1+1")), 422),
    "NaN": (table(GOOD_LINE.replace("33.5", "NaN")), 422),
    "digits": (lambda: table(GOOD_LINE.replace("33.5", "9" * 100_000)), 422),
    "arabic digits": (table(GOOD_LINE.replace(",4,", ",٣,")), 422),
    "a mixture of line ends": (table(GOOD_LINE) + f"\r\r\n\n\r{GOOD_LINE}\r", 200),
    "odd line ends": (table(GOOD_LINE) + "\u2028\x0b\x0c\x1c\x85", 200),
    "semicolons": (table(GOOD_LINE).replace(",", ";"), 422),
}

MISSING_VALUES = {
    # All of many features are missing, and the body holds a large value instead.
    "many keys": lambda: unknown_keys(180_000),
    "numbers": lambda: '{"other": [' + "1," * 900_000 + "1]}",
    "objects": lambda: '{"other": [' + "{}," * 600_000 + "{}]}",
    "objects in a list of rows": lambda: '[{"other": [' + "{}," * 600_000 + "{}]}]",
    "objects in instances": lambda: '{"instances": [{"other": [' + "{}," * 600_000 + "{}]}]}",
    "objects in a list of values": lambda: '{"instances": [[[' + "{}," * 600_000 + "{}]]]}",
    "objects for each number": lambda: json.dumps(VISIT | {f"m{number}": [{}] * 8_000 for number in range(60)}),
}

DATETIMES = {
    "arabic digits": ("when", "٢٠٢٤-01-05", 422),
    "fullwidth digits": ("when", "２０２４-01-05", 422),
    "mathematical digits": ("since", "𝟚𝟘𝟚𝟜-01-05T12:00:00Z", 422),
    "the year 0": ("when", "0000-01-01", 422),
    "the year 1": ("when", "0001-01-01", 200),
    "the year 1, in UTC the year 0": ("since", "0001-01-01T00:00:00+23:59", 200),
    "the year 1 in nanoseconds": ("noted", "0001-01-01", 422),
    "the year 9999": ("when", "9999-12-31T23:59:59.999999", 200),
    "the year 9999, in UTC the year 10000": ("since", "9999-12-31T23:59:59-23:59", 422),
    "the year 9999 in nanoseconds": ("noted", "9999-12-31", 422),
    "the first nanosecond": ("noted", "1678-01-01", 200),
    "before the first nanosecond": ("noted", "1677-09-21", 422),
    "the last nanosecond": ("noted", "2261-12-31T23:59:59.999999999", 200),
    "after the last nanosecond": ("noted", "2262-04-12", 422),
    "the year 10000": ("when", "10000-01-01", 422),
    "a year before Christ": ("when", "-0001-01-01", 422),
    "a year with a sign": ("when", "+002024-01-05", 422),
    "a day that does not exist": ("when", "2023-02-29", 422),
    "an hour beyond 23": ("when", "2024-01-05T25:00", 422),
    "a leap second": ("when", "2024-06-30T23:59:60", 422),
    "an hour skipped by summer time": ("since", "2024-03-31T02:30:00+01:00", 200),
    "an offset beyond a day": ("since", "2024-01-05T12:00:00+99:99", 422),
    "an offset of 75 minutes": ("since", "2024-01-05T12:00:00+00:75", 422),
    "an offset of a day": ("since", "2024-01-05T12:00:00+24:00", 422),
    "an offset with seconds": ("since", "2024-01-05T12:00:00+01:00:01", 422),
    "an offset of minus zero": ("since", "2024-01-05T12:00:00-00:00", 200),
    "a lower case z": ("since", "2024-01-05T12:00:00z", 422),
    "no offset": ("since", "2024-01-05T12:00:00", 422),
    "an offset for a naive feature": ("when", "2024-01-05T12:00:00+01:00", 422),
    "ten digits of a second": ("when", "2024-01-05T12:00:00.1234567891", 422),
    "nine digits of a second": ("when", "2024-01-05T12:00:00.123456789", 200),
    "a comma": ("when", "2024-01-05T12:00:00,5", 422),
    "a week": ("when", "2024-W01-5", 422),
    "a date without hyphens": ("when", "20240105", 422),
    "now": ("when", "now", 422),
    "NaT": ("when", "NaT", 422),
    "an empty text": ("when", "", 422),
    "a blank": ("when", " 2024-01-05", 422),
    "a line feed": ("when", "2024-01-05\n", 422),
    "a nul": ("when", "2024-01-05\0", 422),
    "a lone surrogate": ("when", "\ud800", 422),
    "a long text": ("when", "2024-01-05" * 100_000, 422),
    "a number for a datetime": ("when", 1704456000, 422),
    "a large number for a datetime": ("when", 10**300, 422),
    "null": ("when", None, 422),
    "true for a category": ("grade", True, 422),
    "a float for a category": ("grade", 2.0, 200),
    "a fraction for a category": ("grade", 2.5, 422),
    "a text for a category": ("grade", "2", 422),
    "an unknown category": ("grade", 5, 422),
    "a negative category": ("grade", -1, 422),
    "a large category": ("grade", 10**300, 422),
    "a category with the hash of another": ("grade", 2 + 2**61 - 1, 422),
    "a list for a category": ("grade", [2], 422),
    "almost a long category": ("place", "é" * 2_999, 422),
    "a long category of lone surrogates": ("place", "\ud800" * 3_000, 422),
}


def visit_form(name, value):
    return "&".join(f"{key}={text}" for key, text in (VISIT | {name: value}).items()).replace("+", "%2B").encode()


JSON_TYPES = {
    "a charset": ("application/json; charset=utf-16", 200),
    "another charset": ("application/json; charset=" + SENT, 200),
    "a charset, unterminated": ('application/json; charset="utf-8', 200),
    "many parameters": ("application/json" + ";a=1" * 10_000, 200),
    "many semicolons": ("application/json" + ";" * 50_000, 200),
    "many quotes": ('application/json; a="' + '\\"' * 20_000, 200),
    "many pluses": ("application/" + "+" * 50_000 + "json", 200),
    "many slashes": ("/" * 50_000, 200),
    "capitals": ("APPLICATION/JSON", 200),
    "two types": ("text/plain, application/json", 200),
    "no type": (None, 200),
    "an empty type": ("", 200),
    "an archive": ("application/zip", 200),
    "a pickle": ("application/x-python-pickle", 200),
    "a letter beyond ASCII": ("application/\xe9", 200),
    "a csv in capitals": ("TEXT/CSV", 422),
    "a form": ("multipart/form-data; boundary=", 422),
    "a form with an odd boundary": ("multipart/form-data; boundary=\xe9", 422),
    "a form with a long boundary": ("multipart/form-data; boundary=" + "f" * 50_000, 422),
    "a form with a boundary of brackets": ('multipart/form-data; boundary="' + "(" * 20_000 + '"', 422),
    "a form with an encoded boundary": ("multipart/form-data; boundary*=utf-16''f", 422),
}

OTHER_TYPES = {
    "xml": ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "application/xml"),
    "a page": (f"<p>{SENT}</p>", "text/html"),
    "a pickle": (b"\x80\x04cos\nsystem\n.", "application/octet-stream"),
    "text": (SENT, "text/plain"),
    "a type, unterminated": (SENT, "text/"),
    "a long type": (SENT, "x/" + "y" * 50_000),
    "many parameters": (SENT, "x/y" + ";a=1" * 10_000),
}

QUERIES = {
    "an unknown method": ("method=nonsense", 422),
    "a method of python": ("method=__class__", 422),
    "a method that changes the model": ("method=fit", 422),
    "no method": ("method=", 422),
    "a long method": ("method=" + "x" * 50_000, 422),
    "a method that is not UTF-8": ("method=%ff%00%ed%a0%80", 422),
    "a method twice": ("method=predict_proba&method=fit", 200),
    "another key": ("methods=fit", 422),
    "many keys": ("&".join(f"{number:x}=1" for number in range(20_000)), 422),
    "ampersands": ("&" * 100_000, 200),
    "percent signs": ("%" * 50_000, 422),
    "top_k without a method": ("top_k=1", 422),
    "top_k of more classes than there are": ("method=predict_proba&top_k=999999", 200),
    **{
        f"top_k={count[:9]}": (f"method=predict_proba&top_k={count}", 422)
        for count in ("-1", "0", "1e99", "1.5", "", "NaN", "01", "%2B1", "1%0A", "%D9%A3", "9" * 10_000)
    },
}

HEADERS = {
    "no gzip data": ({"Content-Encoding": "gzip"}, 400),
    "no deflate data": ({"Content-Encoding": "deflate"}, 400),
    "an unknown encoding": ({"Content-Encoding": "x" * 50_000}, 415),
    "two encodings": ({"Content-Encoding": "gzip, gzip"}, 415),
    "an encoding that is not ASCII": ({"Content-Encoding": "\xff"}, 415),
    "odd quality values": ({"Accept": "text/csv;q=nan, application/json;q=1e999, */*;q=-1"}, 200),
    "only images accepted": ({"Accept": "image/png"}, 200),
    "many types accepted": ({"Accept": "a/b," * 10_000}, 200),
    "commas in accept": ({"Accept": "," * 50_000}, 200),
    "quotes in accept": ({"Accept": 'a/b;c="' + '\\"' * 20_000}, 200),
    "csv is accepted": ({"Accept": "text/csv"}, 200),
    "a host": ({"Host": "["}, 200),
    "a cookie": ({"Cookie": "a=" + ";" * 50_000}, 200),
    "a password": ({"Authorization": "Basic " + "=" * 50_000}, 200),
    "a range": ({"Range": "bytes=0-0", "If-None-Match": "*"}, 200),
}

HOSTILE = {
    **{f"json: {name}": Hostile(*row) for name, row in JSON_BODIES.items()},
    **{f"form: {name}": Hostile(*row, FORM) for name, row in FORMS.items()},
    **{f"multipart: {name}": Hostile(*row, MULTIPART) for name, row in MULTIPARTS.items()},
    **{f"csv: {name}": Hostile(*row, CSV) for name, row in TABLES.items()},
    **{
        f"datetime: {name}": Hostile(json.dumps(VISIT | {feature: value}), status, model="visits")
        for name, (feature, value, status) in DATETIMES.items()
    },
    **{f"missing values: {name}": Hostile(body, 422, model="visits") for name, body in MISSING_VALUES.items()},
    **{f"type of json: {name}": Hostile(home(), status, kind) for name, (kind, status) in JSON_TYPES.items()},
    **{f"type: {name}": Hostile(body, 415, kind) for name, (body, kind) in OTHER_TYPES.items()},
    **{f"query: {name}": Hostile(home(), status, query=query) for name, (query, status) in QUERIES.items()},
    **{f"header: {name}": Hostile(home(), status, headers=headers) for name, (headers, status) in HEADERS.items()},
    "form: a datetime of arabic digits": Hostile(visit_form("when", "٢٠٢٤-01-05"), 422, FORM, model="visits"),
    "form: an offset beyond a day": Hostile(visit_form("since", "2024-01-05T12:00+99:99"), 422, FORM, model="visits"),
    "form: an integer category": Hostile(visit_form("grade", "2"), 200, FORM, model="visits"),
    "form: a fraction for a category": Hostile(visit_form("grade", "2.5"), 422, FORM, model="visits"),
    **{
        f"page: {name}": Hostile(*row, kind, headers={"Accept": "text/html"})
        for kind, table in ((FORM, FORMS), (MULTIPART, MULTIPARTS))
        for name, row in table.items()
    },
    "json: gzip": Hostile(lambda: gzip.compress(home().encode()), 200, headers={"Content-Encoding": "gzip"}),
    "json: a gzip bomb": Hostile(lambda: gzip.compress(b" " * 10**8), 413, headers={"Content-Encoding": "gzip"}),
    "csv: a gzip bomb": Hostile(lambda: gzip.compress(b"," * 10**8), 413, CSV, headers={"Content-Encoding": "gzip"}),
}


def visits():
    """Return a table of datetimes of three dtypes, integer categories, categories of long names, and many numbers."""
    days = pd.Series(pd.date_range("2024-01-01", periods=40, freq="12h")).dt.as_unit("us")
    return pd.DataFrame(
        {
            "when": days,
            "noted": days.dt.as_unit("ns"),
            "since": days.dt.tz_localize("Europe/Oslo"),
            "grade": pd.Categorical([1, 2, 3, 4] * 10),
            "place": pd.Categorical(["é" * 3_000, "è" * 3_000] * 20),
            **dict.fromkeys((f"m{number}" for number in range(60)), [0.0, 1.0] * 20),
        }
    )


def publish_visits(path):
    """Publish the `visits` model into an instance folder."""
    encode = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["when", "since", "grade"]))
    frame = visits()
    publish(
        make_pipeline(encode, LogisticRegression()).fit(frame, [0, 1] * 20), frame, name="visits", instance_path=path
    )
