"""HTTP requests for parser tests: request smuggling attempts and other invalid ones, and unusual valid ones."""

CANARY = b"GET /canary HTTP/1.1\r\nHost: hh\r\n\r\n"
"""A request of 34 bytes that must never run: it is the body of a request, or follows a refused one."""

CHUNK = b"%x\r\n%b\r\n" % (len(CANARY), CANARY)
CHUNKED = b"Transfer-Encoding: chunked"
EXPECT = b"Expect: 100-continue"
TAIL = b"0\r\n\r\n"


def request(*headers, start=b"POST /a HTTP/1.1", host=b"Host: h", body=b""):
    """Return the bytes of a request."""
    lines = [start, *([host] if host else []), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def cases(status, kind, variants, build):
    """Return (status, request) by the name of the case, for each variant."""
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

INVALID_CODINGS = [
    b"chunked, chunked", b"chunked,chunked", b"chunked,", b",chunked", b"", b",", b"chunked\x0b", b"\x0bchunked",
    b"\x00chunked", b"chunked\r\nTransfer-Encoding: chunked", b"chunked\r\ntransfer-encoding: gzip",
    b"gzip\r\nTransfer-Encoding: chunked", b"chunked\r\n , identity", b"chunked\nX: y",
    b"chunked\r\nContent-Length: 34", b"chunked\r\nContent-Length: 0", b"gzip\r\nContent-Length: 34",
]  # fmt: skip

UNSUPPORTED_CODINGS = [
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
    **cases(400, "start", STARTS, lambda start: request(start=start)),
    **cases(400, "target", TARGETS, lambda target: request(start=b"GET %b HTTP/1.1" % target)),
    **cases(400, "line", LINES, lambda line: request(line, b"Content-Length: 34", body=CANARY)),
    **cases(400, "first line", LINES[:6], lambda line: request(host=line)),
    **cases(400, "host", HOSTS, lambda host: request(host=host)),
    **cases(400, "length", LENGTHS, lambda length: request(b"Content-Length: " + length, body=CANARY)),
    **cases(400, "coding", INVALID_CODINGS, lambda coding: request(b"Transfer-Encoding: " + coding, body=CHUNK + TAIL)),
    **cases(501, "coding", UNSUPPORTED_CODINGS,
            lambda coding: request(b"Transfer-Encoding: " + coding, body=CHUNK + TAIL)),
    **cases(400, "size", SIZES, lambda size: request(CHUNKED, body=size + b"\r\n" + CANARY + b"\r\n" + TAIL)),
    **cases(400, "second size", SIZES, lambda size: request(CHUNKED, body=CHUNK + size + b"\r\n" + CANARY + b"\r\n")),
    **cases(400, "chunks", CHUNK_BODIES, lambda body: request(CHUNKED, body=body)),
    **cases(505, "version", [b"0.9", b"0.0", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9"],
            lambda version: request(b"Content-Length: 34", start=b"POST /a HTTP/" + version, body=CANARY)),
    **cases(400, "lead", [b"\n", b"\r\n\n", b"\n\r\n", b"\r", b" ", b"\x00", b"\r\n ", b"\r\n" * 5, b"\r\n" * 1_000,
                             b"\x0b"],
            lambda lead: lead + request()),
    **cases(400, "1.0 with coding", [b"chunked", b"gzip", b"identity", b"chunked, chunked", b""],
            lambda coding: request(b"Connection: keep-alive", b"Transfer-Encoding: " + coding,
                                   start=b"POST /a HTTP/1.0", body=TAIL)),
    "length before coding": (400, request(b"Content-Length: 5", CHUNKED, body=TAIL)),
    "all lines end with a bare line feed": (400, request().replace(b"\r\n", b"\n")),
    "all lines end with a bare carriage return": (400, request().replace(b"\r\n", b"\r")),
    "HTTP/2 preface": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "CONNECT tunnel": (400, request(start=b"CONNECT h:80 HTTP/1.1")),
    "long target": (414, request(start=b"GET /%b HTTP/1.1" % (b"a" * 8_192))),
    "long header": (431, request(b"X: " + b"a" * 17_000)),
    "many headers": (431, request(*[b"X: 1"] * 4_000)),
    "long body": (413, request(b"Content-Length: 999999999999", body=CANARY)),
    "long body, expect continue": (413, request(EXPECT, b"Content-Length: 999999999999", body=CANARY)),
    "invalid length, expect continue": (400, request(EXPECT, b"Content-Length: +34", body=CANARY)),
    "unsupported coding, expect continue": (501, request(EXPECT, b"Transfer-Encoding: gzip", body=CANARY)),
}  # fmt: skip
"""Invalid requests by the name of the case: the status of the refusal, and the bytes sent."""

EMPTY = [b"/a "]
"""The response to `POST /a` with an empty body: the app answers with the path and the body."""

ECHOED = [b"/a " + CANARY]

ACCEPTED = {
    "plain": (EMPTY, request()),
    "lower-case field names": (EMPTY, request(b"x-one: 1", host=b"host: h")),
    "upper-case field names": (ECHOED, request(b"CONTENT-LENGTH: 34", host=b"HOST: h", body=CANARY)),
    "no space after the colon": (EMPTY, request(b"X:1", host=b"Host:h")),
    "many spaces": (EMPTY, request(b"X:" + b" " * 15_000 + b"1")),
    "many tabs and spaces": (EMPTY, request(b"X:" + b"\t " * 7_000 + b"1 \t" + b" " * 500)),
    "a length between spaces": (ECHOED, request(b"Content-Length: \t  34 \t", body=CANARY)),
    "an empty value": (EMPTY, request(b"X:", b"Y: ")),
    "a value with obs-text": (EMPTY, request(b"X: caf\xe9")),
    "a value with colons": (EMPTY, request(b"X: a:   b:  c")),
    "repeated header fields": (EMPTY, request(b"X: 1", b"X: 2", b"Accept: a", b"Accept: b")),
    "field names with underscores": (EMPTY, request(b"Content_Length: 34", b"Transfer_Encoding: chunked", b"X_Y: 1")),
    "an empty host": (EMPTY, request(host=b"Host:")),
    "host and port": (EMPTY, request(host=b"Host: h.example:8080")),
    "an IPv6 address as host": (EMPTY, request(host=b"Host: [::1]:80")),
    "absolute form": (EMPTY, request(start=b"POST http://h/a HTTP/1.1")),
    "absolute form in upper case": (EMPTY, request(start=b"POST HTTP://H/a?b HTTP/1.1")),
    "absolute form with https": (EMPTY, request(start=b"POST https://h/a HTTP/1.1")),
    "query": (EMPTY, request(start=b"POST /a?b=%00&c=?/:@[] HTTP/1.1")),
    "asterisk form": ([b"* "], request(start=b"OPTIONS * HTTP/1.1")),
    "an unusual method": (EMPTY, request(start=b"M-SEARCH /a HTTP/1.1")),
    "a long target": (EMPTY, request(start=b"POST /a?%b HTTP/1.1" % (b"a" * 8_000))),
    "no body": (EMPTY, request(b"Content-Length: 0")),
    "a body": (ECHOED, request(b"Content-Length: 34", body=CANARY)),
    "a length with leading zeros": (ECHOED, request(b"Content-Length: 000034", body=CANARY)),
    "a body, expect continue": (ECHOED, request(EXPECT, b"Content-Length: 34", body=CANARY)),
    "chunks": (ECHOED, request(CHUNKED, body=CHUNK + TAIL)),
    "unusual case and spaces in the coding": (ECHOED, request(b"tRANSFER-eNCODING:\t Chunked ", body=CHUNK + TAIL)),
    "many chunks": ([b"/a " + b"ab" * 500], request(CHUNKED, body=b"1\r\na\r\n1\r\nb\r\n" * 500 + TAIL)),
    "upper-case chunk sizes": ([b"/a " + b"a" * 10], request(CHUNKED, body=b"A\r\naaaaaaaaaa\r\n0\r\n\r\n")),
    "chunk sizes with leading zeros": (ECHOED, request(CHUNKED, body=b"000" + CHUNK + b"000\r\n\r\n")),
    "chunk extensions": (ECHOED,
                         request(CHUNKED, body=CHUNK.replace(b"\r\n", b";a;b=c;d=\"e; \\\"\"\r\n", 1) + TAIL)),
    "line breaks in chunk data": ([b"/a \r\n0\r\n\r\n"], request(CHUNKED, body=b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n")),
    "no chunks": (EMPTY, request(CHUNKED, body=TAIL)),
    "trailers": (ECHOED, request(CHUNKED, body=CHUNK + b"0\r\nX: 1\r\nContent-Length: 99\r\nHost: other\r\n\r\n")),
    "pipelined": (EMPTY * 20, request() * 20),
    "pipelined bodies": (ECHOED * 6,
                         (request(b"Content-Length: 34", body=CANARY) + request(CHUNKED, body=CHUNK + TAIL)) * 3),
    "empty lines before": (EMPTY, b"\r\n\r\n\r\n" + request()),
    "empty lines between": (EMPTY * 2, request() + b"\r\n" + request()),
    "an empty line after a body": (ECHOED + EMPTY, request(b"Content-Length: 34", body=CANARY) + b"\r\n" + request()),
    "HTTP/1.0 keep-alive": (EMPTY, request(b"Connection: keep-alive", start=b"POST /a HTTP/1.0", host=b"")),
    "HTTP/1.0 keep-alive with a body": (ECHOED, request(b"Connection: Keep-Alive", b"Content-Length: 34",
                                                        start=b"POST /a HTTP/1.0", host=b"", body=CANARY)),
    "unusual field names": (EMPTY, request(b"!#$%&'*+-.^`|~09az: 1")),
}  # fmt: skip
"""Valid requests by the name of the case: the bodies of the app's responses in order, and the bytes sent."""
