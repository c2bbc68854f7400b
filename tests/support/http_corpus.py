"""Requests that two servers could read differently, or that are hostile, and odd ones that are right."""

CANARY = b"GET /canary HTTP/1.1\r\nHost: hh\r\n\r\n"
"""What must never run, of 34 bytes: the body of another request, or what comes after one that is refused."""

CHUNK = b"%x\r\n%b\r\n" % (len(CANARY), CANARY)
CHUNKED = b"Transfer-Encoding: chunked"
TAIL = b"0\r\n\r\n"


def request(*headers, start=b"POST /a HTTP/1.1", host=b"Host: h", body=b""):
    lines = [start, *([host] if host else []), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def named(status, kind, variants, build):
    return {f"{kind} {variant!r:.60}": (status, build(variant)) for variant in variants}


STARTS = [
    b"GET /a", b"GET /a HTTP/1", b"GET /a HTTP/1.10", b"GET /a HTTP/01.1", b"GET /a HTTP/1.1 ", b"GET /a HTTP/1.1\t",
    b"GET /a http/1.1", b"GET /a HTTP/1,1", b"GET /a HTTPS/1.1", b"GET /a HTTP/1.1x", b"GET /a HTTP/ 1.1",
    b"GET /a HTTP/", b"GET /a HTTP", b"GET  /a HTTP/1.1", b"GET /a  HTTP/1.1", b"GET\t/a HTTP/1.1", b"GET /a\tHTTP/1.1",
    b"GET /a\x0bHTTP/1.1", b" GET /a HTTP/1.1", b"\tGET /a HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /a HTTP/1.1 HTTP/1.1",
    b"get /a HTTP/1.1", b"G(T /a HTTP/1.1", b"GET: /a HTTP/1.1", b"GET HTTP/1.1", b"/a HTTP/1.1", b"HTTP/1.1 200 OK",
    b"nonsense", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00GET /a HTTP/1.1",
]  # fmt: skip

TARGETS = [
    b"a", b"?a", b"h:80", b"*", b"\\a", b"/a\x00b", b"/a\x01b", b"/a\x7fb", b"/a\x80b", b"/\xc3\xa9", b"/a\nb",
    b"/a\rb",    b"/%00", b"/a%00b?c", b"/a#b", b"#", b"ftp://h/a", b"file:///a", b"http:///a", b"http:/a",
    b"http://other/a",
    b"http://u@h/a", b"http://h:81/a", b"http://h/a#b", b"http://h\\a", b"javascript:a",
]  # fmt: skip

LINES = [
    b"X : 1", b"X\t: 1", b" X: 1", b"\tX: 1", b"X: 1\r\n folded", b"X: 1\r\n\tfolded", b"X: 1\r\n ", b": 1", b"X",
    b"X 1",
    b"X\x00: 1", b"X: \x00", b"X: a\x01b", b"X: a\x7fb", b"X: a\x0bb", b"X: a\x0cb", b"X: \x1b[31m", b"X\x7f: 1",
    b"X\xe9: 1", b"X: a\nY: b", b"X: a\rY: b", b"X: a\n", b"X: a\r", b"\nX: a", b"X(: 1", b'X": 1', b"X/: 1", b"X@: 1",
    b"X[: 1", b"{X: 1", b"X,Y: 1", b"X;Y: 1", b"X=Y: 1", b"\xa0X: 1", b"Content-Length : 5",
    b"Transfer-Encoding : chunked",
    b"Content-Length: 3\r\n 4", b"Transfer-Encoding:\r\n chunked", b"X: a\nTransfer-Encoding: chunked",
    b"X: a\rContent-Length: 34", b"X: a\x00\r\nContent-Length: 34", b"Content-Type: a\r\nContent-Type: a",
    b"Content-Type: a\r\ncontent-type: b",
]  # fmt: skip

HOSTS = [
    b"", b"Host: h\r\nHost: h", b"Host: h\r\nHost: other", b"Host: h\r\nHOST: other", b"host: h\r\nX: 1\r\nhost: h",
    b"Host: h, other", b"Host: h,other", b"Host: h other", b"Host: h/a", b"Host: u@h", b'Host: "h"', b"Host: h?a",
    b"Host: h#a", b"Host: h\\a", b"Host: <h>", b"Host: h\xe9", b"Host : h",
]  # fmt: skip

LENGTHS = [
    b"+34", b"-34", b"-0", b"0x22", b"3 4", b"34,34", b"34, 34", b"", b"\t", b"five", b"34.0", b"34;", b"3e1", b"\xb2",
    b"3_4", b'"34"', b"9" * 19, b"9" * 5_000, b"\x0b34", b"34\x00", b"34\r\nContent-Length: 34",
    b"34\r\nContent-Length: 0", b"0\r\ncontent-length: 34", b"34\r\nX: 1\r\nCONTENT-LENGTH: 35",
]  # fmt: skip

FAULTY_CODINGS = [
    b"chunked, chunked", b"chunked,chunked", b"chunked,", b",chunked", b"", b",", b"chunked\x0b", b"\x0bchunked",
    b"\x00chunked", b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\ntransfer-encoding: gzip",
    b"gzip\r\nTransfer-Encoding: chunked", b"chunked\r\n , identity", b"chunked\nX: y",
    b"chunked\r\nContent-Length: 34", b"chunked\r\nContent-Length: 0", b"gzip\r\nContent-Length: 34",
]  # fmt: skip

OTHER_CODINGS = [
    b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"identity, chunked", b"chunked, identity", b"xchunked",
    b"chunkedx", b"chunked;q=1", b'"chunked"', b"chun ked", b"deflate", b"chunked chunked", b"\xe9chunked",
]  # fmt: skip

SIZES = [
    b"+22", b"-22", b"0x22", b"22 ", b" 22", b"22\t", b"", b"g", b"2g", b"2_2", b"2 2", b"2.2", b"22;", b"22;;",
    b"22;=a",
    b"22; a", b"22 ;a", b"22;a b", b"22;a=", b'22;a="', b'22;a="b"c', b"22;a\x00", b'22;a="\x00"', b"22;a=b\x0b",
    b"22,a",
    b"22\n", b"\n22", b"22\r", b"22;a\nb", b"22;a=b\n0", b"0" * 15 + b"22", b"F" * 17, b"22;" + b"a" * 1_100,
    b"22" + b";a" * 600, b"0" * 3_000, b"\xb2",
]  # fmt: skip

CHUNK_BODIES = [
    b"3\r\nhello\r\n", b"6\r\nhello\r\n", b"5\r\nhello\n", b"5\r\nhello\r", b"5\r\nhello", b"5\r\nhello\n\r\n",
    b"5\nhello\r\n", b"5\r\n\r\nhello\r\n", b"5\r\nhello\r\n\r\n", b"0\n\n", b"0\r\n\n", b"0\r\nX\r\n\r\n",
    b"0\r\nX y\r\n\r\n",
    b"0\r\n X: y\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nX: \x00\r\n\r\n", b"0\r\nX: y\nZ: z\r\n\r\n",
    b"0\r\n: y\r\n\r\n",
    b"0\r\nX: " + b"y" * 1_100 + b"\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 2_000 + b"\r\n",
]  # fmt: skip

REFUSED = {
    **named(400, "start", STARTS, lambda start: request(start=start)),
    **named(400, "target", TARGETS, lambda target: request(start=b"GET %b HTTP/1.1" % target)),
    **named(400, "line", LINES, lambda line: request(line, b"Content-Length: 34", body=CANARY)),
    **named(400, "first line", LINES[:6], lambda line: request(host=line)),
    **named(400, "host", HOSTS, lambda host: request(host=host)),
    **named(400, "length", LENGTHS, lambda length: request(b"Content-Length: " + length, body=CANARY)),
    **named(400, "coding", FAULTY_CODINGS, lambda coding: request(b"Transfer-Encoding: " + coding, body=CHUNK + TAIL)),
    **named(501, "coding", OTHER_CODINGS, lambda coding: request(b"Transfer-Encoding: " + coding, body=CHUNK + TAIL)),
    **named(400, "size", SIZES, lambda size: request(CHUNKED, body=size + b"\r\n" + CANARY + b"\r\n" + TAIL)),
    **named(400, "second size", SIZES, lambda size: request(CHUNKED, body=CHUNK + size + b"\r\n" + CANARY + b"\r\n")),
    **named(400, "chunks", CHUNK_BODIES, lambda body: request(CHUNKED, body=body)),
    **named(505, "version", [b"0.9", b"0.0", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9"],
            lambda version: request(b"Content-Length: 34", start=b"POST /a HTTP/" + version, body=CANARY)),
    **named(400, "lead", [b"\n", b"\r\n\n", b"\n\r\n", b"\r", b" ", b"\x00", b"\r\n ", b"\r\n" * 5, b"\r\n" * 1_000,
                             b"\x0b"],
            lambda lead: lead + request()),
    **named(400, "1.0 and coding", [b"chunked", b"gzip", b"identity", b"chunked, chunked", b""],
            lambda coding: request(b"Connection: keep-alive", b"Transfer-Encoding: " + coding,
                                   start=b"POST /a HTTP/1.0", body=TAIL)),
    "length before coding": (400, request(b"Content-Length: 5", CHUNKED, body=TAIL)),
    "all lines end with a bare line feed": (400, request().replace(b"\r\n", b"\n")),
    "all lines end with a bare carriage return": (400, request().replace(b"\r\n", b"\r")),
    "preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "tunnel": (400, request(start=b"CONNECT h:80 HTTP/1.1")),
    "long target": (414, request(start=b"GET /%b HTTP/1.1" % (b"a" * 8_192))),
    "long header": (431, request(b"X: " + b"a" * 17_000)),
    "many headers": (431, request(*[b"X: 1"] * 4_000)),
    "long body": (413, request(b"Content-Length: 999999999999", body=CANARY)),
    "long body, expecting": (413, request(b"Expect: 100-continue", b"Content-Length: 999999999999", body=CANARY)),
    "odd length, expecting": (400, request(b"Expect: 100-continue", b"Content-Length: +34", body=CANARY)),
    "odd coding, expecting": (501, request(b"Expect: 100-continue", b"Transfer-Encoding: gzip", body=CANARY)),
}  # fmt: skip
"""The status that each is refused with, and what is sent."""

A = [b"/a "]
ASKED = [b"/a " + CANARY]

RIGHT = {
    "plain": (A, request()),
    "lower-case names": (A, request(b"x-one: 1", host=b"host: h")),
    "upper-case names": (ASKED, request(b"CONTENT-LENGTH: 34", host=b"HOST: h", body=CANARY)),
    "no space": (A, request(b"X:1", host=b"Host:h")),
    "many spaces": (A, request(b"X:" + b" " * 15_000 + b"1")),
    "many tabs and spaces": (A, request(b"X:" + b"\t " * 7_000 + b"1 \t" + b" " * 500)),
    "a length with spaces around": (ASKED, request(b"Content-Length: \t  34 \t", body=CANARY)),
    "an empty value": (A, request(b"X:", b"Y: ")),
    "an old value": (A, request(b"X: caf\xe9")),
    "a value with colons": (A, request(b"X: a:   b:  c")),
    "repeated headers": (A, request(b"X: 1", b"X: 2", b"Accept: a", b"Accept: b")),
    "names with underscores": (A, request(b"Content_Length: 34", b"Transfer_Encoding: chunked", b"X_Y: 1")),
    "no name of a host": (A, request(host=b"Host:")),
    "host and port": (A, request(host=b"Host: h.example:8080")),
    "an address": (A, request(host=b"Host: [::1]:80")),
    "absolute": (A, request(start=b"POST http://h/a HTTP/1.1")),
    "absolute, oddly written": (A, request(start=b"POST HTTP://H/a?b HTTP/1.1")),
    "absolute, secure": (A, request(start=b"POST https://h/a HTTP/1.1")),
    "query": (A, request(start=b"POST /a?b=%00&c=?/:@[] HTTP/1.1")),
    "asterisk": ([b"* "], request(start=b"OPTIONS * HTTP/1.1")),
    "another method": (A, request(start=b"M-SEARCH /a HTTP/1.1")),
    "a long target": (A, request(start=b"POST /a?%b HTTP/1.1" % (b"a" * 8_000))),
    "no body": (A, request(b"Content-Length: 0")),
    "a body": (ASKED, request(b"Content-Length: 34", body=CANARY)),
    "a length with zeros": (ASKED, request(b"Content-Length: 000034", body=CANARY)),
    "a body, expected": (ASKED, request(b"Expect: 100-continue", b"Content-Length: 34", body=CANARY)),
    "chunks": (ASKED, request(CHUNKED, body=CHUNK + TAIL)),
    "chunks, oddly written": (ASKED, request(b"tRANSFER-eNCODING:\t Chunked ", body=CHUNK + TAIL)),
    "many chunks": ([b"/a " + b"ab" * 500], request(CHUNKED, body=b"1\r\na\r\n1\r\nb\r\n" * 500 + TAIL)),
    "upper-case sizes": ([b"/a " + b"a" * 10], request(CHUNKED, body=b"A\r\naaaaaaaaaa\r\n0\r\n\r\n")),
    "sizes with zeros": (ASKED, request(CHUNKED, body=b"000" + CHUNK + b"000\r\n\r\n")),
    "extensions": (ASKED, request(CHUNKED, body=CHUNK.replace(b"\r\n", b";a;b=c;d=\"e; \\\"\"\r\n", 1) + TAIL)),
    "line ends in chunks": ([b"/a \r\n0\r\n\r\n"], request(CHUNKED, body=b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n")),
    "no chunk": (A, request(CHUNKED, body=TAIL)),
    "trailers": (ASKED, request(CHUNKED, body=CHUNK + b"0\r\nX: 1\r\nContent-Length: 99\r\nHost: other\r\n\r\n")),
    "pipelined": (A * 20, request() * 20),
    "pipelined bodies": (ASKED * 6,
                          (request(b"Content-Length: 34", body=CANARY) + request(CHUNKED, body=CHUNK + TAIL)) * 3),
    "empty lines before": (A, b"\r\n\r\n\r\n" + request()),
    "empty lines between": (A * 2, request() + b"\r\n" + request()),
    "a line end after a body": (ASKED + A, request(b"Content-Length: 34", body=CANARY) + b"\r\n" + request()),
    "old and kept": (A, request(b"Connection: keep-alive", start=b"POST /a HTTP/1.0", host=b"")),
    "old with a body": (ASKED, request(b"Connection: Keep-Alive", b"Content-Length: 34",
                                       start=b"POST /a HTTP/1.0", host=b"", body=CANARY)),
    "odd names": (A, request(b"!#$%&'*+-.^`|~09az: 1")),
}  # fmt: skip
"""What the app answers to each, one after the other, and what is sent."""
